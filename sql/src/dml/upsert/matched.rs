//! One try: finds the rows that are there, joins them with the proposed ones, and makes the writes of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{
    concat_batches, filter_record_batch, interleave_record_batch, prep_null_mask_filter, take,
    take_record_batch,
};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType, UInt64Type};
use datafusion::physical_plan::common::collect;
use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Ident, Statement, TableWithJoins};
use kalamdb_engine::{Changed, OldRows, PartitionWrite, SEQ, Table, UPDATED};
use serde_json::Value;

use super::super::assign::{self, Assigned};
use super::super::checks::Checks;
use super::super::returning::Written;
use super::super::rows::own_partition;
use super::super::select::{numbered, select};
use super::action::Action;
use super::proposed::{NUMBER, Proposed, hidden_name, keys};
use super::{EXCLUDED, quoted};
use crate::dialect;
use crate::error::{Error, ErrorCode, Result};
use crate::provider::{EngineTable, Extension, Narrowed, ROW_ADDRESS, Scans, USER, find_keys};
use crate::query::{self, Planner};
use crate::statement::StatementContext;

/// What the rows that are there are called, before they get the name that the statement has for them.
const TARGET: &str = "#target";
/// Where the old columns begin in the SELECT: behind number, address, `_seq` and `_updated`.
const FIRST_OLD: usize = 4;

/// One try.
pub(super) struct Upsert<'a> {
    pub(super) ctx: &'a Arc<StatementContext>,
    pub(super) table: &'a Arc<Table>,
    /// What the statement calls the table.
    pub(super) alias: Ident,
    pub(super) proposed: Proposed,
    pub(super) action: Action,
    pub(super) params: &'a [Value],
}

/// What a try wants to commit.
pub(super) struct Outcomes {
    pub(super) writes: Vec<PartitionWrite>,
    pub(super) written: Written,
    /// True if rows move to other keys, which others may have.
    pub(super) changes_keys: bool,
}

/// The rows that are there, as far as they match, and what they become.
struct Matched {
    /// Of every row that is there: the number of the proposed row with its key.
    taken: HashSet<u32>,
    /// Of those that are updated: the number of the proposed row, the address, `_seq`, `_updated`, the old columns, and
    /// what was computed.
    rows: RecordBatch,
}

