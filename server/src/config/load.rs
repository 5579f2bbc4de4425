//! Layering: defaults, TOML file, environment, flags.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use figment::error::Kind;
use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::Config;

/// Environment variables that begin like settings and are something else: passwords, and defaults of client commands.
const NOT_SETTINGS: [&str; 6] = [
    "KALAMDB_ROOT_PASSWORD",
    "KALAMDB_PASSWORD",
    "KALAMDB_CONFIG",
    "KALAMDB_USER",
    "KALAMDB_URL",
    "KALAMDB_HISTORY",
];

/// Settings given on the command line.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// The TOML file.
    pub file: Option<PathBuf>,
    /// Setting, value, and the flag it came from.
    pub settings: Vec<(String, String, String)>,
}

/// Settings that cannot be used; the message names the culprit and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// Settings, and where each came from.
pub struct Loaded {
    /// The settings.
    pub config: Config,
    pub(super) figment: Figment,
}

/// Puts the settings together from a file, environment variables and flags.
///
/// # Errors
/// [`ConfigError`] for a file that cannot be read, a name that is no setting, or a value that cannot be used.
pub fn load(
    flags: &Flags,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded, ConfigError> {
    let known = known_keys();
    let mut figment = Figment::from(Serialized::defaults(Config::default()));
    if let Some(path) = &flags.file {
        check_readable(path)?;
        figment = figment.merge(Toml::file_exact(path));
    }
    for setting in from_environment(&known, env)? {
        figment = figment.merge(setting);
    }
    for (key, value, flag) in &flags.settings {
        if !known.contains(key) {
            return Err(unknown(key, flag, &known));
        }
        figment =
            figment.merge(Setting { key: key.clone(), value: value.clone(), origin: format!("flag {flag}") });
    }
    let config: Config = figment.extract_lossy().map_err(|error| explain(error, &known))?;
    match config.validate() {
        Ok(()) => Ok(Loaded { config, figment }),
        Err((key, reason)) => Err(ConfigError(format!("{key} {reason} (from {})", origin(&figment, key)))),
    }
}

/// The dotted name of every setting that there always is, in the order of the alphabet.
fn known_keys() -> Vec<String> {
    keys(&Config::default())
}

/// The dotted name of everything that is set, in the order of the alphabet.
pub(super) fn keys(config: &Config) -> Vec<String> {
    let mut keys = Vec::new();
    if let Ok(value) = Value::serialize(config) {
        collect(&value, "", &mut keys);
    }
    keys
}

fn collect(value: &Value, at: &str, keys: &mut Vec<String>) {
    match value {
        Value::Dict(_, dict) => {
            for (name, value) in dict {
                let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                collect(value, &at, keys);
            }
        }
        _ => keys.push(at.to_owned()),
    }
}

/// Where a setting's value came from, in words.
pub(super) fn origin(figment: &Figment, key: &str) -> String {
    match figment.find_metadata(key) {
        Some(metadata) => origin_of(metadata),
        None => "default".into(),
    }
}

fn origin_of(metadata: &Metadata) -> String {
    match &metadata.source {
        Some(figment::Source::File(path)) => format!("file {}", path.display()),
        Some(figment::Source::Custom(origin)) => origin.clone(),
        _ => "default".into(),
    }
}

fn check_readable(path: &Path) -> Result<(), ConfigError> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() => Ok(()),
        Ok(_) => Err(ConfigError(format!("the configuration file {} is not a file", path.display()))),
        Err(error) => {
            Err(ConfigError(format!("the configuration file {} cannot be read: {error}", path.display())))
        }
    }
}

