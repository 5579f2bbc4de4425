//! Writing delete vectors. Each state of one is a file of its own, so that the one before stays good until the manifest
//! that names the new one is durable.

use kalamdb_wal::{Disk, durable};
use roaring::RoaringBitmap;

use crate::delete_vector;
use crate::error::Result;
use crate::manifest::Manifest;
use crate::partition::{Partition, Version};

/// Writes delete vectors for one attempt at a new manifest.
pub(crate) struct Vectors<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) partition: &'a Partition,
    /// Makes the names of this attempt's files its own.
    pub(crate) attempt: u64,
    /// Takes down the names of the files made.
    pub(crate) made: &'a mut Vec<String>,
}

impl Vectors<'_> {
    /// Writes those of the version's segments as of the manifest's commit, where they changed, and notes them in the
    /// manifest. Returns the files replaced.
    pub(crate) fn persist_marks(
        &mut self,
        version: &Version,
        manifest: &mut Manifest,
    ) -> Result<Vec<String>> {
        let mut replaced = Vec::new();
        let boundary = manifest.flushed_seq;
        for (segment, meta) in version.segments.iter().zip(&mut manifest.segments) {
            if segment.marks.len_up_to(boundary) != meta.deleted_rows {
                let rows = segment.marks.up_to(boundary);
                let name = self.write(meta.id, &rows)?;
                meta.deleted_rows = rows.len();
                replaced.extend(meta.deletes_path.replace(name));
            }
        }
        Ok(replaced)
    }

    /// Writes the one of a new segment, if rows in it are superseded already; returns its name.
    pub(crate) fn persist(&mut self, id: u64, superseded: &RoaringBitmap) -> Result<Option<String>> {
        (!superseded.is_empty()).then(|| self.write(id, superseded)).transpose()
    }

    fn write(&mut self, segment: u64, rows: &RoaringBitmap) -> Result<String> {
        let name = format!("batch-{segment}-{}.deletes", self.attempt);
        self.made.push(name.clone());
        let path = self.partition.dir.join(&name);
        if let Err(error) = durable::replace_file(self.disk, &path, &delete_vector::encode(rows)) {
            // What it wrote aside may still be there. Best effort: the next load removes it otherwise.
            let _ = self.disk.remove_file(&path.with_file_name(format!("{name}.tmp")));
            return Err(error.into());
        }
        Ok(name)
    }
}