impl Upsert<'_> {
    pub(super) async fn run(self) -> Result<Outcomes> {
        let scans: Arc<Scans> = Arc::default();
        let narrowed = self.narrowed(&scans).await?;
        let matched = match narrowed.is_empty() {
            true => None,
            false => Some(self.matched(&scans, narrowed).await?),
        };
        let taken = |row: u32| matched.as_ref().is_some_and(|matched| matched.taken.contains(&row));
        let inserted =
            |row: u32| !taken(self.proposed.first[row as usize]) && !self.proposed.is_repeated(row);
        let updated = match (&matched, &self.action) {
            (Some(matched), Action::Update { assigned, .. }) if matched.rows.num_rows() > 0 => {
                Some((matched, self.new_rows(matched, assigned)?))
            }
            _ => None,
        };
        let mut writes = Vec::new();
        for (user, rows) in &self.proposed.groups {
            let mut write = PartitionWrite::new(self.table.clone(), user.clone());
            let picked: Vec<u32> = rows.iter().copied().filter(|row| inserted(*row)).collect();
            if !picked.is_empty() {
                let picked = UInt32Array::from(picked);
                write.insert = Some(take_record_batch(&self.proposed.source.rows, &picked)?);
            }
            if let Some((matched, new)) = &updated {
                let mine: HashSet<u32> = rows.iter().copied().collect();
                if let Some(changed) = changed(self.table, matched, new, &mine)? {
                    write.update = Some(changed);
                    write.view = Some(scans.view(self.ctx, self.table, user.as_ref()).await?);
                }
            }
            if write.insert.is_some() || write.update.is_some() {
                writes.push(write);
            }
        }
        let changes_keys = match &self.action {
            Action::Nothing => false,
            Action::Update { assigned, .. } => {
                assigned.iter().any(|(at, _)| self.table.schema.key_indices().contains(at))
            }
        };
        let written = self.written(&inserted, updated.as_ref().map(|(matched, new)| (&matched.rows, new)))?;
        Ok(Outcomes { writes, written, changes_keys })
    }

    /// Where the rows are that have the proposed keys.
    async fn narrowed(&self, scans: &Scans) -> Result<Narrowed> {
        let mut narrowed = Narrowed::default();
        for (user, rows) in &self.proposed.groups {
            let view = scans.view(self.ctx, self.table, user.as_ref()).await?;
            let rows = take_record_batch(&self.proposed.source.rows, &UInt32Array::from(rows.clone()))?;
            let found = find_keys(self.ctx, &view, keys(self.table, &rows)).await?;
            narrowed.add(user.clone(), found.map(|found| found.into_iter().flatten().collect()));
        }
        Ok(narrowed)
    }

    /// Joins the rows that are there with the proposed ones.
    async fn matched(&self, scans: &Arc<Scans>, narrowed: Narrowed) -> Result<Matched> {
        let owned = self.proposed.source.owners.is_some();
        let extension = Extension { system: true, user: owned, address: true };
        let shape = self.ctx.instance.queries().shapes().shape(self.table, extension);
        let (ctx, table) = (self.ctx.clone(), self.table.clone());
        let there = EngineTable::new(ctx, scans.clone(), table, shape, owned).narrowed(narrowed);
        let planner = Planner::new(self.ctx)
            .with_target(self.table)
            .with_some_params()
            .with_named(TARGET, Arc::new(there))
            .with_named(EXCLUDED, self.proposed.table(self.table)?);
        let plan = planner.plan(&self.select(owned)?, self.params)?;
        let plan = query::physical_plan(self.ctx, plan).await?;
        let schema = plan.schema();
        let batches = collect(query::execute(self.ctx, plan)?).await?;
        let all = concat_batches(&schema, &batches)?;
        let numbers = all.column(0).as_primitive::<Int64Type>();
        let taken = numbers.values().iter().map(|number| *number as u32).collect();
        let rows = match &self.action {
            Action::Update { condition: Some(_), .. } => {
                let held = all.column(all.num_columns() - 1).as_boolean_opt();
                let held = held.ok_or_else(|| {
                    Error::new(ErrorCode::TypeMismatch, "WHERE of ON CONFLICT DO UPDATE is not a condition")
                })?;
                let held = if held.null_count() > 0 { prep_null_mask_filter(held) } else { held.clone() };
                filter_record_batch(&all, &held)?
            }
            _ => all,
        };
        Ok(Matched { taken, rows })
    }

    /// The SELECT of what [`Matched`] says.
    fn select(&self, owned: bool) -> Result<Statement> {
        let there = |name: &str| Expr::CompoundIdentifier(vec![self.alias.clone(), quoted(name)]);
        let proposed = |name: &str| Expr::CompoundIdentifier(vec![quoted(EXCLUDED), quoted(name)]);
        let mut list = vec![proposed(NUMBER)];
        if let Action::Update { expressions, condition, .. } = &self.action {
            list.extend([there(ROW_ADDRESS), there(SEQ), there(UPDATED)]);
            list.extend(self.table.schema.columns().iter().map(|column| there(&column.name)));
            list.extend(expressions.iter().cloned());
            list.extend(condition.as_deref().cloned());
        }
        let list = list.into_iter().enumerate().map(|(at, expr)| numbered(expr, at)).collect();
        let key =
            self.table.schema.key_indices().iter().map(|at| self.table.schema.columns()[*at].name.as_str());
        let same = key.chain(owned.then_some(USER)).map(|name| Expr::BinaryOp {
            left: Box::new(there(name)),
            op: BinaryOperator::Eq,
            right: Box::new(proposed(&hidden_name(name))),
        });
        let both = |left, right| Expr::BinaryOp {
            left: Box::new(left),
            op: BinaryOperator::And,
            right: Box::new(right),
        };
        let relation = |name: &str, alias: Option<Ident>| TableWithJoins {
            relation: dialect::plain_table(vec![quoted(name)].into(), alias),
            joins: Vec::new(),
        };
        let from = vec![relation(TARGET, Some(self.alias.clone())), relation(EXCLUDED, None)];
        select(list, from, same.reduce(both))
    }

    /// What the rows of `matched` become.
    fn new_rows(&self, matched: &Matched, assigned: &[Assigned]) -> Result<RecordBatch> {
        let declared = self.table.schema.columns().len();
        let old = matched.rows.columns()[FIRST_OLD..FIRST_OLD + declared].to_vec();
        let new = assign::new_rows(self.table, old, assigned, FIRST_OLD + declared, &matched.rows)?;
        Checks::new(self.ctx, self.table)?.check(&new)?;
        Ok(new)
    }

    /// The rows that were inserted or updated, in the order in which they were proposed.
    fn written(
        &self,
        inserted: &dyn Fn(u32) -> bool,
        updated: Option<(&RecordBatch, &RecordBatch)>,
    ) -> Result<Written> {
        let source = &self.proposed.source;
        let mut places: HashMap<u32, usize> = HashMap::new();
        if let Some((matched, _)) = updated {
            let numbers = matched.column(0).as_primitive::<Int64Type>().values().iter();
            places.extend(numbers.enumerate().map(|(at, number)| (*number as u32, at)));
        }
        let mut rows = Vec::new();
        let mut parts = Vec::new();
        for row in 0..source.rows.num_rows() as u32 {
            match (inserted(row), places.get(&row)) {
                (true, _) => parts.push((0, row as usize)),
                (false, Some(at)) => parts.push((1, *at)),
                (false, None) => continue,
            }
            rows.push(row);
        }
        let new = updated.map_or(&source.rows, |(_, new)| new);
        let owners = source.owners.as_ref();
        let owners = owners.map(|owners| take(owners, &UInt32Array::from(rows), None)).transpose()?;
        let rows = interleave_record_batch(&[&source.rows, new], &parts)?;
        Ok(Written { rows, owners, user: own_partition(self.ctx, self.table), deleted: false })
    }
}

/// The update of those matched rows whose proposed rows are `mine`.
fn changed(
    table: &Table,
    matched: &Matched,
    new: &RecordBatch,
    mine: &HashSet<u32>,
) -> Result<Option<Changed>> {
    let numbers = matched.rows.column(0).as_primitive::<Int64Type>();
    let picked =
        (0..numbers.len() as u32).filter(|row| mine.contains(&(numbers.value(*row as usize) as u32)));
    let picked = UInt32Array::from_iter_values(picked);
    if picked.is_empty() {
        return Ok(None);
    }
    let part = take_record_batch(&matched.rows, &picked)?;
    let old = part.columns()[FIRST_OLD..FIRST_OLD + table.schema.columns().len()].to_vec();
    Ok(Some(Changed {
        addresses: part.column(1).as_primitive::<UInt64Type>().values().to_vec(),
        old: OldRows {
            rows: RecordBatch::try_new(table.schema.rows().clone(), old)?,
            seqs: part.column(2).as_primitive::<Int64Type>().clone(),
            updated: part.column(3).as_primitive::<TimestampMicrosecondType>().clone(),
        },
        new: take_record_batch(new, &picked)?,
    }))
}
