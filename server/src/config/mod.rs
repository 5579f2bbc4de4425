//! The server's settings.
//!
//! Each comes from the first of these that names it: a flag, an environment variable, the TOML file, the default. The
//! environment variable of a setting is `KALAMDB_` and its name in capitals, with `_` for the dot: `live.heartbeat` is
//! `KALAMDB_LIVE_HEARTBEAT`. A name that is no setting, or a value that cannot be read, is an error that names it.

mod load;
mod show;
mod storage;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

pub use load::{ConfigError, Flags, Loaded, load};
pub use show::Shown;
pub use storage::{Storage, Sync};

use crate::units::{Size, Span};

/// All settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Directory that holds everything. Default `./data`.
    pub data: PathBuf,
    /// Address to listen on, `host:port`; port 0 takes a free one. Default `127.0.0.1:8080`.
    pub listen: String,
    /// `pretty` or `json`. Default `pretty`.
    pub log_format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter like `info,kalamdb_sql=debug`. Default `info`.
    pub log_level: String,
    /// How long statements may go on after SIGTERM. Default 10 s.
    pub shutdown_grace: Span,
    /// Web origins besides the server's own and localhost whose pages may call it, e.g. `https://app.example.com`.
    #[serde(deserialize_with = "list")]
    pub cors_origins: Vec<String>,
    /// Limits.
    pub limits: Limits,
    /// Authentication.
    pub auth: Auth,
    /// Live feeds.
    pub live: Live,
    /// The engine.
    pub storage: Storage,
    /// Credentials of object stores, by the name that a storage location's `config:name` refers to.
    pub credentials: BTreeMap<String, StoreCredentials>,
}

/// Credentials of an object store. An empty text is none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreCredentials {
    /// Where the store is, if it is not Amazon's: `http://127.0.0.1:8333`.
    pub endpoint: String,
    /// Its region; `us-east-1` if it has none.
    pub region: String,
    /// The access key's id.
    pub access_key_id: String,
    /// The access key's secret.
    pub secret_access_key: String,
}

/// What one client may use up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Body of a request other than an import. Default 16 MiB.
    pub body: Size,
    /// Connections at once; more wait to be accepted. Default 20,000.
    pub connections: usize,
    /// Requests that run statements at once; more wait a moment, then get `OVERLOADED`. Default 512.
    pub statements: usize,
    /// Longest time one statement may run. Default 5 minutes.
    pub statement_timeout: Span,
    /// Memory of running statements, over all. Default 1 GiB.
    pub memory: Size,
    /// Memory of one statement; beyond it, it spills to `DATA/tmp` or fails. Default 512 MiB.
    pub statement_memory: Size,
    /// What statements may spill, over all. Default 16 GiB.
    pub spill: Size,
}

/// Authentication.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// Key of the HS256 signature of tokens, at least 32 bytes. Empty (the default): a random one, kept in
    /// `DATA/jwt.secret`.
    pub jwt_secret: String,
    /// PEM files of public keys (RSA for RS256, P-256 for ES256) whose tokens are accepted besides our own.
    #[serde(deserialize_with = "list")]
    pub jwt_public_keys: Vec<String>,
    /// How long a token from login is good. Default 8 h.
    pub token_lifetime: Span,
    /// How long a feed token from login is good, and so the feed opened with it. Default 15 m.
    pub feed_token_lifetime: Span,
}

/// Live feeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Live {
    /// Time between heartbeat events. Default 15 s.
    pub heartbeat: Span,
    /// How long the log is kept for clients that resume. Default 1 h.
    pub retention: Span,
    /// How much log is kept for them; whichever of the two is reached first. Default 1 GiB.
    pub retention_bytes: Size,
    /// Events that wait in memory for one slow client before it is served from the log. Default 256 KiB.
    pub queue: Size,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: "./data".into(),
            listen: "127.0.0.1:8080".into(),
            log_format: LogFormat::Pretty,
            log_level: "info".into(),
            shutdown_grace: Span::seconds(10),
            cors_origins: Vec::new(),
            limits: Limits::default(),
            auth: Auth::default(),
            live: Live::default(),
            storage: Storage::default(),
            credentials: BTreeMap::new(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: Size::mib(16),
            connections: 20_000,
            statements: 512,
            statement_timeout: Span::seconds(300),
            memory: Size::mib(1024),
            statement_memory: Size::mib(512),
            spill: Size::mib(16 << 10),
        }
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            jwt_secret: String::new(),
            jwt_public_keys: Vec::new(),
            token_lifetime: Span::seconds(8 * 3600),
            feed_token_lifetime: Span::seconds(15 * 60),
        }
    }
}

impl Default for Live {
    fn default() -> Self {
        Self {
            heartbeat: Span::seconds(15),
            retention: Span::seconds(3600),
            retention_bytes: Size::mib(1024),
            queue: Size::kib(256),
        }
    }
}

/// The shortest `auth.jwt_secret` accepted, in bytes: a shorter key can be guessed from one token.
const SHORTEST_SECRET: usize = 32;

impl Config {
    /// Checks what the types cannot.
    fn validate(&self) -> Result<(), (&'static str, String)> {
        self.storage.validate()?;
        let half =
            |keys: &StoreCredentials| keys.access_key_id.is_empty() || keys.secret_access_key.is_empty();
        if let Some((name, _)) = self.credentials.iter().find(|(_, keys)| half(keys)) {
            return Err((
                "credentials",
                format!("must have access_key_id and secret_access_key for {name:?}"),
            ));
        }
        if !self.auth.jwt_secret.is_empty() && self.auth.jwt_secret.len() < SHORTEST_SECRET {
            return Err(("auth.jwt_secret", format!("must have at least {SHORTEST_SECRET} bytes")));
        }
        if !self.listen.contains(':') {
            return Err(("listen", format!("{:?} is not host:port, like 127.0.0.1:8080", self.listen)));
        }
        let positive = [
            ("limits.connections", self.limits.connections),
            ("limits.statements", self.limits.statements),
            ("limits.body", self.limits.body.bytes()),
            ("limits.memory", self.limits.memory.bytes()),
            ("limits.statement_memory", self.limits.statement_memory.bytes()),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err((key, "must be more than 0".into()));
        }
        let lasting = [
            ("limits.statement_timeout", self.limits.statement_timeout),
            ("auth.token_lifetime", self.auth.token_lifetime),
            ("auth.feed_token_lifetime", self.auth.feed_token_lifetime),
            ("live.heartbeat", self.live.heartbeat),
        ];
        match lasting.iter().find(|(_, span)| span.0 == Duration::ZERO) {
            Some((key, _)) => Err((key, "must be more than 0".into())),
            None => Ok(()),
        }
    }
}

/// A list, or (from the environment or a flag) one text with commas.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Many(Vec<String>),
        One(String),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::Many(many) => many,
        Either::One(one) => one.split(',').map(str::trim).filter(|s| !s.is_empty()).map(Into::into).collect(),
    })
}
