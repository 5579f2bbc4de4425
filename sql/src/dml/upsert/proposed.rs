//! The rows that a statement proposes, by owner and key, and as the table `excluded`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::datasource::MemTable;
use kalamdb_engine::{Table, UserId};

use super::super::insert::Source;
use super::super::rows::{group_by_owner, own_partition};
use super::EXCLUDED;
use crate::error::{Error, ErrorCode, Result};
use crate::provider::USER;
use crate::statement::StatementContext;

/// The number of a proposed row.
pub(super) const NUMBER: &str = "#";

/// The rows that are to be inserted.
pub(super) struct Proposed {
    pub(super) source: Source,
    /// Row numbers by owner; all rows of the own partition if the statement does not say whose they are.
    pub(super) groups: BTreeMap<Option<UserId>, Vec<u32>>,
    /// Per row, the first row with its owner and key.
    pub(super) first: Vec<u32>,
}

impl Proposed {
    pub(super) fn new(ctx: &StatementContext, table: &Table, source: Source) -> Result<Self> {
        let count = source.rows.num_rows() as u32;
        let groups: BTreeMap<Option<UserId>, Vec<u32>> = match &source.owners {
            Some(owners) => {
                group_by_owner(owners)?.into_iter().map(|(user, rows)| (Some(user), rows)).collect()
            }
            None => [(own_partition(ctx, table), (0..count).collect())].into(),
        };
        let columns: Vec<ArrayRef> = keys(table, &source.rows);
        let encoded = table.schema.keys().convert_columns(&columns)?;
        let mut first: Vec<u32> = (0..count).collect();
        for rows in groups.values() {
            let mut seen: HashMap<&[u8], u32> = HashMap::with_capacity(rows.len());
            for row in rows {
                let key = encoded.row(*row as usize).data();
                first[*row as usize] = *seen.entry(key).or_insert(*row);
            }
        }
        Ok(Self { source, groups, first })
    }

    pub(super) fn is_repeated(&self, row: u32) -> bool {
        self.first[row as usize] != row
    }

    pub(super) fn check_no_key_twice(&self, table: &Table) -> Result<()> {
        if (0..self.first.len() as u32).all(|row| !self.is_repeated(row)) {
            return Ok(());
        }
        let message =
            format!("ON CONFLICT DO UPDATE would write a row of table {} twice", table.qualified_name());
        Err(Error::new(ErrorCode::InvalidStatement, message)
            .with_hint("no two of the rows to be inserted may have the same key"))
    }

    /// The proposed rows as the table `excluded`: their columns under other names, and their numbers.
    pub(super) fn table(&self, table: &Table) -> Result<Arc<MemTable>> {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..self.first.len() as i64));
        let mut fields = vec![Field::new(NUMBER, DataType::Int64, false)];
        let mut columns = vec![numbers];
        for (at, field) in table.schema.rows().fields().iter().enumerate() {
            fields.push(field.as_ref().clone().with_name(hidden_name(field.name())));
            columns.push(self.source.rows.column(at).clone());
        }
        if let Some(owners) = &self.source.owners {
            fields.push(Field::new(hidden_name(USER), DataType::Utf8View, true));
            columns.push(arrow::compute::cast(owners, &DataType::Utf8View)?);
        }
        let schema = Arc::new(Schema::new(fields));
        let rows = RecordBatch::try_new(schema.clone(), columns)?;
        Ok(Arc::new(MemTable::try_new(schema, vec![vec![rows]])?))
    }
}

/// What a column of the proposed rows is called, so that no bare name means it.
pub(super) fn hidden_name(column: &str) -> String {
    format!("{EXCLUDED}.{column}")
}

pub(super) fn keys(table: &Table, rows: &RecordBatch) -> Vec<ArrayRef> {
    table.schema.key_indices().iter().map(|at| rows.column(*at).clone()).collect()
}
