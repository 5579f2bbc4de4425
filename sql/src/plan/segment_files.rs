//! From segments to the files and row groups that DataFusion's Parquet scan reads.
//!
//! This is the one place that decides which rows of a file a scan may see. Hidden rows and, unless they are asked for,
//! tombstones are left out by the access plan, which the reader intersects with everything it prunes itself: no filter,
//! page index, bloom filter or limit can bring a row back that the plan leaves out. What statistics say about a file
//! counts hidden rows too, so they are never passed on as exact, and files carry none.
//!
//! How hidden rows are left out is the reader's choice, row group by row group: where they come one by one it decodes them and
//! masks, where they come in runs it skips.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::{ParquetAccessPlan, RowGroupAccess};
use datafusion::parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use datafusion::parquet::file::metadata::ParquetMetaData;
use kalamdb_engine::{PartitionView, Segment, SegmentChunk, UserId};
use roaring::RoaringBitmap;

use super::segment_reader::SegmentHandle;

/// Files per partition that a large segment is cut into, so that partitions that are done early take over work.
const FILES_PER_PARTITION: usize = 4;

/// One segment and what its virtual columns hold.
#[derive(Debug, Clone)]
pub(crate) struct ColdChunk {
    /// The segment and its hidden rows.
    pub(crate) chunk: SegmentChunk,
    /// The chunk's place in its view.
    pub(crate) index: usize,
    /// The owner of its partition.
    pub(crate) user: Option<UserId>,
}

/// The rows of one segment that a scan may see, by row group.
pub(super) struct Access {
    groups: Vec<RowGroupAccess>,
    /// How many rows that is.
    pub(super) rows: usize,
}

impl Access {
    /// Decides for every row group of a file: all of it, none of it, or all but the hidden rows. Row groups from
    /// `live_row_groups` on hold tombstones.
    pub(super) fn new(
        parquet: &ParquetMetaData,
        live_row_groups: usize,
        hidden: Option<&RoaringBitmap>,
        tombstones: bool,
    ) -> Self {
        let sizes = parquet.row_groups().iter().map(|group| group.num_rows() as u32);
        Self::of_sizes(sizes, live_row_groups, hidden, tombstones)
    }

    fn of_sizes(
        sizes: impl Iterator<Item = u32>,
        live_row_groups: usize,
        hidden: Option<&RoaringBitmap>,
        tombstones: bool,
    ) -> Self {
        let (mut groups, mut rows, mut first) = (Vec::new(), 0, 0u32);
        for (group, size) in sizes.enumerate() {
            let range = first..first + size;
            first += size;
            let gone = hidden.map_or(0, |hidden| hidden.range_cardinality(range.clone())) as u32;
            let wanted = tombstones || group < live_row_groups;
            groups.push(match hidden {
                _ if !wanted || gone == size => RowGroupAccess::Skip,
                Some(hidden) if gone > 0 => RowGroupAccess::Selection(all_but(hidden, range)),
                _ => RowGroupAccess::Scan,
            });
            if wanted {
                rows += (size - gone) as usize;
            }
        }
        Self { groups, rows }
    }

    fn readable(&self) -> usize {
        self.groups.iter().filter(|group| group.should_scan()).count()
    }

    /// Cuts into plans of at most `most` readable row groups each; together they read every row once.
    fn cut(&self, most: usize) -> Vec<ParquetAccessPlan> {
        let readable: Vec<usize> =
            (0..self.groups.len()).filter(|group| self.groups[*group].should_scan()).collect();
        let plan = |part: &[usize]| {
            let mut plan = ParquetAccessPlan::new_none(self.groups.len());
            part.iter().for_each(|group| plan.set(*group, self.groups[*group].clone()));
            plan
        };
        readable.chunks(most.max(1)).map(plan).collect()
    }
}

/// Selects the rows of `range` that are not hidden, numbered within the row group.
fn all_but(hidden: &RoaringBitmap, range: std::ops::Range<u32>) -> RowSelection {
    let mut selectors = Vec::new();
    let mut next = range.start;
    for row in hidden.range(range.clone()) {
        if row > next {
            selectors.push(RowSelector::select((row - next) as usize));
        }
        selectors.push(RowSelector::skip(1));
        next = row + 1;
    }
    if next < range.end {
        selectors.push(RowSelector::select((range.end - next) as usize));
    }
    // Adjacent skips are merged here.
    RowSelection::from(selectors)
}

