//! Reading a few rows of a segment: through the pages that they are in, which are kept.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use arrow::array::{Array, ArrayRef};
use arrow::compute::interleave;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};
use parquet::file::metadata::ParquetMetaData;
use parquet::schema::types::SchemaDescriptor;

use super::pages::Page;
use super::read::{Loaded, Segment};
use crate::error::{Error, Result};

/// Where a page is in the file.
#[derive(Debug, Clone)]
struct Span {
    group: usize,
    /// The group's first row in the file.
    first_row: u32,
    /// The page's rows, counted from there.
    rows: Range<usize>,
}

impl Span {
    fn page(&self, column: usize) -> Page {
        Page { column: column as u32, first_row: self.first_row + self.rows.start as u32 }
    }
}

impl Segment {
    /// The columns of the file at `roots`, in ascending order, of some of its rows. `None` if the file does not say where
    /// pages begin, or a column is made of several.
    ///
    /// # Errors
    /// [`Error::PartitionDamaged`] if the file is not what was written.
    pub(crate) fn few_rows(&self, rows: &[u32], roots: &[usize]) -> Result<Option<Vec<ArrayRef>>> {
        let loaded = self.load()?;
        let Some(spans) = spans(&loaded.parquet, rows, roots) else { return Ok(None) };
        let pages = self.pages(loaded, roots, &spans)?;
        let column = |(at, root): (usize, &usize)| {
            let spans = spans.iter().map(|of_row| &of_row[at]);
            let places: Vec<(&dyn Array, usize)> = spans
                .zip(rows)
                .map(|(span, row)| {
                    let page = span.page(*root);
                    (pages[&page].as_ref(), (row - page.first_row) as usize)
                })
                .collect();
            let arrays: Vec<&dyn Array> = places.iter().map(|(page, _)| *page).collect();
            let indices: Vec<(usize, usize)> =
                places.iter().enumerate().map(|(n, (_, row))| (n, *row)).collect();
            interleave(&arrays, &indices).map_err(|e| Error::internal("pick rows of pages", e))
        };
        roots.iter().enumerate().map(column).collect::<Result<_>>().map(Some)
    }

    /// The values of all those pages, by row and column.
    fn pages(
        &self,
        loaded: &Loaded,
        roots: &[usize],
        spans: &[Vec<Span>],
    ) -> Result<HashMap<Page, ArrayRef>> {
        let mut pages = HashMap::new();
        let mut missing: BTreeMap<(usize, usize), (&Span, Vec<usize>)> = BTreeMap::new();
        for of_row in spans {
            for (span, root) in of_row.iter().zip(roots) {
                let page = span.page(*root);
                if pages.contains_key(&page) {
                    continue;
                }
                if let Some(values) = self.kept_page(page) {
                    pages.insert(page, values);
                    continue;
                }
                // Columns whose pages have the same rows are read together.
                let together =
                    missing.entry((page.first_row as usize, span.rows.end)).or_insert((span, Vec::new()));
                if !together.1.contains(root) {
                    together.1.push(*root);
                }
            }
        }
        for (span, mut roots) in missing.into_values() {
            roots.sort_unstable();
            let read =
                read(loaded, span, &roots).map_err(|e| Error::internal("read a page of a segment", e))?;
            if read.iter().any(|values| values.len() != span.rows.len()) || read.len() != roots.len() {
                return Err(self.damaged("it has fewer rows than its footer says"));
            }
            for (root, values) in roots.iter().zip(read) {
                self.keep_page(span.page(*root), values.clone());
                pages.insert(span.page(*root), values);
            }
        }
        Ok(pages)
    }
}

/// Where the pages of `roots` are that hold each of the rows.
fn spans(parquet: &ParquetMetaData, rows: &[u32], roots: &[usize]) -> Option<Vec<Vec<Span>>> {
    let leaves = leaves(parquet.file_metadata().schema_descr(), roots)?;
    let index = parquet.offset_index()?;
    let span = |row: u32| {
        let mut first_row = 0;
        let group = parquet.row_groups().iter().position(|group| {
            let here = row < first_row + group.num_rows() as u32;
            first_row += if here { 0 } else { group.num_rows() as u32 };
            here
        })?;
        let at = i64::from(row - first_row);
        let of_leaf = |leaf: &usize| {
            let locations = index.get(group)?.get(*leaf)?.page_locations();
            let next = locations.partition_point(|location| location.first_row_index <= at);
            let begin = locations.get(next.checked_sub(1)?)?.first_row_index;
            let end = locations.get(next).map_or(parquet.row_group(group).num_rows(), |l| l.first_row_index);
            Some(Span { group, first_row, rows: begin as usize..end as usize })
        };
        leaves.iter().map(of_leaf).collect()
    };
    rows.iter().map(|row| span(*row)).collect()
}

/// The columns of the file that are those at `roots`, if each of them is one.
fn leaves(schema: &SchemaDescriptor, roots: &[usize]) -> Option<Vec<usize>> {
    let mut leaves = vec![None; roots.len()];
    for leaf in 0..schema.num_columns() {
        let Ok(at) = roots.binary_search(&schema.get_column_root_idx(leaf)) else { continue };
        if schema.column(leaf).max_rep_level() > 0 || leaves[at].replace(leaf).is_some() {
            return None;
        }
    }
    leaves.into_iter().collect()
}

fn read(
    loaded: &Loaded,
    span: &Span,
    roots: &[usize],
) -> std::result::Result<Vec<ArrayRef>, Box<dyn std::error::Error>> {
    let descriptor = loaded.parquet.file_metadata().schema_descr();
    let selection = vec![RowSelector::skip(span.rows.start), RowSelector::select(span.rows.len())];
    let mut reader =
        ParquetRecordBatchReaderBuilder::new_with_metadata(loaded.bytes.clone(), loaded.reader.clone())
            .with_row_groups(vec![span.group])
            .with_row_selection(RowSelection::from(selection))
            .with_projection(ProjectionMask::roots(descriptor, roots.iter().copied()))
            .with_batch_size(span.rows.len())
            .build()?;
    Ok(reader.next().transpose()?.map(|batch| batch.columns().to_vec()).unwrap_or_default())
}
