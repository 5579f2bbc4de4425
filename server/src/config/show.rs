//! `--print-config`: the settings as TOML, each with its source.

use std::fmt::Write;

use figment::value::Value;

use super::load::{Loaded, keys, origin};

/// What the names of settings end with whose value is never printed.
const SECRETS: [&str; 2] = ["jwt_secret", "secret_access_key"];

/// One setting as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its dotted name.
    pub name: String,
    /// Its value as text; never a secret.
    pub value: String,
    /// Where it was set.
    pub source: String,
}

impl Loaded {
    /// All settings in the order of their names. Secrets are not shown.
    pub fn settings(&self) -> Vec<Shown> {
        let shown = |name: String| {
            let value = match self.shown(&name) {
                Value::String(_, text) => text,
                other => serde_json::to_string(&other).unwrap_or_default(),
            };
            let source = origin(&self.figment, &name);
            Shown { name, value, source }
        };
        keys(&self.config).into_iter().map(shown).collect()
    }

    /// The settings as TOML, with the source of each value in a comment.
    pub fn show(&self) -> String {
        let lines: Vec<(String, String)> = self
            .settings()
            .into_iter()
            .map(|shown| (format!("{} = {}", shown.name, self.toml(&shown.name)), shown.source))
            .collect();
        let width = lines.iter().map(|(setting, _)| setting.chars().count()).max().unwrap_or(0).min(48);
        lines.into_iter().fold(String::new(), |mut text, (setting, origin)| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{setting:width$}  # {origin}");
            text
        })
    }

    fn toml(&self, key: &str) -> String {
        serde_json::to_string(&self.shown(key)).unwrap_or_default()
    }

    /// The setting as understood, not as written: what was "60" is shown as "1m".
    fn shown(&self, key: &str) -> Value {
        let value = Value::serialize(&self.config).ok().and_then(|value| value.find(key));
        match value {
            Some(Value::String(_, text)) if is_secret(key) && !text.is_empty() => Value::from("(hidden)"),
            Some(value) => value,
            None => Value::from(""),
        }
    }
}

fn is_secret(key: &str) -> bool {
    SECRETS.iter().any(|secret| key.ends_with(secret))
}
