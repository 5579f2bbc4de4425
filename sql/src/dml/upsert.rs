//! `INSERT ... ON CONFLICT`: rows whose key is there already are left alone or updated.
//!
//! The rows that are there are found by key, without a scan where the key index knows. What is to become of them is
//! computed by a SELECT that joins them with the proposed rows, which it sees as a table named `excluded`. A bare name
//! means the row that is there, because the columns of `excluded` have other names in that SELECT. Both parts are one
//! commit. If somebody else inserts one of the keys in between, the statement is run again and finds it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{
    concat_batches, filter_record_batch, interleave_record_batch, prep_null_mask_filter, take,
    take_record_batch,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimestampMicrosecondType, UInt64Type};
use datafusion::datasource::MemTable;
use datafusion::physical_plan::common::collect;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, ConflictTarget, Expr, Ident, Insert, ObjectName, OnConflict, OnConflictAction, Statement,
    TableWithJoins, VisitMut, VisitorMut,
};
use kalamdb_engine::{Changed, OldRows, PartitionWrite, SEQ, Table, UPDATED, UserId};
use serde_json::Value;

use super::assign::{self, Assigned};
use super::checks::Checks;
use super::insert::{Source, from, rows};
use super::retry::{Tries, commit};
use super::returning::{Returning, Written};
use super::rows::{group_by_owner, own_partition};
use super::select::{numbered, select};
use super::target;
use crate::dialect::{self, position};
use crate::error::{Error, ErrorCode, Result};
use crate::names;
use crate::provider::{EngineTable, Extension, Narrowed, ROW_ADDRESS, Scans, USER, find_keys};
use crate::query::{self, Planner};
use crate::session::Outcome;
use crate::statement::StatementContext;

/// What the proposed rows are called.
const EXCLUDED: &str = "excluded";
/// What the rows that are there are called, before they get the name that the statement has for them.
const TARGET: &str = "#target";
/// The number of a proposed row.
const NUMBER: &str = "#";
/// Where the old columns begin in the SELECT: behind number, address, `_seq` and `_updated`.
const FIRST_OLD: usize = 4;

/// Runs an INSERT with ON CONFLICT; `ctx` is at the newest applied state.
///
/// # Errors
/// As the contract says; nothing is written then.
pub(super) async fn upsert(
    mut ctx: Arc<StatementContext>,
    statement: &Insert,
    name: &ObjectName,
    conflict: &OnConflict,
    params: &[Value],
) -> Result<Outcome> {
    let mut tries = Tries::new(target::changeable(&ctx, name)?.id);
    let mut turn = None;
    loop {
        ctx = tries.begin(ctx, &mut turn).await;
        let table = target::changeable(&ctx, name)?;
        let returning = Returning::new(&ctx, &table, from(statement, name), statement.returning.as_deref())?;
        let Outcomes { writes, written, changes_keys } =
            match outcomes(&ctx, &table, statement, conflict, params).await {
                Ok(outcomes) => outcomes,
                // A conflict: a table that it reads was altered since the statement took its catalog.
                Err(error) => {
                    ctx = tries.again(&ctx, error)?;
                    continue;
                }
            };
        let count = written.rows.num_rows();
        if count == 0 {
            drop(turn);
            // What the statement saw must be durable before a client hears of it.
            ctx.instance.database().until_visible(ctx.snapshot.seq()).await?;
            return returning.outcome(&ctx, Written::nothing(&table)?, None).await;
        }
        match commit(&ctx, writes, &mut turn).await {
            Ok(applied) => {
                let mut outcome = returning.outcome(&ctx, written, Some(applied.versions)).await?;
                (outcome.affected_rows, outcome.seq) = (Some(count as u64), applied.seq);
                return Ok(outcome);
            }
            Err(error) => {
                let mut error = Error::from(error);
                // A key that was free a moment ago: the next try finds who has it.
                if error.code == ErrorCode::UniqueViolation && !changes_keys {
                    error.code = ErrorCode::Conflict;
                }
                ctx = tries.again(&ctx, error)?;
            }
        }
    }
}

/// What one try of the statement wants to commit.
async fn outcomes(
    ctx: &Arc<StatementContext>,
    table: &Arc<Table>,
    statement: &Insert,
    conflict: &OnConflict,
    params: &[Value],
) -> Result<Outcomes> {
    check_target(ctx, table, conflict)?;
    let alias = statement.table_alias.as_ref().map(|alias| alias.alias.clone());
    let alias = alias.unwrap_or_else(|| quoted(table.name.as_str()));
    if names::fold(&alias) == EXCLUDED {
        let message = "excluded is what ON CONFLICT calls the new rows";
        return Err(Error::new(ErrorCode::InvalidStatement, message)
            .with_hint("give the table another name: INSERT INTO excluded AS t ..."));
    }
    let source = rows(ctx, table, statement, params).await?;
    Checks::new(ctx, table)?.check(&source.rows)?;
    let proposed = Proposed::new(ctx, table, source)?;
    let action = Action::new(ctx, table, conflict, params)?;
    if matches!(action, Action::Update { .. }) {
        proposed.check_no_key_twice(table)?;
    }
    Upsert { ctx, table, alias, proposed, action, params }.run().await
}

