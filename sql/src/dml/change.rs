//! UPDATE and DELETE: a SELECT of addresses and old values, then one commit that marks exactly those rows.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType, UInt64Type};
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::sql::sqlparser::ast::{
    Delete, Expr, FromTable, Ident, ObjectName, SelectItem, TableFactor, TableWithJoins, Update,
    UpdateTableFromKind,
};
use kalamdb_engine::{Changed, OldRows, PartitionWrite, Removed, SEQ, Table, TableKind, UPDATED, UserId};
use serde_json::Value;

use super::assign::{self, Assigned};
use super::checks::Checks;
use super::gather::{Gathered, gather};
use super::retry::{Tries, commit};
use super::returning::{Returning, Written};
use super::rows::{group_by_owner, own_partition};
use super::select::{numbered, qualifier, select};
use super::system;
use super::target;
use crate::error::{Error, ErrorCode, Result};
use crate::provider::{ROW_ADDRESS, Scans, USER};
use crate::query::{self, Planner};
use crate::session::Outcome;
use crate::statement::StatementContext;

/// Runs an UPDATE; `ctx` is at the newest applied state.
///
/// # Errors
/// As the contract says; nothing is changed then.
pub(crate) async fn update(
    ctx: Arc<StatementContext>,
    statement: &Update,
    params: &[Value],
) -> Result<Outcome> {
    if statement.or.is_some() || !statement.order_by.is_empty() || statement.limit.is_some() {
        return Err(unsupported("UPDATE with OR, ORDER BY or LIMIT"));
    }
    target::check_text(statement, params)?;
    if let TableFactor::Table { name, .. } = &statement.table.relation
        && let Some(id) = system::editable(&ctx, name)?
    {
        return Box::pin(system::update(&ctx, id, statement, params)).await;
    }
    let mut from = vec![statement.table.clone()];
    if let Some(UpdateTableFromKind::BeforeSet(more) | UpdateTableFromKind::AfterSet(more)) = &statement.from
    {
        from.extend(more.iter().cloned());
    }
    let change = Change {
        from,
        selection: statement.selection.clone(),
        assignments: Some(&statement.assignments),
        returning: statement.returning.as_deref(),
        params,
    };
    change.run(ctx).await
}

/// Runs a DELETE; `ctx` is at the newest applied state.
///
/// # Errors
/// As the contract says; nothing is deleted then.
pub(crate) async fn delete(
    ctx: Arc<StatementContext>,
    statement: &Delete,
    params: &[Value],
) -> Result<Outcome> {
    if !statement.tables.is_empty() || !statement.order_by.is_empty() || statement.limit.is_some() {
        return Err(unsupported("DELETE of several tables, with ORDER BY or LIMIT"));
    }
    target::check_text(statement, params)?;
    let (FromTable::WithFromKeyword(tables) | FromTable::WithoutKeyword(tables)) = &statement.from;
    if tables.len() != 1 {
        return Err(unsupported("DELETE of several tables"));
    }
    if let TableFactor::Table { name, .. } = &tables[0].relation
        && let Some(id) = system::editable(&ctx, name)?
    {
        return Box::pin(system::delete(&ctx, id, statement, params)).await;
    }
    let mut from = tables.clone();
    from.extend(statement.using.iter().flatten().cloned());
    let change = Change {
        from,
        selection: statement.selection.clone(),
        assignments: None,
        returning: statement.returning.as_deref(),
        params,
    };
    change.run(ctx).await
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorCode::Unsupported, format!("{what} is not supported"))
}

/// An UPDATE, or a DELETE if it assigns nothing.
struct Change<'a> {
    from: Vec<TableWithJoins>,
    selection: Option<Expr>,
    assignments: Option<&'a [datafusion::sql::sqlparser::ast::Assignment]>,
    returning: Option<&'a [SelectItem]>,
    params: &'a [Value],
}