/// One file per piece of work, spread over at most `partitions` groups that share their work, and how many rows they
/// have. The values of the virtual columns follow each file: the address of its first row and, if wanted, its owner.
pub(super) fn files(
    chunks: &[(ColdChunk, Access)],
    virtual_columns: bool,
    user_column: bool,
    partitions: usize,
) -> Vec<Vec<PartitionedFile>> {
    let readable: usize = chunks.iter().map(|(_, access)| access.readable()).sum();
    let per_file = readable.div_ceil(partitions.max(1) * FILES_PER_PARTITION);
    let mut groups = vec![Vec::new(); partitions.min(readable).max(1)];
    let mut next = 0;
    for (chunk, access) in chunks {
        for plan in access.cut(per_file) {
            let at = next % groups.len();
            groups[at].push(file(chunk, plan, virtual_columns, user_column));
            next += 1;
        }
    }
    groups.retain(|group| !group.is_empty());
    if groups.is_empty() {
        // A plan has at least one partition, even if no row can be read.
        groups.push(Vec::new());
    }
    groups
}

fn file(
    chunk: &ColdChunk,
    plan: ParquetAccessPlan,
    virtual_columns: bool,
    user_column: bool,
) -> PartitionedFile {
    let segment: &Arc<Segment> = &chunk.chunk.segment;
    let meta = segment.meta();
    let mut file = PartitionedFile::new(meta.path.clone(), meta.bytes)
        .with_extension(SegmentHandle(segment.clone()))
        .with_extension(plan);
    file.arrow_schema = Some(segment.schema().storage().clone());
    if virtual_columns {
        file.partition_values.push(ScalarValue::UInt64(Some(PartitionView::address(chunk.index, 0))));
    }
    if user_column {
        file.partition_values
            .push(ScalarValue::Utf8View(chunk.user.as_ref().map(|user| user.as_str().to_owned())));
    }
    file
}

#[cfg(test)]
mod tests {
    use datafusion::common::config::ConfigOptions;
    use datafusion::parquet::arrow::arrow_reader::RowSelectionPolicy;

    use super::*;

    fn selected(access: &Access, sizes: &[u32]) -> Vec<u32> {
        let mut rows = Vec::new();
        let mut first = 0;
        for (group, size) in access.groups.iter().zip(sizes) {
            match group {
                RowGroupAccess::Skip => {}
                RowGroupAccess::Scan => rows.extend(first..first + size),
                RowGroupAccess::Selection(selection) => {
                    let mut at = first;
                    for selector in selection.iter() {
                        if !selector.skip {
                            rows.extend(at..at + selector.row_count as u32);
                        }
                        at += selector.row_count as u32;
                    }
                    assert_eq!(at, first + size, "a selection covers its row group");
                }
            }
            first += size;
        }
        rows
    }

    #[test]
    fn exactly_the_rows_that_are_neither_hidden_nor_unwanted_tombstones_are_read() {
        let sizes = [4, 3, 5, 2];
        let patterns: [&[u32]; 6] =
            [&[], &[0], &[3, 4], &[4, 5, 6], &[0, 2, 7, 11, 12, 13], &[0, 1, 2, 3, 4, 5, 6]];
        for pattern in patterns {
            let hidden: RoaringBitmap = pattern.iter().copied().collect();
            for live in 0..=4 {
                for tombstones in [false, true] {
                    let access = Access::of_sizes(sizes.into_iter(), live, Some(&hidden), tombstones);
                    let end = if tombstones { 14 } else { sizes[..live].iter().sum() };
                    let expected: Vec<u32> = (0..end).filter(|row| !hidden.contains(*row)).collect();
                    assert_eq!(selected(&access, &sizes), expected, "{pattern:?} live={live} {tombstones}");
                    assert_eq!(access.rows, expected.len());
                }
            }
        }
    }

    #[test]
    fn the_reader_masks_scattered_rows_and_skips_runs() {
        assert_eq!(RowSelectionPolicy::default(), RowSelectionPolicy::Auto { threshold: 32 });
        assert!(!ConfigOptions::default().execution.parquet.force_filter_selections);
    }

    #[test]
    fn cutting_a_file_into_pieces_loses_and_repeats_nothing() {
        let hidden: RoaringBitmap = [1, 5].into_iter().collect();
        let access = Access::of_sizes([2, 2, 2, 2, 2].into_iter(), 4, Some(&hidden), false);
        for most in 1..6 {
            let plans = access.cut(most);
            for (group, wanted) in access.groups.iter().enumerate() {
                let reading = plans.iter().filter(|plan| plan.should_scan(group)).count();
                assert_eq!(reading, usize::from(wanted.should_scan()), "row group {group} at {most}");
            }
        }
    }
}
