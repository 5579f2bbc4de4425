//! [`EngineTable`]: a USER, SHARED or SYSTEM table as one statement sees it.
//!
//! A USER table is the partition of the session's user and nothing else, whatever the statement says, unless it names
//! `_user`, which only `dba` and above can: then it is all partitions. Soft-deleted rows are left out unless the
//! statement names `_deleted` of this table.
//!
//! What a statement says of the table is a [`Reference`], which knows neither who asks nor when: plans that are kept refer
//! to that alone ([`Unbound`]), and get a session with every run.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DFSchema, DataFusionError, Result};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr as PhysicalBinary, Column, lit};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExecBuilder;
use datafusion::physical_plan::union::UnionExec;
use kalamdb_engine::{
    AllUsers, ChunkView, PartitionView, SEQ, Segment, SmallUsers, Table, TableId, TableKind, TableSchema,
    UserId,
};

use super::USER;
use super::keys::{self, Narrowed};
use super::scan::Scans;
use super::shape::Shape;
use crate::error::Error;
use crate::plan::{
    ColdChunk, FoundRows, HotChunk, KeyLookupExec, LookupShape, MemtableScanExec, ScanColumn, SegmentScan,
    SegmentScanExec, UsersScanExec, prune_segments,
};
use crate::statement::StatementContext;

/// What a statement says of a table, whoever runs it.
#[derive(Debug)]
pub(crate) struct Reference {
    /// The table.
    pub(crate) table: Arc<Table>,
    /// The columns that it shows.
    pub(crate) shape: Arc<Shape>,
    /// Of a USER table: all partitions, not only that of whoever asks.
    pub(crate) all_users: bool,
    tombstones: AtomicBool,
}

impl Reference {
    /// Whether soft-deleted rows are shown.
    pub(crate) fn shows_deleted(&self) -> bool {
        self.tombstones.load(Ordering::Relaxed)
    }
}

/// A reference in a plan that is kept: it has to be bound to a statement before it can be read.
#[derive(Debug)]
pub(crate) struct Unbound(pub(crate) Arc<Reference>);

#[async_trait]
impl TableProvider for Unbound {
    fn schema(&self) -> SchemaRef {
        self.0.shape.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        _: &dyn Session,
        _: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Err(Error::internal("a table of a kept plan was read by nobody").into_datafusion())
    }
}

/// One reference to a table in one statement.
#[derive(Debug)]
pub(crate) struct EngineTable {
    ctx: Arc<StatementContext>,
    scans: Arc<Scans>,
    reference: Arc<Reference>,
    narrowed: Option<Narrowed>,
}

impl EngineTable {
    /// A reference that shows the columns of `shape`; of a USER table, `all_users` or the session's user alone.
    pub(crate) fn new(
        ctx: Arc<StatementContext>,
        scans: Arc<Scans>,
        table: Arc<Table>,
        shape: Arc<Shape>,
        all_users: bool,
    ) -> Self {
        let reference = Reference { table, shape, all_users, tombstones: AtomicBool::new(false) };
        Self::bound(ctx, scans, Arc::new(reference))
    }

    /// A reference of a plan that was kept, in a statement that runs.
    pub(crate) fn bound(ctx: Arc<StatementContext>, scans: Arc<Scans>, reference: Arc<Reference>) -> Self {
        Self { ctx, scans, reference, narrowed: None }
    }

    /// The same reference, reading no more than these rows.
    #[must_use]
    pub(crate) fn narrowed(mut self, narrowed: Narrowed) -> Self {
        self.narrowed = Some(narrowed);
        self
    }

    /// The table.
    pub(crate) fn id(&self) -> TableId {
        self.table().id
    }

    fn table(&self) -> &Arc<Table> {
        &self.reference.table
    }

    /// What the statement says of the table.
    pub(crate) fn reference(&self) -> &Arc<Reference> {
        &self.reference
    }

    /// Shows soft-deleted rows too: the statement names `_deleted` of this reference. Decided once, between planning
    /// and optimisation, so that no rewrite can change what a statement means.
    pub(crate) fn show_deleted(&self) {
        self.reference.tombstones.store(true, Ordering::Relaxed);
    }