/// The only thing that is unique is the primary key.
fn check_target(ctx: &StatementContext, table: &Table, conflict: &OnConflict) -> Result<()> {
    let key: HashSet<usize> = table.schema.key_indices().iter().copied().collect();
    let refuse = |at| {
        let names: Vec<&str> =
            table.schema.key_indices().iter().map(|at| table.schema.columns()[*at].name.as_str()).collect();
        let message = format!("ON CONFLICT is for the primary key of table {}", table.qualified_name());
        Err(Error::new(ErrorCode::InvalidStatement, message)
            .with_hint(format!("write ON CONFLICT ({})", names.join(", ")))
            .with_position(at))
    };
    match &conflict.conflict_target {
        None if matches!(conflict.action, OnConflictAction::DoNothing) => Ok(()),
        None => refuse(None),
        Some(ConflictTarget::OnConstraint(name)) => {
            refuse(target::last_ident(name).ok().and_then(|ident| position(ident.span)))
        }
        Some(ConflictTarget::Columns(columns)) => {
            let mut named = HashSet::new();
            for ident in columns {
                match target::column(ctx, table, ident)? {
                    target::Target::Column(at) => named.insert(at),
                    target::Target::User => return refuse(position(ident.span)),
                };
            }
            if named == key { Ok(()) } else { refuse(columns.first().and_then(|ident| position(ident.span))) }
        }
    }
}

/// The rows that are to be inserted.
struct Proposed {
    source: Source,
    /// Row numbers by owner; all rows of the own partition if the statement does not say whose they are.
    groups: BTreeMap<Option<UserId>, Vec<u32>>,
    /// Per row, the first row with its owner and key.
    first: Vec<u32>,
}

impl Proposed {
    fn new(ctx: &StatementContext, table: &Table, source: Source) -> Result<Self> {
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

    fn is_repeated(&self, row: u32) -> bool {
        self.first[row as usize] != row
    }

    fn check_no_key_twice(&self, table: &Table) -> Result<()> {
        if (0..self.first.len() as u32).all(|row| !self.is_repeated(row)) {
            return Ok(());
        }
        let message =
            format!("ON CONFLICT DO UPDATE would write a row of table {} twice", table.qualified_name());
        Err(Error::new(ErrorCode::InvalidStatement, message)
            .with_hint("no two of the rows to be inserted may have the same key"))
    }

    /// The proposed rows as the table `excluded`: their columns under other names, and their numbers.
    fn table(&self, table: &Table) -> Result<Arc<MemTable>> {
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
fn hidden_name(column: &str) -> String {
    format!("{EXCLUDED}.{column}")
}

fn keys(table: &Table, rows: &RecordBatch) -> Vec<ArrayRef> {
    table.schema.key_indices().iter().map(|at| rows.column(*at).clone()).collect()
}

/// What becomes of rows whose key is there.
enum Action {
    Nothing,
    Update { assigned: Vec<Assigned>, expressions: Vec<Expr>, condition: Option<Box<Expr>> },
}

impl Action {
    fn new(ctx: &StatementContext, table: &Table, conflict: &OnConflict, params: &[Value]) -> Result<Self> {
        let OnConflictAction::DoUpdate(update) = &conflict.action else { return Ok(Self::Nothing) };
        let (assigned, mut expressions) = assign::assignments(ctx, table, &update.assignments, params)?;
        let mut condition = update.selection.clone();
        let mut rename = RenameExcluded { table };
        for expression in expressions.iter_mut().chain(&mut condition) {
            if let ControlFlow::Break(error) = expression.visit(&mut rename) {
                return Err(*error);
            }
        }
        Ok(Self::Update { assigned, expressions, condition: condition.map(Box::new) })
    }
}

/// `EXCLUDED.c` becomes the name that `c` has among the proposed rows, `namespace.table.c` becomes `table.c`.
struct RenameExcluded<'a> {
    table: &'a Table,
}

impl VisitorMut for RenameExcluded<'_> {
    type Break = Box<Error>;

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Box<Error>> {
        let Expr::CompoundIdentifier(parts) = expr else { return ControlFlow::Continue(()) };
        if let [namespace, table, _] = parts.as_slice()
            && names::fold(namespace) == self.table.namespace.as_str()
            && names::fold(table) == self.table.name.as_str()
        {
            parts.remove(0);
        }
        let [relation, column] = parts.as_mut_slice() else { return ControlFlow::Continue(()) };
        if names::fold(relation) != EXCLUDED {
            return ControlFlow::Continue(());
        }
        let name = names::fold(column);
        let declared = self.table.schema.columns().iter().map(|column| column.name.as_str());
        if !declared.clone().any(|known| known == name) {
            let at = position(column.span);
            return ControlFlow::Break(Box::new(names::column_not_found(EXCLUDED, &name, declared, at)));
        }
        *relation = Ident { span: relation.span, ..quoted(EXCLUDED) };
        *column = Ident { span: column.span, ..quoted(&hidden_name(&name)) };
        ControlFlow::Continue(())
    }
}

fn quoted(name: &str) -> Ident {
    Ident::with_quote('"', name)
}

/// One try.
struct Upsert<'a> {
    ctx: &'a Arc<StatementContext>,
    table: &'a Arc<Table>,
    /// What the statement calls the table.
    alias: Ident,
    proposed: Proposed,
    action: Action,
    params: &'a [Value],
}

/// What a try wants to commit.
struct Outcomes {
    writes: Vec<PartitionWrite>,
    written: Written,
    /// True if rows move to other keys, which others may have.
    changes_keys: bool,
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
    async fn run(self) -> Result<Outcomes> {
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
