//! Changing the catalog: one commit to the `system` tables, then the swap of the catalog in memory.
//!
//! One change at a time. The commit is durable before the swap, so nobody acts on a change that a crash could undo; a
//! crash between the two is a change that recovery finds in the tables. A dropped table's files are removed after its
//! commit; what a crash leaves of them is removed when the database is next opened, since no table names them.

use std::sync::Arc;

use arrow::array::RecordBatch;

use crate::alter::{AlterTable, Altered, alter};
use crate::catalog::{Catalog, Ddl, Namespace, NewTable, SYSTEM_NAMESPACE, Table, TableKind};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::ids::{NamespaceId, Seq, TableId, TableName};
use crate::read::live_rows;
use crate::row_checks::RowsNeeded;
use crate::schema::TableSchema;
use crate::store;
use crate::system::{self, Cell, Row};
use crate::views::{NewView, View};
use crate::write::{Changed, OldRows, PartitionWrite, Removed};

/// How often a change is tried when a flush of a `system` table came between.
const RETRIES: usize = 20;

/// A catalog change that is durable and in effect.
#[derive(Debug)]
pub struct DdlOutcome {
    /// The commit that made it.
    pub seq: Seq,
    /// The table created, altered (as it is now) or dropped, if it was one.
    pub table: Option<Arc<Table>>,
}

/// What a change does to the `system` tables and to the catalog.
struct Plan {
    next: Catalog,
    insert: Vec<(TableId, Vec<Cell>)>,
    update: Vec<(TableId, RowTest, Vec<Cell>)>,
    delete: Vec<(TableId, RowTest)>,
    dropped: Vec<Arc<Table>>,
    table: Option<Arc<Table>>,
    /// What must be true of the rows of a table that is altered.
    needs: Option<(Arc<Table>, RowsNeeded)>,
}