    /// The owners of the partitions to read.
    async fn owners(&self, filters: &[Expr]) -> Result<Vec<Option<UserId>>, Error> {
        if let Some(narrowed) = &self.narrowed {
            return Ok(narrowed.owners());
        }
        if self.table().kind != TableKind::User {
            return Ok(vec![None]);
        }
        if !self.reference.all_users {
            return Ok(vec![Some(self.ctx.identity.user.clone())]);
        }
        let named = filters.iter().filter_map(owners_named_by).reduce(|a, b| &a & &b);
        let owners = match &self.ctx.transaction {
            Some(transaction) => transaction.users_of(self.table()).await?,
            None => self.ctx.instance.database().users_of(self.table()).await?,
        };
        let wanted = |user: &UserId| named.as_ref().is_none_or(|named| named.contains(user.as_str()));
        Ok(owners.into_iter().filter(wanted).map(Some).collect())
    }

    /// The addresses of the rows that filters on the whole key leave; `None` if only a scan can tell.
    async fn fixed_rows(
        &self,
        view: &Arc<PartitionView>,
        filters: &[Expr],
    ) -> Result<Option<Vec<u64>>, Error> {
        let Some(wanted) = keys::fixed_by(self.table(), filters) else { return Ok(None) };
        let found = keys::find_keys(&self.ctx, view, wanted).await?;
        Ok(found.map(|found| {
            // A list may name a key twice.
            let addresses: BTreeSet<u64> = found.into_iter().flatten().collect();
            addresses.into_iter().collect()
        }))
    }

    /// All users of the table, if the statement reads them together: none of them by name, and no row to be changed.
    async fn all_users(&self, filters: &[Expr]) -> Result<Option<AllUsers>, Error> {
        let one_by_one = !self.reference.all_users
            || self.table().kind != TableKind::User
            || self.narrowed.is_some()
            || self.ctx.transaction.is_some()
            || self.reference.shape.columns.contains(&ScanColumn::RowAddress)
            || filters.iter().any(|filter| owners_named_by(filter).is_some());
        if one_by_one {
            return Ok(None);
        }
        let database = self.ctx.instance.database();
        Ok(Some(database.all_users(&self.ctx.snapshot, self.table()).await?))
    }

    async fn chunks(&self, filters: &[Expr]) -> Result<Chunks> {
        let mut chunks = Chunks::default();
        let tombstones = self.reference.shows_deleted();
        let owners = match self.all_users(filters).await.map_err(Error::into_datafusion)? {
            None => self.owners(filters).await.map_err(Error::into_datafusion)?,
            Some(AllUsers { large, small }) => {
                chunks.small = Some(small).filter(|small| small.parts() > 0);
                large.into_iter().map(Some).collect()
            }
        };
        for user in owners {
            let view = self.scans.view(&self.ctx, self.table(), user.as_ref()).await;
            let view = view.map_err(Error::into_datafusion)?;
            let addresses = match &self.narrowed {
                Some(narrowed) => narrowed.addresses(user.as_ref()).map(<[u64]>::to_vec),
                None if tombstones => None,
                None => self.fixed_rows(&view, filters).await.map_err(Error::into_datafusion)?,
            };
            if let Some(addresses) = addresses {
                chunks.by_key = true;
                if !addresses.is_empty() {
                    chunks.found.push(FoundRows { view, user, addresses });
                }
                continue;
            }
            for (at, chunk) in view.chunks.iter().cloned().enumerate() {
                match chunk {
                    ChunkView::Rows(rows) if rows.tombstones && !tombstones => {}
                    ChunkView::Rows(rows) => {
                        chunks.hot.push(HotChunk { rows, chunk: at, user: user.clone() });
                    }
                    ChunkView::Segment(chunk) if chunk.segment.meta().live_row_groups == 0 && !tombstones => {
                    }
                    ChunkView::Segment(chunk) => {
                        let part =
                            if chunk.newer_than_snapshot { &mut chunks.newer } else { &mut chunks.cold };
                        part.push(ColdChunk { chunk, index: at, user: user.clone() });
                    }
                }
            }
        }
        Ok(chunks)
    }

    /// Leaves out segments that the manifest's statistics rule out; says how many.
    fn prune(&self, state: &dyn Session, filters: &[Expr], chunks: &mut Chunks) -> Result<usize> {
        let stored = self.table().schema.storage();
        let before = chunks.cold.len() + chunks.newer.len();
        if before == 0 || self.reference.shows_deleted() {
            return Ok(0);
        }
        let known = |filter: &&Expr| filter.column_refs().iter().all(|c| stored.index_of(&c.name).is_ok());
        let Some(predicate) = conjunction(filters.iter().filter(known).cloned()) else { return Ok(0) };
        let predicate = state.create_physical_expr(predicate, &DFSchema::try_from(stored.clone())?)?;
        for part in [&mut chunks.cold, &mut chunks.newer] {
            *part = prune_segments(std::mem::take(part), &self.table().schema, stored, predicate.clone());
        }
        Ok(before - chunks.cold.len() - chunks.newer.len())
    }

