//! KalamDB's SQL layer: sessions, our dialect, DataFusion providers and plans, DDL, DML and live queries.
//!
//! [`Instance`] is one running database; [`Instance::session`] gives a [`Session`] for one request, which parses text
//! into statements and executes them one by one, each yielding an [`Outcome`] whose rows are a stream of record
//! batches. Everything public fails with one [`Error`] type that carries the public code, a hint and a position.
//!
//! | module | owns |
//! |---|---|
//! | `dialect` | the text of a request becomes [`Statement`]s |
//! | `session`, `statement` | running them: identity, namespace, snapshot |
//! | `query`, `provider`, `plan` | reading, through DataFusion; plans that are kept |
//! | `dml`, `import` | writing rows |
//! | `ddl`, `views`, `show`, `users`, `jobs` | the statements that are ours |
//! | `live` | queries that keep going |
//! | `system` | computed system tables and `information_schema` |
//! | `auth` | passwords, credentials, lock-out |
//! | `json`, `params`, `types`, `names`, `functions` | values, parameters, types, name resolution, functions |

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

mod audit;
mod auth;
mod ddl;
mod dialect;
mod dml;
mod error;
mod files;
mod functions;
mod grid;
mod import;
mod instance;
mod jobs;
mod json;
mod live;
mod locations;
mod names;
mod opaque;
mod params;
mod plan;
mod provider;
mod query;
mod recent;
mod running;
mod session;
mod show;
mod statement;
mod system;
mod transaction;
mod types;
mod users;
mod views;

pub use auth::{Identity, Role};
pub use dialect::{ParsedStatement, Statement};
pub use error::{Error, ErrorCode, Position, Result};
pub use import::{ImportOptions, ImportReport, Importer};
pub use instance::{Instance, LiveOptions, Options, Setting};
pub use json::{RowEncoder, RowFormat};
pub use live::{LiveEvent, LiveFeed, LiveRequest, SubscriptionRequest};
pub use session::{ColumnInfo, Outcome, RowSet, Session};

pub use kalamdb_engine as engine;