type RowTest = Box<dyn Fn(Row<'_>) -> Result<bool> + Send>;

impl Database {
    /// Changes the catalog. When this returns, the change is durable and in effect for every later statement.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], [`Error::NamespaceNotFound`], [`Error::TableNotFound`], [`Error::InUse`],
    /// [`Error::InvalidSchema`], or what [`Database::commit`] says; nothing was changed then. Of `AlterTable` also
    /// [`Error::Conflict`] if the table has changed since, [`Error::NotNullViolation`] if its rows do not allow it.
    pub async fn ddl(self: &Arc<Self>, change: Ddl) -> Result<DdlOutcome> {
        let database = self.clone();
        // A task of its own: a caller that goes away between the commit and the swap must not keep the swap from coming.
        let task = tokio::spawn(async move { database.change_catalog(change).await });
        task.await.unwrap_or_else(|e| Err(Error::internal("change the catalog", e)))
    }

    async fn change_catalog(self: &Arc<Self>, change: Ddl) -> Result<DdlOutcome> {
        let _open = self.stay_open().await?;
        let _one_at_a_time = self.ddl.lock().await;
        let plan = self.plan(change)?;
        if plan.is_nothing() {
            return Ok(DdlOutcome { seq: self.visible(), table: plan.table });
        }
        // Until the swap, or until nothing comes of the change.
        let _guard = match &plan.needs {
            Some((table, needed)) => Some(self.check_rows(table, needed).await?),
            None => None,
        };
        let mut tries = 0;
        let committed = loop {
            match self.commit(self.system_writes(&plan)?).await {
                Err(Error::Conflict) if tries < RETRIES => tries += 1,
                other => break other?,
            }
        };
        self.catalog.store(Arc::new(plan.next));
        for table in &plan.dropped {
            self.streams().remove(table.id);
            if let Err(error) = self.remove_table_files(table).await {
                tracing::warn!(table = table.qualified_name(), %error, "files of a dropped table stay until a restart");
            }
        }
        Ok(DdlOutcome { seq: committed.seq, table: plan.table })
    }

    fn plan(&self, change: Ddl) -> Result<Plan> {
        let now = self.clock().now_micros();
        let catalog = self.catalog();
        let mut next = Catalog::clone(&catalog);
        next.version += 1;
        let mut plan = Plan {
            next,
            insert: Vec::new(),
            update: Vec::new(),
            delete: Vec::new(),
            dropped: Vec::new(),
            table: None,
            needs: None,
        };
        match change {
            Ddl::CreateNamespace { name, options } => plan.create_namespace(name, options, now)?,
            Ddl::AlterNamespace { name, options } => plan.alter_namespace(&name, options, now)?,
            Ddl::DropNamespace { name, cascade } => plan.drop_namespace(&name, cascade)?,
            Ddl::CreateTable(table) => {
                let dir = self.tables_dir().join(Table::path_for(&table.namespace, &table.name));
                let taken = self
                    .disk()
                    .exists(&dir)
                    .map_err(|e| Error::io(format!("look for {}", dir.display()), e))?;
                plan.create_table(*table, taken, now)?;
            }
            Ddl::AlterTable(wanted) => plan.alter_table(*wanted, now)?,
            Ddl::DropTable { id } => plan.drop_table(id)?,
            Ddl::CreateView(view) => plan.create_view(*view, now)?,
            Ddl::DropView { namespace, name } => plan.drop_view(&namespace, &name)?,
        }
        Ok(plan)
    }

    /// The plan's changes as writes against the `system` tables as they are now.
    fn system_writes(&self, plan: &Plan) -> Result<Vec<PartitionWrite>> {
        let snapshot = self.write_snapshot();
        let catalog = self.catalog();
        let mut writes = Vec::new();
        for id in [system::NAMESPACES, system::TABLES, system::TABLE_SCHEMAS] {
            let table = catalog
                .table_by_id(id)
                .ok_or_else(|| Error::internal("change the catalog", "no system table"))?;
            let mut write = PartitionWrite::new(table.clone(), None);
            let insert: Vec<Vec<Cell>> =
                plan.insert.iter().filter(|i| i.0 == id).map(|i| i.1.clone()).collect();
            if !insert.is_empty() {
                write.insert = Some(system::batch(&table.schema, &insert)?);
            }
            let update: Vec<_> = plan.update.iter().filter(|u| u.0 == id).collect();
            let delete: Vec<_> = plan.delete.iter().filter(|d| d.0 == id).collect();
            if !update.is_empty() || !delete.is_empty() {
                let view = Arc::new(self.view_now(&snapshot, table, None)?);
                for located in live_rows(&view)? {
                    for row in 0..located.addresses.len() {
                        let address = located.addresses[row];
                        let test = Row::new(&located.rows.rows, row);
                        if let Some((.., cells)) = find(&update, |u| (u.1)(test))? {
                            let new = system::batch(&table.schema, std::slice::from_ref(cells))?;
                            add_update(&mut write, address, slice(&located.rows, row), new)?;
                        } else if find(&delete, |d| (d.1)(test))?.is_some() {
                            add_delete(&mut write, address, slice(&located.rows, row))?;
                        }
                    }
                }
                write.view = Some(view);
            }
            if write.insert.is_some() || write.update.is_some() || write.delete.is_some() {
                writes.push(write);
            }
        }
        Ok(writes)
    }
}

fn find<'a, T>(items: &[&'a T], test: impl Fn(&T) -> Result<bool>) -> Result<Option<&'a T>> {
    for item in items {
        if test(item)? {
            return Ok(Some(item));
        }
    }
    Ok(None)
}

fn slice(rows: &OldRows, row: usize) -> OldRows {
    OldRows {
        rows: rows.rows.slice(row, 1),
        seqs: rows.seqs.slice(row, 1),
        updated: rows.updated.slice(row, 1),
    }
}

fn join(a: &RecordBatch, b: &RecordBatch) -> Result<RecordBatch> {
    arrow::compute::concat_batches(a.schema_ref(), [a, b])
        .map_err(|e| Error::internal("change the catalog", e))
}

fn join_old(a: &OldRows, b: &OldRows) -> Result<OldRows> {
    let seqs = a.seqs.iter().chain(b.seqs.iter()).collect();
    let updated =
        a.updated.iter().chain(b.updated.iter()).collect::<arrow::array::TimestampMicrosecondArray>();
    let updated = updated.with_timezone(crate::types::TIMEZONE);
    Ok(OldRows { rows: join(&a.rows, &b.rows)?, seqs, updated })
}

