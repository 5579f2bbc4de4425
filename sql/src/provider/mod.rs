//! Engine tables as DataFusion tables: their schemas, who may read them, and the scan over one partition or many.

mod access;
mod context;
mod keys;
mod scan;
mod shape;
mod stream;
mod table;

pub(crate) use access::{check_read, check_write};
pub(crate) use context::{Binder, Naming};
pub(crate) use keys::{Narrowed, find_keys};
pub(crate) use scan::Scans;
pub(crate) use shape::{Extension, Shape, ShapeCache};
pub(crate) use stream::StreamViews;
pub(crate) use table::{EngineTable, Reference, Unbound};

/// The virtual column that holds the owner of a row of a USER table; `dba` and above can name it.
pub(crate) const USER: &str = "_user";
/// The hidden column that holds a row's address in its partition view; only our own rewrites of DML name it.
pub(crate) const ROW_ADDRESS: &str = "_row_address";