/// The SELECT and what its columns are: the address, `_seq`, `_updated`, `_user` if rows of several owners may match,
/// the declared columns, the assigned expressions.
struct Rewritten {
    statement: datafusion::sql::sqlparser::ast::Statement,
    owned: bool,
    assigned: Vec<Assigned>,
}

impl Rewritten {
    fn declared_from(&self) -> usize {
        if self.owned { 4 } else { 3 }
    }
}

impl Change<'_> {
    async fn run(&self, mut ctx: Arc<StatementContext>) -> Result<Outcome> {
        let name = self.name()?;
        let mut tries = Tries::new(target::changeable(&ctx, name)?.id);
        let mut turn = None;
        loop {
            ctx = tries.begin(ctx, &mut turn).await;
            let table = target::changeable(&ctx, name)?;
            let target = TableWithJoins { relation: self.from[0].relation.clone(), joins: Vec::new() };
            let returning = Returning::new(&ctx, &table, target, self.returning)?;
            let rewritten = self.rewrite(&ctx, &table)?;
            let planner = Planner::new(&ctx).with_target(&table);
            // The memory that the rows were promised is held until they are committed.
            let (matched, _memory) = match matched(&ctx, &planner, &rewritten, self.params).await {
                Ok(matched) => matched,
                // A conflict: a table was altered since the statement took its catalog.
                Err(error) => {
                    ctx = tries.again(&ctx, error)?;
                    continue;
                }
            };
            let count = matched.num_rows();
            if count == 0 {
                drop(turn);
                // What the statement saw must be durable before a client hears that nothing matched.
                ctx.instance.database().until_visible(ctx.snapshot.seq()).await?;
                return returning.outcome(&ctx, Written::nothing(&table)?, None).await;
            }
            let (writes, written) = self.writes(&ctx, &table, planner.scans(), &rewritten, &matched).await?;
            match commit(&ctx, writes, &mut turn).await {
                Ok(applied) => {
                    let mut outcome = returning.outcome(&ctx, written, Some(applied.versions)).await?;
                    (outcome.affected_rows, outcome.seq) = (Some(count as u64), applied.seq);
                    return Ok(outcome);
                }
                Err(error) => ctx = tries.again(&ctx, error.into())?,
            }
        }
    }

    fn name(&self) -> Result<&ObjectName> {
        match self.from.first() {
            Some(TableWithJoins { relation: TableFactor::Table { name, args: None, .. }, joins })
                if joins.is_empty() =>
            {
                Ok(name)
            }
            _ => Err(unsupported("changing anything but one table")),
        }
    }

    fn rewrite(&self, ctx: &StatementContext, table: &Table) -> Result<Rewritten> {
        if table.schema.columns().iter().any(|column| column.secret) {
            return Err(unsupported("changing this table with UPDATE or DELETE"));
        }
        let qualifier =
            qualifier(&self.from[0].relation).ok_or_else(|| unsupported("this kind of target"))?;
        let named = |name: &str| {
            let mut parts = qualifier.clone();
            parts.push(Ident::with_quote('"', name));
            Expr::CompoundIdentifier(parts)
        };
        let written = self.assignments.unwrap_or_default();
        let (assigned, expressions) = assign::assignments(ctx, table, written, self.params)?;
        let mut list = vec![named(ROW_ADDRESS), named(SEQ), named(UPDATED)];
        let owned = table.kind == TableKind::User && self.names_user(&expressions)?;
        if owned {
            list.push(named(USER));
        }
        list.extend(table.schema.columns().iter().map(|column| named(&column.name)));
        list.extend(expressions);
        let list = list.into_iter().enumerate().map(|(at, expr)| numbered(expr, at)).collect();
        let statement = select(list, self.from.clone(), self.selection.clone())?;
        Ok(Rewritten { statement, owned, assigned })
    }

    /// True if the statement itself names `_user`, so that it reaches the rows of everybody.
    fn names_user(&self, expressions: &[Expr]) -> Result<bool> {
        let list = expressions.iter().cloned().map(SelectItem::UnnamedExpr).collect();
        Ok(query::names_user(&select(list, self.from.clone(), self.selection.clone())?))
    }

    async fn writes(
        &self,
        ctx: &Arc<StatementContext>,
        table: &Arc<Table>,
        scans: &Scans,
        rewritten: &Rewritten,
        matched: &RecordBatch,
    ) -> Result<(Vec<PartitionWrite>, Written)> {
        let declared = rewritten.declared_from();
        let old_columns = matched.columns()[declared..declared + table.schema.columns().len()].to_vec();
        let old = RecordBatch::try_new(table.schema.rows().clone(), old_columns.clone())?;
        let new = match self.assignments {
            Some(_) => {
                let computed = declared + table.schema.columns().len();
                let new = assign::new_rows(table, old_columns, &rewritten.assigned, computed, matched)?;
                Checks::new(ctx, table)?.check(&new)?;
                Some(new)
            }
            None => None,
        };
        let owners = rewritten.owned.then(|| matched.column(3).clone());
        let groups: BTreeMap<Option<UserId>, Option<Vec<u32>>> = match &owners {
            Some(owners) => {
                group_by_owner(owners)?.into_iter().map(|(user, rows)| (Some(user), Some(rows))).collect()
            }
            None => [(own_partition(ctx, table), None)].into(),
        };
        let mut writes = Vec::with_capacity(groups.len());
        for (user, rows) in groups {
            let part = |batch: &RecordBatch| -> Result<RecordBatch> {
                Ok(match &rows {
                    Some(rows) => take_record_batch(batch, &UInt32Array::from(rows.clone()))?,
                    None => batch.clone(),
                })
            };
            let marks = part(&matched.project(&[0, 1, 2])?)?;
            let addresses = marks.column(0).as_primitive::<UInt64Type>().values().to_vec();
            let old = OldRows {
                rows: part(&old)?,
                seqs: marks.column(1).as_primitive::<Int64Type>().clone(),
                updated: marks.column(2).as_primitive::<TimestampMicrosecondType>().clone(),
            };
            let mut write = PartitionWrite::new(table.clone(), user.clone());
            write.view = Some(scans.view(ctx, table, user.as_ref()).await?);
            match &new {
                Some(new) => write.update = Some(Changed { addresses, old, new: part(new)? }),
                None => write.delete = Some(Removed { addresses, old }),
            }
            writes.push(write);
        }
        let deleted = new.is_none();
        let written = Written { rows: new.unwrap_or(old), owners, user: own_partition(ctx, table), deleted };
        Ok((writes, written))
    }
}

/// Runs the SELECT; a row that a join found several times is there once.
async fn matched(
    ctx: &StatementContext,
    planner: &Planner<'_>,
    rewritten: &Rewritten,
    params: &[Value],
) -> Result<(RecordBatch, MemoryReservation)> {
    let plan = planner.plan(&rewritten.statement, params)?;
    let plan = query::physical_plan(ctx, plan).await?;
    let schema = plan.schema();
    let Gathered { batches, memory } = gather(ctx, query::execute(ctx, plan)?, Ok).await?;
    let all = concat_batches(&schema, &batches)?;
    let addresses: &UInt64Array = all.column(0).as_primitive::<UInt64Type>();
    let mut seen = HashSet::with_capacity(all.num_rows());
    let owner = |row: usize| rewritten.owned.then(|| all.column(3).as_string_view().value(row));
    let first: Vec<u32> = (0..all.num_rows())
        .filter(|row| seen.insert((owner(*row), addresses.value(*row))))
        .map(|row| row as u32)
        .collect();
    match first.len() == all.num_rows() {
        true => Ok((all, memory)),
        false => Ok((take_record_batch(&all, &UInt32Array::from(first))?, memory)),
    }
}