fn add_update(write: &mut PartitionWrite, address: u64, old: OldRows, new: RecordBatch) -> Result<()> {
    write.update = Some(match write.update.take() {
        None => Changed { addresses: vec![address], old, new },
        Some(mut all) => {
            all.addresses.push(address);
            Changed { old: join_old(&all.old, &old)?, new: join(&all.new, &new)?, addresses: all.addresses }
        }
    });
    Ok(())
}

fn add_delete(write: &mut PartitionWrite, address: u64, old: OldRows) -> Result<()> {
    write.delete = Some(match write.delete.take() {
        None => Removed { addresses: vec![address], old },
        Some(mut all) => {
            all.addresses.push(address);
            Removed { old: join_old(&all.old, &old)?, addresses: all.addresses }
        }
    });
    Ok(())
}

impl Plan {
    fn create_namespace(&mut self, name: NamespaceId, options: String, now: i64) -> Result<()> {
        if self.next.namespace(name.as_str()).is_some() {
            return Err(Error::AlreadyExists { what: "namespace", name: name.to_string() });
        }
        let namespace = Namespace { id: name, options, created_at: now, updated_at: now };
        self.insert.push((system::NAMESPACES, system::namespace_row(&namespace)));
        self.next.add_namespace(namespace);
        Ok(())
    }

    fn alter_namespace(&mut self, name: &NamespaceId, options: String, now: i64) -> Result<()> {
        let namespace = self.namespace(name)?;
        let changed = Namespace { options, updated_at: now, ..namespace };
        self.update.push((system::NAMESPACES, namespace_test(name), system::namespace_row(&changed)));
        self.next.add_namespace(changed);
        Ok(())
    }

    fn drop_namespace(&mut self, name: &NamespaceId, cascade: bool) -> Result<()> {
        self.namespace(name)?;
        if name.as_str() == SYSTEM_NAMESPACE {
            return Err(Error::InUse {
                what: "namespace",
                name: name.to_string(),
                users: "the database itself".into(),
            });
        }
        let tables: Vec<Arc<Table>> = self.next.tables_in(name.as_str()).cloned().collect();
        let views: Vec<Arc<View>> = self.next.views_in(name.as_str()).cloned().collect();
        let is_empty = tables.is_empty() && views.is_empty();
        if !is_empty && !cascade {
            let tables = tables.iter().map(|table| table.qualified_name());
            let users = tables.chain(views.iter().map(|view| view.qualified_name()));
            let users = users.collect::<Vec<_>>().join(", ");
            return Err(Error::InUse { what: "namespace", name: name.to_string(), users });
        }
        views.iter().try_for_each(|view| self.drop_view(&view.namespace, &view.name))?;
        tables.iter().try_for_each(|table| self.drop_table(table.id))?;
        self.delete.push((system::NAMESPACES, namespace_test(name)));
        self.next.remove_namespace(name);
        self.table = None;
        Ok(())
    }

    /// `taken`: something is left of an earlier table of this name, because its files could not be removed.
    fn create_table(&mut self, new: NewTable, taken: bool, now: i64) -> Result<()> {
        self.namespace(&new.namespace)?;
        let mut table = Table {
            id: TableId(self.next.next_table),
            path: Table::path_for(&new.namespace, &new.name),
            namespace: new.namespace,
            name: new.name,
            kind: new.kind,
            schema: TableSchema::new(new.schema)?,
            options: new.options,
            created_at: now,
            updated_at: now,
        };
        if self.next.table(table.namespace.as_str(), table.name.as_str()).is_some() {
            return Err(Error::AlreadyExists { what: "table", name: table.qualified_name() });
        }
        if self.next.view(table.namespace.as_str(), table.name.as_str()).is_some() {
            return Err(Error::AlreadyExists { what: "view", name: table.qualified_name() });
        }
        // A renamed table keeps its directory.
        if taken || self.next.tables().any(|other| other.path == table.path) {
            table.path = format!("{}.{}", table.path, table.id);
        }
        if let Some(store) = &table.options.store {
            // Never another table's, so that dropping one need not take its name away at one stroke.
            table.path = format!("{}/{}-{}", store::mount_of(store), table.path, table.id);
        }
        self.insert.push((system::TABLES, system::table_row(&table)?));
        self.insert
            .push((system::TABLE_SCHEMAS, system::schema_row(table.id, &table.schema, "created", now)?));
        self.table = Some(self.next.add_table(table));
        Ok(())
    }

