//! What one statement runs with: who, where, and at which point in time.

use std::sync::{Arc, OnceLock};

use datafusion::execution::TaskContext;
use kalamdb_engine::{Catalog, Snapshot};

use crate::auth::{Identity, Role};
use crate::error::{Error, ErrorCode, Result};
use crate::instance::Instance;
use crate::provider::StreamViews;
use crate::transaction::Transaction;

/// Made once per statement and given to everything that takes part in it. Catalog and snapshot belong together: the
/// catalog is taken first, so every table in it can be read at the snapshot.
#[derive(Clone)]
pub(crate) struct StatementContext {
    /// The database.
    pub(crate) instance: Arc<Instance>,
    /// Whose rights and partitions apply: after `EXECUTE AS USER`, the user named there.
    pub(crate) identity: Identity,
    /// Where unqualified names are looked up first.
    pub(crate) namespace: String,
    /// The tables there are.
    pub(crate) catalog: Arc<Catalog>,
    /// The point in time that is read.
    pub(crate) snapshot: Arc<Snapshot>,
    /// What it has read of STREAM tables.
    pub(crate) streams: Arc<StreamViews>,
    /// The time of the statement, microseconds since the epoch: `NOW()` is the same in all its rows.
    pub(crate) now_micros: i64,
    /// The transaction that it is a part of; it reads and writes that then.
    pub(crate) transaction: Option<Arc<Transaction>>,
    /// What its plans run with, once one does: see [`StatementContext::task`].
    pub(crate) task: OnceLock<Arc<TaskContext>>,
}

impl StatementContext {
    /// For a statement that only reads: at the newest durable commit.
    pub(crate) fn read(instance: &Arc<Instance>, identity: Identity, namespace: String) -> Arc<Self> {
        let catalog = instance.database().catalog();
        let snapshot = Arc::new(instance.database().snapshot());
        Self::at(instance, identity, namespace, catalog, snapshot)
    }

    /// For a statement that writes: at the newest applied commit, which may not be durable yet.
    pub(crate) fn write(instance: &Arc<Instance>, identity: Identity, namespace: String) -> Arc<Self> {
        let catalog = instance.database().catalog();
        let snapshot = Arc::new(instance.database().write_snapshot());
        Self::at(instance, identity, namespace, catalog, snapshot)
    }

    /// For a statement inside a transaction.
    pub(crate) fn within(
        instance: &Arc<Instance>,
        identity: Identity,
        namespace: String,
        transaction: Arc<Transaction>,
    ) -> Arc<Self> {
        Arc::new(Self {
            instance: instance.clone(),
            identity,
            namespace,
            catalog: transaction.catalog.clone(),
            snapshot: transaction.snapshot.clone(),
            streams: Arc::default(),
            now_micros: transaction.now_micros,
            transaction: Some(transaction),
            task: OnceLock::new(),
        })
    }

    fn at(
        instance: &Arc<Instance>,
        identity: Identity,
        namespace: String,
        catalog: Arc<Catalog>,
        snapshot: Arc<Snapshot>,
    ) -> Arc<Self> {
        let now_micros = instance.clock().now_micros();
        Arc::new(Self {
            instance: instance.clone(),
            identity,
            namespace,
            catalog,
            snapshot,
            streams: Arc::default(),
            now_micros,
            transaction: None,
            task: OnceLock::new(),
        })
    }

    /// The same statement at the newest applied commit: for a writer whose rows somebody else changed meanwhile. Never
    /// inside a transaction.
    pub(crate) fn renewed(&self) -> Arc<Self> {
        Self::write(&self.instance, self.identity.clone(), self.namespace.clone())
    }

    /// The same statement at the newest durable commit: for a writer whose rows are told before what it read would be.
    pub(crate) fn durable(&self) -> Arc<Self> {
        Self::read(&self.instance, self.identity.clone(), self.namespace.clone())
    }

    /// What its plans run with: all of them share its memory.
    pub(crate) fn task(&self) -> &Arc<TaskContext> {
        self.task.get_or_init(|| self.instance.queries().statement())
    }

    /// The role whose rights apply.
    pub(crate) fn role(&self) -> Role {
        self.identity.role
    }

    /// True if the session may define tables and see the system.
    pub(crate) fn is_dba(&self) -> bool {
        self.role() >= Role::Dba
    }

    /// Refuses a session below `role`.
    ///
    /// # Errors
    /// [`ErrorCode::PermissionDenied`], saying what needs the role.
    pub(crate) fn require(&self, role: Role, action: &str) -> Result<()> {
        if self.role() >= role {
            return Ok(());
        }
        Err(Error::new(ErrorCode::PermissionDenied, format!("{action} needs the role {role} or above")))
    }
}

impl std::fmt::Debug for StatementContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StatementContext")
            .field("identity", &self.identity)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}