    /// Chunks that were written with one schema version.
    fn segment_scan(
        &self,
        state: &dyn Session,
        written: Arc<TableSchema>,
        chunks: Vec<ColdChunk>,
        output: &Output,
    ) -> SegmentScan {
        SegmentScan {
            table: self.table().qualified_name().into(),
            chunks,
            pruned: 0,
            current: self.table().schema.clone(),
            written,
            columns: output.columns.clone(),
            schema: output.schema.clone(),
            tombstones: self.reference.shows_deleted(),
            partitions: state.config().target_partitions(),
            limit: output.limit,
        }
    }

    /// Segments that hold rows newer than the snapshot: `_seq` decides, above the scan, for each row.
    fn newer_scan(
        &self,
        state: &dyn Session,
        written: Arc<TableSchema>,
        chunks: Vec<ColdChunk>,
        output: &Output,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let wider = output.with_seq(self.table().schema.columns().len());
        let scan = self.segment_scan(state, written, chunks, &wider);
        let scan = SegmentScanExec::new(scan, state.config_options())?;
        let seq: Arc<dyn PhysicalExpr> = Arc::new(Column::new_with_schema(SEQ, &wider.schema)?);
        let newest = lit(self.ctx.snapshot.seq() as i64);
        let visible = Arc::new(PhysicalBinary::new(seq, Operator::LtEq, newest));
        let columns: Vec<usize> = (0..output.columns.len()).collect();
        let filter =
            FilterExecBuilder::new(visible, Arc::new(scan)).apply_projection(Some(columns))?.build()?;
        Ok(Arc::new(filter))
    }
}

/// What a scan reads, by how it has to be read.
#[derive(Default)]
struct Chunks {
    /// Rows that were looked up.
    found: Vec<FoundRows>,
    /// True if rows were looked up, found or not.
    by_key: bool,
    hot: Vec<HotChunk>,
    cold: Vec<ColdChunk>,
    newer: Vec<ColdChunk>,
    /// Users of whom there may be very many.
    small: Option<Arc<SmallUsers>>,
}

impl Chunks {
    /// Maps, verifies and parses the segments' files, off the async threads.
    async fn load(&self) -> Result<()> {
        let segments = self.cold.iter().chain(&self.newer).map(|chunk| chunk.chunk.segment.clone());
        let segments: Vec<Arc<Segment>> = segments.collect();
        if segments.is_empty() {
            return Ok(());
        }
        let loaded =
            tokio::task::spawn_blocking(move || segments.iter().try_for_each(|s| s.load().map(|_| ())));
        let loaded = loaded.await.map_err(|e| DataFusionError::External(Box::new(e)))?;
        loaded.map_err(|e| Error::from(e).into_datafusion())
    }
}

/// Chunks by the schema version that they were written with, newest first.
fn by_version(chunks: Vec<ColdChunk>) -> Vec<(Arc<TableSchema>, Vec<ColdChunk>)> {
    let mut versions: BTreeMap<Reverse<u32>, (Arc<TableSchema>, Vec<ColdChunk>)> = BTreeMap::new();
    for chunk in chunks {
        let written = chunk.chunk.segment.schema().clone();
        let version = versions.entry(Reverse(written.version())).or_insert_with(|| (written, Vec::new()));
        version.1.push(chunk);
    }
    versions.into_values().collect()
}

/// The columns a scan gives, and how many rows are enough.
struct Output {
    columns: Arc<[ScanColumn]>,
    schema: SchemaRef,
    limit: Option<usize>,
}

impl Output {
    fn new(shape: &Shape, projection: Option<&Vec<usize>>, limit: Option<usize>) -> Result<Self> {
        Ok(match projection {
            None => Self { columns: shape.columns.clone().into(), schema: shape.schema.clone(), limit },
            Some(projection) => Self {
                columns: projection.iter().map(|at| shape.columns[*at]).collect(),
                schema: Arc::new(shape.schema.project(projection)?),
                limit,
            },
        })
    }