    fn alter_table(&mut self, wanted: AlterTable, now: i64) -> Result<()> {
        let id = wanted.id;
        let before = self.next.table_by_id(id).ok_or_else(|| Error::TableNotFound(id.to_string()))?.clone();
        if before.kind == TableKind::System {
            let (name, users) = (before.qualified_name(), "the database itself".into());
            return Err(Error::InUse { what: "table", name, users });
        }
        let Altered { table, words, new_version, needed } = alter(&before, wanted, now)?;
        if table.name != before.name
            && self.next.table(table.namespace.as_str(), table.name.as_str()).is_some()
        {
            return Err(Error::AlreadyExists { what: "table", name: table.qualified_name() });
        }
        if self.next.view(table.namespace.as_str(), table.name.as_str()).is_some() {
            return Err(Error::AlreadyExists { what: "view", name: table.qualified_name() });
        }
        if words.is_empty() {
            self.table = Some(before);
            return Ok(());
        }
        if new_version {
            let row = system::schema_row(id, &table.schema, &words.join(", "), now)?;
            self.insert.push((system::TABLE_SCHEMAS, row));
        }
        self.update.push((system::TABLES, row_test(id), system::table_row(&table)?));
        self.table = Some(self.next.replace_table(table));
        self.needs = (!needed.is_nothing()).then_some((before, needed));
        Ok(())
    }

    fn is_nothing(&self) -> bool {
        self.insert.is_empty() && self.update.is_empty() && self.delete.is_empty()
    }

    /// The schema rows stay, so that the log can be read and the id is not given again.
    fn drop_table(&mut self, id: TableId) -> Result<()> {
        let table = self.next.remove_table(id).ok_or_else(|| Error::TableNotFound(id.to_string()))?;
        self.delete.push((system::TABLES, row_test(id)));
        self.dropped.push(table.clone());
        self.table = Some(table);
        Ok(())
    }

    fn create_view(&mut self, new: NewView, now: i64) -> Result<()> {
        self.namespace(&new.namespace)?;
        let (namespace, name) = (new.namespace.as_str(), new.name.as_str());
        let old = self.next.view(namespace, name).cloned();
        if let Some(table) = self.next.table(namespace, name) {
            return Err(Error::AlreadyExists { what: "table", name: table.qualified_name() });
        }
        if let Some(old) = old.as_ref().filter(|_| !new.replace) {
            return Err(Error::AlreadyExists { what: "view", name: old.qualified_name() });
        }
        let view = View::new(new, old.as_deref(), self.next.next_table, now);
        match old {
            Some(old) => self.update.push((system::TABLES, row_test(old.id), view.row()?)),
            None => self.insert.push((system::TABLES, view.row()?)),
        }
        self.next.add_view(view);
        Ok(())
    }

    fn drop_view(&mut self, namespace: &NamespaceId, name: &TableName) -> Result<()> {
        let view = self.next.remove_view(namespace.as_str(), name.as_str());
        let view = view.ok_or_else(|| Error::TableNotFound(format!("{namespace}.{name}")))?;
        self.delete.push((system::TABLES, row_test(view.id)));
        Ok(())
    }

    fn namespace(&self, name: &NamespaceId) -> Result<Namespace> {
        let namespace = self.next.namespace(name.as_str());
        namespace.map(|n| Namespace::clone(n)).ok_or_else(|| Error::NamespaceNotFound(name.to_string()))
    }
}

fn row_test(id: TableId) -> RowTest {
    Box::new(move |row| Ok(row.int("table_id")? == id.0 as i64))
}

fn namespace_test(name: &NamespaceId) -> RowTest {
    let name = name.clone();
    Box::new(move |row| Ok(row.text("namespace_id")? == Some(name.as_str())))
}
