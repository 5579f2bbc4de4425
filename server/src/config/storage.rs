//! Settings of the engine: when a commit is durable, how much stays in memory and in the log, how segments are merged.

use std::fmt;
use std::time::Duration;

use kalamdb_sql::engine::{Config as Engine, SyncPolicy};
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

use crate::units::{Size, Span};

/// The engine's part of the settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// When a write is answered: `always` (the default) once it survives a power cut, `never` once the system has it, or a
    /// length of time, which a power cut may take back. All of them survive the end of the process.
    pub sync: Sync,
    /// Rows that may be in memory only, all tables together; beyond it the largest partitions are written to Parquet, at
    /// twice as much writers wait. Default 512 MiB.
    pub memory: Size,
    /// Rows in memory at which a partition is written to Parquet, unless its table says otherwise. Default 250,000.
    pub flush_rows: u64,
    /// Log that a start after a crash may have to replay. Default 1 GiB.
    pub log: Size,
    /// Compactions at a time in the background; 0 for none. Default 1.
    pub compaction_workers: usize,
    /// Bytes per second that compactions may read and write; 0 for no limit. Default 64 MiB.
    pub compaction_rate: Size,
}

/// When a write is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sync(pub SyncPolicy);

impl Default for Storage {
    fn default() -> Self {
        Self {
            sync: Sync(SyncPolicy::Always),
            memory: Size::mib(512),
            flush_rows: 250_000,
            log: Size::mib(1024),
            compaction_workers: 1,
            compaction_rate: Size::mib(64),
        }
    }
}

impl Storage {
    /// Puts the settings into what the engine is opened with.
    pub fn apply(&self, engine: &mut Engine) {
        engine.sync = self.sync.0;
        engine.memtable_bytes = self.memory.bytes();
        engine.flush_rows = self.flush_rows;
        engine.log_bytes = self.log.0;
        engine.compaction.workers = self.compaction_workers;
        engine.compaction.bytes_per_second = self.compaction_rate.0;
    }

    /// Checks what the types cannot.
    pub(super) fn validate(&self) -> Result<(), (&'static str, String)> {
        const LEAST: u64 = 1 << 20;
        if self.flush_rows == 0 {
            return Err(("storage.flush_rows", "must be more than 0".into()));
        }
        for (key, size) in [("storage.memory", self.memory), ("storage.log", self.log)] {
            if size.0 < LEAST {
                return Err((key, "must be at least 1MiB".into()));
            }
        }
        Ok(())
    }
}

impl fmt::Display for Sync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            SyncPolicy::Always => f.write_str("always"),
            SyncPolicy::Never => f.write_str("never"),
            SyncPolicy::Interval(interval) => Span(interval).fmt(f),
        }
    }
}

impl Serialize for Sync {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sync {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "always" => Ok(Self(SyncPolicy::Always)),
            "never" => Ok(Self(SyncPolicy::Never)),
            other => match other.parse::<Span>() {
                Ok(Span(interval)) if interval > Duration::ZERO => Ok(Self(SyncPolicy::Interval(interval))),
                _ => Err(de::Error::custom(format!(
                    "{other:?} is none of \"always\", \"never\" and a length of time like \"10ms\""
                ))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_reads_as_it_prints() {
        let policies =
            [SyncPolicy::Always, SyncPolicy::Never, SyncPolicy::Interval(Duration::from_millis(10))];
        for policy in policies {
            let text = serde_json::to_string(&Sync(policy)).unwrap();
            assert_eq!(serde_json::from_str::<Sync>(&text).unwrap(), Sync(policy), "{text}");
        }
        for wrong in ["\"sometimes\"", "\"0ms\"", "\"\""] {
            let error = serde_json::from_str::<Sync>(wrong).unwrap_err().to_string();
            assert!(error.contains("always"), "{error}");
        }
    }

    #[test]
    fn the_defaults_are_the_engine_s() {
        let mut engine = Engine::new("unused");
        let before = format!("{engine:?}");
        Storage::default().apply(&mut engine);
        assert_eq!(format!("{engine:?}"), before);
    }
}