    /// The same with `_seq`, which is stored at `seq`, behind, and without a limit: rows are yet to be filtered.
    fn with_seq(&self, seq: usize) -> Self {
        if self.columns.contains(&ScanColumn::Stored(seq)) {
            return Self { columns: self.columns.clone(), schema: self.schema.clone(), limit: None };
        }
        let columns = self.columns.iter().copied().chain([ScanColumn::Stored(seq)]).collect();
        let mut fields: Vec<_> = self.schema.fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new(SEQ, DataType::Int64, false)));
        Self { columns, schema: Arc::new(Schema::new(fields)), limit: None }
    }
}

#[async_trait]
impl TableProvider for EngineTable {
    fn schema(&self) -> SchemaRef {
        self.reference.shape.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Every filter helps to prune; none is promised to be applied in full, so it is checked again above the scan
    /// unless the physical optimiser finds that a leaf applies it.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let output = Output::new(&self.reference.shape, projection, limit)?;
        let mut chunks = self.chunks(filters).await?;
        let pruned = self.prune(state, filters, &mut chunks)?;
        chunks.load().await?;
        let mut plans: Vec<Arc<dyn ExecutionPlan>> = Vec::with_capacity(3);
        if chunks.by_key {
            let table = self.table().qualified_name().into();
            let shape = LookupShape::new(table, output.columns.clone(), output.schema.clone());
            plans.push(Arc::new(KeyLookupExec::new(Arc::new(shape), chunks.found.into(), limit)));
        }
        let mut cold = by_version(chunks.cold);
        if cold.is_empty() && pruned > 0 {
            cold.push((self.table().schema.clone(), Vec::new()));
        }
        for (at, (written, chunks)) in cold.into_iter().enumerate() {
            let pruned = if at == 0 { pruned } else { 0 };
            let scan = SegmentScan { pruned, ..self.segment_scan(state, written, chunks, &output) };
            plans.push(Arc::new(SegmentScanExec::new(scan, state.config_options())?));
        }
        for (written, chunks) in by_version(chunks.newer) {
            plans.push(self.newer_scan(state, written, chunks, &output)?);
        }
        if let Some(users) = chunks.small {
            let (table, partitions) =
                (self.table().qualified_name().into(), state.config().target_partitions());
            let (columns, schema) = (output.columns.clone(), output.schema.clone());
            let deleted = self.reference.shows_deleted();
            let scan = UsersScanExec::new(table, users, columns, schema, deleted, partitions, output.limit)?;
            plans.push(Arc::new(scan));
        }
        if !chunks.hot.is_empty() || plans.is_empty() {
            let table = self.table().qualified_name().into();
            let partitions = state.config().target_partitions();
            let Output { columns, schema, limit } = output;
            plans
                .push(Arc::new(MemtableScanExec::new(table, chunks.hot, columns, schema, partitions, limit)));
        }
        match plans.len() {
            1 => Ok(plans.remove(0)),
            _ => UnionExec::try_new(plans),
        }
    }
}

/// The owners that a filter of the form `_user = 'a'` or `_user IN ('a', 'b')` leaves; `None` for any other filter.
fn owners_named_by(filter: &Expr) -> Option<BTreeSet<String>> {
    let is_user = |expr: &Expr| matches!(expr, Expr::Column(column) if column.name == USER);
    let text = |expr: &Expr| match expr {
        Expr::Literal(value, _) => value.try_as_str().flatten().map(str::to_owned),
        _ => None,
    };
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) if is_user(left) => {
            text(right).map(|u| [u].into())
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) if is_user(right) => {
            text(left).map(|u| [u].into())
        }
        Expr::InList(list) if !list.negated && is_user(&list.expr) => list.list.iter().map(text).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{col, lit};

    use super::*;

    #[test]
    fn owners_are_read_from_equality_and_lists_and_nothing_else() {
        let set = |users: &[&str]| Some(users.iter().map(|u| (*u).to_owned()).collect::<BTreeSet<_>>());
        assert_eq!(owners_named_by(&col(USER).eq(lit("a"))), set(&["a"]));
        assert_eq!(owners_named_by(&lit("a").eq(col(USER))), set(&["a"]));
        assert_eq!(owners_named_by(&col(USER).in_list(vec![lit("a"), lit("b")], false)), set(&["a", "b"]));
        assert_eq!(owners_named_by(&col(USER).in_list(vec![lit("a")], true)), None);
        assert_eq!(owners_named_by(&col(USER).not_eq(lit("a"))), None);
        assert_eq!(owners_named_by(&col("other").eq(lit("a"))), None);
        assert_eq!(owners_named_by(&col(USER).eq(lit("a")).or(lit(true))), None);
    }
}