fn from_environment(
    known: &[String],
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Vec<Setting>, ConfigError> {
    let mut settings = Vec::new();
    for (name, value) in env {
        let Some(name) = name.to_str().filter(|name| name.starts_with("KALAMDB_")) else { continue };
        if NOT_SETTINGS.contains(&name) {
            continue;
        }
        let Some(key) = known.iter().find(|key| variable(key) == name) else {
            let names: Vec<String> = known.iter().map(|key| variable(key)).collect();
            return Err(unknown(name, "the environment", &names));
        };
        let Some(value) = value.to_str() else {
            return Err(ConfigError(format!("the environment variable {name} is not valid UTF-8")));
        };
        let origin = format!("environment {name}");
        settings.push(Setting { key: key.clone(), value: value.into(), origin });
    }
    Ok(settings)
}

fn variable(key: &str) -> String {
    format!("KALAMDB_{}", key.replace('.', "_").to_uppercase())
}

fn unknown(name: &str, place: &str, known: &[String]) -> ConfigError {
    ConfigError(format!("there is no setting {name:?} (from {place}); the settings are {}", known.join(", ")))
}

fn explain(error: figment::Error, known: &[String]) -> ConfigError {
    // The first is the one to repair first; figment keeps the rest behind it.
    let Some(error) = error.into_iter().next() else {
        return ConfigError("the configuration is invalid".into());
    };
    let place = error.metadata.as_ref().map_or_else(|| "the configuration".into(), origin_of);
    match &error.kind {
        Kind::UnknownField(field, _) => {
            let mut path: Vec<&str> = error.path.iter().map(String::as_str).collect();
            if path.last() != Some(&field.as_str()) {
                path.push(field);
            }
            unknown(&path.join("."), &place, known)
        }
        kind if error.path.is_empty() => ConfigError(format!("{kind} (from {place})")),
        kind => ConfigError(format!("{}: {kind} (from {place})", error.path.join("."))),
    }
}

/// One setting from one place.
struct Setting {
    key: String,
    value: String,
    origin: String,
}

impl Provider for Setting {
    fn metadata(&self) -> Metadata {
        Metadata::from("setting", figment::Source::Custom(self.origin.clone()))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let nested = figment::util::nest(&self.key, Value::from(self.value.clone()));
        Ok(nested.into_dict().into_iter().map(|dict| (Profile::Default, dict)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Size, Span};

    fn env(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        use std::io::Write;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn load_text(text: &str) -> Result<Loaded, String> {
        let file = file(text);
        load(&Flags { file: Some(file.path().into()), settings: vec![] }, env(&[]))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn flags_win_over_the_environment_which_wins_over_the_file() {
        let file =
            file("listen = \"1.1.1.1:1\"\nlog_level = \"debug\"\n[live]\nheartbeat = \"3s\"\nqueue = 2048\n");
        let flags = Flags {
            file: Some(file.path().into()),
            settings: vec![("listen".into(), "3.3.3.3:3".into(), "--listen".into())],
        };
        let vars =
            env(&[("KALAMDB_LISTEN", "2.2.2.2:2"), ("KALAMDB_LIVE_HEARTBEAT", "2s"), ("PATH", "/bin")]);
        let loaded = load(&flags, vars).unwrap();
        assert_eq!(loaded.config.listen, "3.3.3.3:3");
        assert_eq!(loaded.config.live.heartbeat, Span::seconds(2));
        assert_eq!(loaded.config.live.queue, Size(2048));
        assert_eq!(loaded.config.log_level, "debug");
        assert_eq!(loaded.config.limits, crate::config::Limits::default());
        let text = loaded.show();
        assert!(text.contains("# flag --listen"), "{text}");
        assert!(text.contains("# environment KALAMDB_LIVE_HEARTBEAT"), "{text}");
        assert!(text.contains(&format!("# file {}", file.path().display())), "{text}");
        assert!(text.contains("# default"), "{text}");
    }

    #[test]
    fn values_of_every_type_can_come_from_the_environment() {
        let vars = [
            ("KALAMDB_LIMITS_CONNECTIONS", "7"),
            ("KALAMDB_CORS_ORIGINS", "https://a.example, https://b.example"),
            ("KALAMDB_LOG_FORMAT", "json"),
            ("KALAMDB_DATA", "12345"),
            ("KALAMDB_ROOT_PASSWORD", "no setting"),
        ];
        let config = load(&Flags::default(), env(&vars)).map(|loaded| loaded.config).unwrap();
        assert_eq!(config.limits.connections, 7);
        assert_eq!(config.cors_origins, ["https://a.example", "https://b.example"]);
        assert_eq!(config.data, PathBuf::from("12345"));
    }

    #[test]
    fn credentials_of_stores_are_shown_without_their_secrets() {
        let loaded = load_text(
            "[credentials.archive]\nendpoint = \"http://store\"\naccess_key_id = \"id\"\nsecret_access_key = \"s3cret\"",
        );
        let loaded = loaded.ok().unwrap();
        assert_eq!(loaded.config.credentials["archive"].secret_access_key, "s3cret");
        let text = loaded.show();
        assert!(text.contains("credentials.archive.endpoint = \"http://store\""), "{text}");
        assert!(
            text.contains("credentials.archive.secret_access_key = \"(hidden)\"") && !text.contains("s3cret"),
            "{text}"
        );
    }

    #[test]
    fn an_unknown_name_is_an_error_that_names_it() {
        for text in ["lisen = \"x\"", "[live]\nheartbeet = \"3s\"", "[lives]\nheartbeat = \"3s\""] {
            let error = load_text(text).err().unwrap();
            assert!(
                error.contains("lisen") || error.contains("heartbeet") || error.contains("lives"),
                "{error}"
            );
            assert!(error.contains("live.heartbeat"), "the valid ones are listed: {error}");
        }
        let error = load(&Flags::default(), env(&[("KALAMDB_LISEN", "x")])).err().unwrap().to_string();
        assert!(error.contains("KALAMDB_LISEN"), "{error}");
    }

    #[test]
    fn a_bad_value_is_an_error_that_names_the_setting_and_its_source() {
        let cases = [
            ("[live]\nheartbeat = \"soon\"", "live.heartbeat"),
            ("[limits]\nconnections = \"many\"", "limits.connections"),
            ("[limits]\nconnections = 0", "limits.connections"),
            ("[auth]\njwt_secret = \"short\"", "auth.jwt_secret"),
            ("[storage]\nsync = \"sometimes\"", "storage.sync"),
            ("[storage]\nmemory = \"1KiB\"", "storage.memory"),
            ("log_format = \"xml\"", "log_format"),
            ("listen = \"nowhere\"", "listen"),
            ("[credentials.archive]\naccess_key_id = \"id\"", "credentials"),
            ("[credentials.archive]\npassword = \"id\"", "credentials.archive.password"),
        ];
        for (text, key) in cases {
            let error = load_text(text).err().unwrap();
            assert!(error.contains(key) && error.contains("from file"), "{text}: {error}");
        }
        assert!(load_text("listen = ").err().unwrap().contains("from"), "broken TOML");
        let missing = Flags { file: Some("/no/such.toml".into()), settings: vec![] };
        assert!(load(&missing, env(&[])).err().unwrap().to_string().contains("/no/such.toml"));
    }
}
