//! Putting a merged segment in the place of its inputs; see [`super`] for the order and why.

use std::sync::Arc;

use roaring::RoaringBitmap;

use super::CompactionOutcome;
use super::merge::Merged;
use super::running::Running;
use crate::database::Database;
use crate::error::{Error, Result};
use crate::flush::remove;
use crate::ids::Seq;
use crate::manifest::Manifest;
use crate::marks::Marks;
use crate::partition::{Partition, Version};
use crate::segment::facts::Finish;
use crate::segment::{Relocated, Segment};
use crate::vectors::Vectors;

/// Installs a merged segment and returns its id. `pin`: rows superseded up to this commit are not in it.
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::StorageFull`] and other I/O errors: the inputs are still in place.
pub(super) fn install(
    database: &Database,
    partition: &Partition,
    inputs: &[Arc<Segment>],
    merged: Merged,
    pin: Seq,
    running: &Running,
) -> Result<(u64, CompactionOutcome)> {
    let _manifest_stands_still = partition.flushing.blocking_lock();
    running.check()?;
    if database.catalog().table_by_id(partition.id.table).is_none() {
        return Err(Error::Cancelled("compaction"));
    }
    let version = partition.version();
    let is_input = |id: u64| inputs.iter().any(|input| input.meta().id == id);
    if !inputs.iter().all(|input| version.segment(input.meta().id).is_some_and(|s| Arc::ptr_eq(s, input))) {
        return Err(Error::internal("compact", "a segment was replaced by another compaction"));
    }
    let disk = database.disk().as_ref();
    let mut made = Vec::new();
    let prepared = prepare(database, partition, inputs, merged, pin, &mut made);
    let Prepared { manifest, segment, moved } = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            remove(disk, partition, made);
            return Err(error);
        }
    };
    if let Err(error) = manifest.store(disk, &partition.dir) {
        // It may be in place nevertheless, and name these files.
        partition.leftovers.lock().extend(made);
        return Err(error);
    }
    let mut unnamed = partition.leftovers.lock().split_off(0);
    let replaced = version.manifest.segments.iter().filter(|meta| is_input(meta.id));
    unnamed.extend(replaced.filter_map(|meta| meta.deletes_path.clone()));
    let outcome = outcome(inputs, &segment);
    let id = segment.meta().id;
    swap(database, partition, inputs, manifest, segment, moved, pin);
    remove(disk, partition, unnamed);
    tracing::debug!(partition = %partition.id, ?outcome, "compacted");
    Ok((id, outcome))
}

/// Files and facts of one attempt, before a manifest names them.
struct Prepared {
    manifest: Manifest,
    segment: Arc<Segment>,
    moved: Vec<Vec<u32>>,
}

/// Writes the delete vector and ends the segment, both durable when this returns. Notes the files it makes in `made`.
fn prepare(
    database: &Database,
    partition: &Partition,
    inputs: &[Arc<Segment>],
    merged: Merged,
    pin: Seq,
    made: &mut Vec<String>,
) -> Result<Prepared> {
    let Merged { writer, schema, moved } = merged;
    let disk = database.disk();
    let mut manifest = Manifest::clone(&partition.version().manifest);
    let (id, now) = (partition.new_segment_id(0), database.clock().now_micros());
    manifest.version += 1;
    manifest.updated_at = now;
    manifest.next_segment_id = id + 1;
    manifest.segments.retain(|meta| !inputs.iter().any(|input| input.meta().id == meta.id));
    let marks = late_marks(inputs, &moved, pin);
    let superseded: RoaringBitmap =
        marks.iter().filter(|(seq, _)| *seq <= manifest.flushed_seq).map(|(_, row)| *row).collect();
    let own = Vectors { disk: disk.as_ref(), partition, attempt: id, made }.persist(id, &superseded)?;
    let place = Finish {
        id,
        level: inputs.iter().map(|input| input.meta().level + 1).max().unwrap_or(1),
        flushed_seq: manifest.flushed_seq,
        beside: &manifest.segments,
        deletes: (own, superseded.len()),
        now,
    };
    let meta = writer.finish(place)?;
    made.push(meta.path.clone());
    manifest.segments.push(meta.clone());
    let (id, dir, shared) = (partition.id.clone(), &partition.dir, partition.shared.clone());
    let segment = Segment::new(meta, schema, Marks::default(), id, dir, disk.clone(), shared);
    Ok(Prepared { manifest, segment: Arc::new(segment), moved })
}

/// The marks that commits after `after` set on the inputs, at the rows' new places, oldest first. A marked row that is not
/// in the new segment was a tombstone past its time.
fn late_marks(inputs: &[Arc<Segment>], moved: &[Vec<u32>], after: Seq) -> Vec<(Seq, u32)> {
    let late = inputs.iter().zip(moved).flat_map(|(input, moved)| {
        let marks = input.marks.after(after).into_iter();
        marks.map(|(seq, row)| (seq, moved[row as usize]))
    });
    let mut marks: Vec<(Seq, u32)> = late.filter(|(_, row)| *row != Relocated::DROPPED).collect();
    marks.sort_unstable();
    marks
}

/// Swaps the version. The marks of commits that are all applied are moved before the commit lock is taken, so that it is
/// held for the few that come meanwhile.
fn swap(
    database: &Database,
    partition: &Partition,
    inputs: &[Arc<Segment>],
    manifest: Manifest,
    segment: Arc<Segment>,
    moved: Vec<Vec<u32>>,
    pin: Seq,
) {
    let applied = partition.commit.lock().last_seq;
    let horizon = database.horizon();
    for (seq, row) in late_marks(inputs, &moved, pin).into_iter().filter(|(seq, _)| *seq <= applied) {
        segment.marks.add(row, seq, horizon);
    }
    let mut state = partition.commit.lock();
    for (seq, row) in late_marks(inputs, &moved, applied.max(pin)) {
        segment.marks.add(row, seq, horizon);
    }
    let version = partition.version();
    let kept =
        version.segments.iter().filter(|segment| !inputs.iter().any(|input| Arc::ptr_eq(input, segment)));
    let segments: Vec<Arc<Segment>> = kept.cloned().chain([segment.clone()]).collect();
    for (input, rows) in inputs.iter().zip(moved) {
        input.relocate(Relocated { to: segment.clone(), rows, trash: partition.trash.clone() });
    }
    let next =
        Version { segments: segments.into(), manifest: Arc::new(manifest), ..Version::clone(&version) };
    partition.install(&mut state, next);
}

fn outcome(inputs: &[Arc<Segment>], segment: &Segment) -> CompactionOutcome {
    CompactionOutcome {
        segments_in: inputs.len() as u64,
        segments_out: 1,
        rows_in: inputs.iter().map(|input| input.meta().rows).sum(),
        rows_out: segment.meta().rows,
        bytes_read: inputs.iter().map(|input| input.meta().bytes).sum(),
        bytes_written: segment.meta().bytes,
    }
}
