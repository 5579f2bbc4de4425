//! The few file moves that survive a power cut, in one place.
//!
//! Each function returns only when what it did is durable, and each leaves either the old state or the new one, never
//! a mixture, if the power fails before. The order that makes it so: contents are synced before a name points at them,
//! and the directory is synced after the name has changed.

use std::path::Path;

use crate::disk::Disk;
use crate::error::{Error, IoContext};

/// Gives `path` the contents `bytes`, atomically: after a crash the file holds all of the old or all of the new bytes.
/// Writes `<path>.tmp` aside; concurrent calls for one path are not allowed.
///
/// # Errors
/// [`Error::StorageFull`] or [`Error::Io`]; the old contents are then still there.
pub fn replace_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".tmp");
    let aside = Path::new(&aside);
    if disk.exists(aside).at("look for", aside)? {
        disk.remove_file(aside).at("remove", aside)?;
    }
    let written = write_new(disk, aside, bytes);
    if written.is_err() {
        // Give the space back; the failure that matters is the first one.
        let _ = disk.remove_file(aside);
    }
    written?;
    rename(disk, aside, path)
}

/// Creates the file `path` with the contents `bytes` and makes it and its name durable. Not atomic: a crash may leave
/// a part of it, so the name must mean nothing to anybody until this has returned.
///
/// # Errors
/// [`Error::StorageFull`] or [`Error::Io`], also if the name is taken.
pub fn create_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_new(disk, path, bytes)?;
    sync_parent(disk, path)
}

/// Creates the directory `path` and its missing parents, all of them durable.
///
/// # Errors
/// [`Error::StorageFull`] or [`Error::Io`]; some of the parents may have been created.
pub fn create_dir(disk: &dyn Disk, path: &Path) -> Result<(), Error> {
    let mut missing = Vec::new();
    for ancestor in path.ancestors().filter(|a| !a.as_os_str().is_empty()) {
        if disk.exists(ancestor).at("look for", ancestor)? {
            break;
        }
        missing.push(ancestor);
    }
    disk.create_dir_all(path).at("create directory", path)?;
    // The directory's own name as well: who created it before us may have died before its sync.
    sync_parent(disk, path)?;
    missing.iter().skip(1).try_for_each(|created| sync_parent(disk, created))
}

/// Makes the names of `path` and of all directories above it durable, whoever created them: a process that created
/// them may have died before its syncs. For the first use of a directory; [`create_dir`] alone is enough afterwards.
///
/// # Errors
/// [`Error::Io`]. A directory that may not be read is passed over: it is not ours, so we did not put the name there.
pub fn sync_ancestors(disk: &dyn Disk, path: &Path) -> Result<(), Error> {
    for ancestor in path.ancestors().filter(|a| !a.as_os_str().is_empty()) {
        match sync_parent(disk, ancestor) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {}
            other => other?,
        }
    }
    Ok(())
}

/// Gives `from` the name `to`, replacing what had it.
///
/// # Errors
/// [`Error::Io`]. If it is the directory sync that failed, which of the two names survives a crash is not known.
pub fn rename(disk: &dyn Disk, from: &Path, to: &Path) -> Result<(), Error> {
    disk.rename(from, to).at("rename", from)?;
    sync_parent(disk, to)?;
    if from.parent() == to.parent() { Ok(()) } else { sync_parent(disk, from) }
}

/// Removes the file `path` for good.
///
/// # Errors
/// [`Error::Io`], also if there is no such file.
pub fn remove_file(disk: &dyn Disk, path: &Path) -> Result<(), Error> {
    disk.remove_file(path).at("remove", path)?;
    sync_parent(disk, path)
}

/// Removes the directory `path` and all it holds, for good. A crash before the return may leave a part of it.
///
/// # Errors
/// [`Error::Io`], also if there is no such directory.
pub fn remove_dir(disk: &dyn Disk, path: &Path) -> Result<(), Error> {
    disk.remove_dir_all(path).at("remove directory", path)?;
    sync_parent(disk, path)
}

/// Makes the names in `path`'s directory durable.
///
/// # Errors
/// [`Error::Io`].
pub fn sync_parent(disk: &dyn Disk, path: &Path) -> Result<(), Error> {
    let parent = match path.parent() {
        None => return Ok(()),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    disk.sync_dir(parent).at("sync directory", parent)
}

/// The whole contents of a file.
///
/// # Errors
/// [`Error::Io`], also if there is no such file.
pub fn read_file(disk: &dyn Disk, path: &Path) -> Result<Vec<u8>, Error> {
    let file = disk.open(path).at("open", path)?;
    let len = file.len().at("measure", path)?;
    read_range(&*file, path, 0, usize::try_from(len).unwrap_or(usize::MAX))
}

/// Up to `len` bytes from `offset`; fewer only if the file ends there.
pub(crate) fn read_range(
    file: &dyn crate::disk::DiskFile,
    path: &Path,
    offset: u64,
    len: usize,
) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match file.read_at(&mut bytes[filled..], offset + filled as u64).at("read", path)? {
            0 => break,
            n => filled += n,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn write_new(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let file = disk.create(path).at("create", path)?;
    file.write_all_at(bytes, 0).at("write", path)?;
    file.sync_all().at("sync", path)
}
