//! Packs: the rows of many small partitions of a USER table in one file.
//!
//! A user with ten rows is not worth a directory, a manifest and a file at every checkpoint. A pack holds the *slices* of
//! many users: each the complete state of that user's partition as of one commit, `_state`. It is a Parquet file
//! `DATA/tables/<namespace>/<table>/_packs/pack-<id>.parquet` with the columns `_user`, `_state`, the declared ones, `_seq`,
//! `_updated`, `_deleted`, sorted by user, live rows before tombstones, then key; `manifest.json` beside it names the packs
//! that count.
//!
//! Of several slices of a user the one of the newest commit counts, and that only if the commit is newer than the
//! partition's own manifest: a partition that has grown gets files of its own, which make its slices obsolete. Nobody
//! keeps a list of who is where, so a user in a pack costs no memory until somebody touches the partition. Then the slice
//! becomes the rows of its memtable, with the difference that the log need not have them: see
//! [`crate::memtable::Memtable::durable`].
//!
//! [`flush`] writes packs, [`merge`] keeps them few, [`read`] finds slices, [`scan`] goes through many.

mod expire;
pub(crate) mod flush;
pub(crate) mod list;
mod lookup;
mod manifest;
pub(crate) mod merge;
pub(crate) mod read;
pub(crate) mod scan;
mod slice;
pub(crate) mod write;

pub(crate) use lookup::PackSlot;
pub(crate) use manifest::FORMAT;
pub use manifest::{PackManifest, PackMeta};
pub(crate) use read::verify;

/// The directory of a table's packs, in the table's. No user's directory has such a name.
pub(crate) const DIR: &str = "_packs";

/// A pack's slice is whose rows they are.
pub(crate) const USER: &str = "_user";
/// The commit that a slice is the state at.
pub(crate) const STATE: &str = "_state";

/// The name of a pack's file.
pub(crate) fn file_name(id: u64) -> String {
    format!("pack-{id}.parquet")
}

/// True for the names that packs get.
pub(crate) fn is_pack(name: &str) -> bool {
    name.starts_with("pack-") && name.ends_with(".parquet")
}
