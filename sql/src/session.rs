//! [`Session`]: one request. It parses text into statements and executes them one by one.
//!
//! Every statement commits by itself, but for those between `BEGIN` and `COMMIT`. A statement that reads sees the newest durable commit, which includes everything
//! this session was told of; its result is a stream, and dropping it cancels the statement. Statements that change the
//! catalog run to their end even if the client goes away, so that memory and disk never disagree.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::sql::sqlparser::ast;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use kalamdb_engine::{DEFAULT_NAMESPACE, UserId};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::auth::{Identity, Role};
use crate::dialect::{ParsedStatement, Statement};
use crate::error::{Error, ErrorCode, Result};
use crate::import::{ImportOptions, Importer};
use crate::instance::Instance;
use crate::live::{LiveFeed, LiveRequest};
use crate::running::RunningQuery;
use crate::statement::StatementContext;
use crate::transaction::Transaction;
use crate::{audit, ddl, dml, jobs, names, params, query, show, transaction, types, users, views};

/// How often a query is planned again because a table was altered meanwhile.
const QUERY_TRIES: usize = 5;

/// One request: an identity and a namespace that `USE` changes.
#[derive(Debug, Clone)]
pub struct Session {
    instance: Arc<Instance>,
    identity: Identity,
    namespace: String,
    /// Between `BEGIN` and `COMMIT`.
    transaction: Option<Arc<Transaction>>,
}

/// What a statement did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Rows, of a query or of RETURNING.
    pub rows: Option<RowSet>,
    /// Rows written, of INSERT, UPDATE and DELETE.
    pub affected_rows: Option<u64>,
    /// The commit that wrote them.
    pub seq: Option<u64>,
    /// A sentence about what was done, of all other statements.
    pub message: Option<String>,
}

/// Rows that are still coming.
pub struct RowSet {
    /// The columns as answers describe them.
    pub columns: Arc<[ColumnInfo]>,
    /// Their Arrow schema.
    pub schema: SchemaRef,
    /// The rows. An error ends them.
    pub stream: BoxStream<'static, Result<RecordBatch>>,
}

/// A column of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnInfo {
    /// Name.
    pub name: String,
    /// SQL name of its type.
    pub type_name: String,
    /// False if it is never NULL.
    pub nullable: bool,
}

impl fmt::Debug for RowSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowSet").field("columns", &self.columns).finish_non_exhaustive()
    }
}

impl RowSet {
    /// Rows that are there already.
    pub(crate) fn from_batches(schema: SchemaRef, batches: Vec<RecordBatch>) -> Self {
        Self::from_stream(schema, stream::iter(batches.into_iter().map(Ok)).boxed())
    }

    /// Rows that come.
    pub(crate) fn from_stream(schema: SchemaRef, stream: BoxStream<'static, Result<RecordBatch>>) -> Self {
        Self { columns: types::column_infos(&schema), schema, stream }
    }

    /// Ends the rows with an error at the deadline; the statement counts as running until they end or are dropped.
    fn guarded(self, running: RunningQuery, deadline: Instant) -> Self {
        let rows = stream::unfold(Some((self.stream, running)), move |state| async move {
            let (mut stream, running) = state?;
            match timeout_at(deadline, stream.next()).await {
                Ok(Some(Ok(batch))) => {
                    running.add_rows(batch.num_rows());
                    Some((Ok(batch), Some((stream, running))))
                }
                Ok(Some(Err(error))) => Some((Err(error), None)),
                Ok(None) => None,
                Err(_) => Some((Err(timed_out()), None)),
            }
        });
        Self { stream: rows.boxed(), ..self }
    }
}

impl Outcome {
    /// Rows.
    pub(crate) fn rows(rows: RowSet) -> Self {
        Self { rows: Some(rows), ..Self::default() }
    }

    /// Rows that are there already, in one batch.
    pub(crate) fn batch(batch: RecordBatch) -> Self {
        Self::rows(RowSet::from_batches(batch.schema(), vec![batch]))
    }

    /// Rows written by a commit; none if nothing was to be written.
    pub(crate) fn affected(rows: u64, seq: Option<u64>) -> Self {
        Self { affected_rows: Some(rows), seq, ..Self::default() }
    }

    /// A sentence.
    pub(crate) fn message(message: impl Into<String>) -> Self {
        Self { message: Some(message.into()), ..Self::default() }
    }
}

fn timed_out() -> Error {
    Error::new(ErrorCode::Cancelled, "the statement ran longer than the server allows")
        .with_hint("read less at a time, or raise the statement timeout of the server")
}

impl Session {
    pub(crate) fn new(instance: Arc<Instance>, identity: Identity) -> Self {
        Self { instance, identity, namespace: DEFAULT_NAMESPACE.into(), transaction: None }
    }

    /// Who the session acts for.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Looks unqualified names up in this namespace from now on.
    ///
    /// # Errors
    /// [`ErrorCode::NamespaceNotFound`].
    pub fn use_namespace(&mut self, name: &str) -> Result<()> {
        let ctx = self.read_context();
        if !names::namespace_exists(&ctx.catalog, name) {
            return Err(names::namespace_not_found(&ctx, name, None));
        }
        self.namespace = name.to_owned();
        Ok(())
    }

    /// The statements of a text. One that cannot be understood is the last and fails when it is executed, so that those
    /// before it can be executed first.
    ///
    /// # Errors
    /// [`ErrorCode::SyntaxError`] if there is no statement at all.
    pub fn parse(&self, sql: &str) -> Result<Vec<ParsedStatement>> {
        let statements = self.instance.queries().texts().parse(sql);
        if statements.is_empty() {
            return Err(Error::new(ErrorCode::SyntaxError, "the text has no statement"));
        }
        Ok(statements)
    }

    /// True if a statement is short work: an INSERT of a few values, or a query that reads a row by its key with a plan
    /// that is kept. Handing it over to another thread would take longer.
    pub fn is_quick(&self, statement: &ParsedStatement) -> bool {
        match &*statement.statement {
            Statement::Insert(_) => dml::is_quick(&statement.text),
            Statement::Query(_) => {
                let namespace = &self.namespace;
                self.instance.queries().plans().reads_a_row(&statement.text, namespace, self.identity.role)
            }
            _ => false,
        }
    }

    /// Executes one statement. `params` are the values of `$1`, `$2`, ...
    ///
    /// # Errors
    /// Whatever is wrong with the statement; with a position in the whole text where there is one. A transaction that was
    /// open is rolled back.
    pub async fn execute(&mut self, statement: &ParsedStatement, params: &[Value]) -> Result<Outcome> {
        let outcome = self.execute_one(statement, params).await;
        outcome.map_err(|mut error| {
            // Without its log or while it closes, a database cannot say what became of a commit.
            let unknown = matches!(error.code, ErrorCode::ReadOnly | ErrorCode::ShuttingDown);
            if self.transaction.take().is_some() && !unknown {
                error.message.push_str("; the transaction was rolled back");
            }
            error
        })
    }

    async fn execute_one(&mut self, statement: &ParsedStatement, params: &[Value]) -> Result<Outcome> {
        params::check_count(params)?;
        let running = self.instance.running().start(&self.instance, &self.identity.user, &statement.text);
        let deadline = Instant::now() + self.instance.statement_timeout();
        let mut outcome = match statement.statement.is_about_rows() {
            true => {
                let outcome = timeout_at(deadline, self.run(statement, params)).await;
                outcome.unwrap_or_else(|_| Err(timed_out()))?
            }
            // A flush takes the time it takes, and nobody is helped by not hearing of its end.
            false => self.run(statement, params).await?,
        };
        outcome.rows = outcome.rows.map(|rows| rows.guarded(running, deadline));
        Ok(outcome)
    }

    async fn run(&mut self, parsed: &ParsedStatement, params: &[Value]) -> Result<Outcome> {
        let ParsedStatement { statement, text, .. } = parsed;
        match &**statement {
            Statement::Invalid(error) => Err(error.clone()),
            Statement::Use { namespace, position } => {
                self.use_namespace(namespace).map_err(|error| error.with_position(*position))?;
                Ok(Outcome::message(format!("using namespace {namespace}")))
            }
            Statement::ExecuteAsUser { user, position, inner } => {
                self.read_context().require(Role::Service, "EXECUTE AS USER")?;
                let user = UserId::new(user).map_err(|e| Error::from(e).with_position(*position))?;
                audit::record(&self.instance, &self.identity, "execute_as_user", Some(&user), None).await?;
                // The rights of a plain user, whatever that user's own role: nobody rises by acting for somebody else.
                let identity = Identity { user, role: Role::User };
                let other = Self { identity, ..self.clone() };
                // The whole text says what the inner statement is, too.
                other.run_rows(inner, text, params).await
            }
            Statement::Query(_)
            | Statement::Explain(_)
            | Statement::Insert(_)
            | Statement::Update(_)
            | Statement::Delete(_) => self.run_rows(statement, text, params).await,
            _ if !params.is_empty() => {
                Err(Error::new(ErrorCode::InvalidParameter, "this statement takes no parameters"))
            }
            Statement::Begin => self.begin(),
            Statement::Commit => self.commit().await,
            Statement::Rollback => self.rollback(),
            _ if self.transaction.is_some() && !statement.only_shows() => Err(Error::new(
                ErrorCode::InvalidStatement,
                "only SELECT, INSERT, UPDATE, DELETE and SHOW can run inside a transaction",
            )),
            _ => self.run_management(statement).await,
        }
    }

    fn begin(&mut self) -> Result<Outcome> {
        if self.transaction.is_some() {
            return Err(Error::new(ErrorCode::InvalidStatement, "a transaction is open already")
                .with_hint("end it with COMMIT or ROLLBACK first"));
        }
        self.transaction = Some(Arc::new(Transaction::begin(self.instance.database())));
        Ok(Outcome::message("transaction begun"))
    }

    async fn commit(&mut self) -> Result<Outcome> {
        // Kept here meanwhile, so that an error is told to have rolled it back.
        let committed = self.transaction.as_ref().ok_or_else(no_transaction)?.commit().await?;
        self.transaction = None;
        let message = if committed.is_some() { "committed" } else { "committed; nothing was changed" };
        Ok(Outcome { seq: committed.map(|committed| committed.seq), ..Outcome::message(message) })
    }

    fn rollback(&mut self) -> Result<Outcome> {
        self.transaction.take().ok_or_else(no_transaction)?;
        Ok(Outcome::message("rolled back"))
    }

    /// Statements about rows; they can be cancelled at any point.
    async fn run_rows(&self, statement: &Statement, text: &str, params: &[Value]) -> Result<Outcome> {
        match statement {
            Statement::Query(ast) => Ok(Outcome::rows(self.query(Some(text), ast, params).await?)),
            Statement::Explain(ast) => Ok(Outcome::rows(self.query(None, ast, params).await?)),
            Statement::Insert(insert) => dml::insert(self.changing_context(), insert, params).await,
            Statement::Update(update) => dml::update(self.changing_context(), update, params).await,
            Statement::Delete(delete) => dml::delete(self.changing_context(), delete, params).await,
            _ => Err(Error::new(
                ErrorCode::InvalidStatement,
                "this statement cannot be executed as another user",
            )),
        }
    }

    /// A query, by the plan that was kept of its text if it has one. One that finds a table altered since it took its
    /// catalog, so that a column it knows is gone, is planned again with the new one.
    async fn query(&self, text: Option<&str>, ast: &ast::Statement, params: &[Value]) -> Result<RowSet> {
        let run = async |ctx: &Arc<StatementContext>| match text {
            Some(text) => query::query_text(ctx, text, ast, params).await,
            None => query::query(ctx, ast, params).await,
        };
        if let Some(ctx) = self.transaction_context() {
            return run(&ctx).await.map_err(transaction::advise);
        }
        let mut tries = 0;
        loop {
            match run(&self.read_context()).await {
                Err(error) if error.code == ErrorCode::Conflict && tries < QUERY_TRIES => tries += 1,
                other => return other,
            }
        }
    }

    /// Statements about everything else.
    async fn run_management(&self, statement: &Statement) -> Result<Outcome> {
        let ctx = self.read_context();
        match statement {
            Statement::ShowNamespaces => show::namespaces(&ctx),
            Statement::ShowTables { namespace, position } => {
                show::tables(&ctx, namespace.as_deref(), *position)
            }
            Statement::ShowColumns(table) => show::columns(&ctx, table),
            Statement::Describe { table, history: false } => show::columns(&ctx, table),
            Statement::Describe { table, history: true } => show::history(&ctx, table).await,
            Statement::ShowStats(table) => show::stats(&ctx, table).await,
            Statement::ShowManifest(table) => show::manifest(&ctx, table).await,
            Statement::KillLiveQuery { live_id } => {
                self.instance.live().kill(live_id, &self.identity)?;
                Ok(Outcome::message(format!("live query {live_id} ended")))
            }
            _ => to_the_end(change(ctx, statement.clone())).await,
        }
    }

    /// Opens a feed over live queries.
    ///
    /// # Errors
    /// What is wrong with the request or one of its queries.
    pub async fn live(&self, request: LiveRequest) -> Result<LiveFeed> {
        self.instance.live().connect(self.read_context(), request).await
    }

    /// Begins an import into a table.
    ///
    /// # Errors
    /// [`ErrorCode::TableNotFound`], [`ErrorCode::PermissionDenied`], [`ErrorCode::ColumnNotFound`].
    pub async fn importer(&self, namespace: &str, table: &str, options: ImportOptions) -> Result<Importer> {
        Importer::new(self.write_context(), namespace, table, options).await
    }

    fn read_context(&self) -> Arc<StatementContext> {
        StatementContext::read(&self.instance, self.identity.clone(), self.namespace.clone())
    }

    fn transaction_context(&self) -> Option<Arc<StatementContext>> {
        let transaction = self.transaction.clone()?;
        let (identity, namespace) = (self.identity.clone(), self.namespace.clone());
        Some(StatementContext::within(&self.instance, identity, namespace, transaction))
    }

    fn changing_context(&self) -> Arc<StatementContext> {
        self.transaction_context().unwrap_or_else(|| self.write_context())
    }

    fn write_context(&self) -> Arc<StatementContext> {
        StatementContext::write(&self.instance, self.identity.clone(), self.namespace.clone())
    }
}

fn no_transaction() -> Error {
    Error::new(ErrorCode::InvalidStatement, "no transaction is open").with_hint("begin one with BEGIN")
}

/// Runs a change to its end even if nobody waits for it any more.
async fn to_the_end(work: impl Future<Output = Result<Outcome>> + Send + 'static) -> Result<Outcome> {
    tokio::spawn(work).await.unwrap_or_else(|error| Err(Error::internal(error)))
}

async fn change(ctx: Arc<StatementContext>, statement: Statement) -> Result<Outcome> {
    match &statement {
        Statement::CreateNamespace(namespace) => ddl::create_namespace(&ctx, namespace).await,
        Statement::AlterNamespace(namespace) => ddl::alter_namespace(&ctx, namespace).await,
        Statement::DropNamespace { name, if_exists, cascade, position } => {
            ddl::drop_namespace(&ctx, name, *if_exists, *cascade, *position).await
        }
        Statement::CreateTable(table) => ddl::create_table(&ctx, table).await,
        Statement::AlterTable(wanted) => ddl::alter_table(ctx, wanted).await,
        Statement::DropTable { table, kind, if_exists, cascade } => {
            ddl::drop_table(&ctx, table, *kind, *if_exists, *cascade).await
        }
        Statement::CreateView(view) => views::create(&ctx, view).await,
        Statement::DropView { view, if_exists } => views::drop(&ctx, view, *if_exists).await,
        Statement::Flush(flush) => jobs::flush(&ctx, flush).await,
        Statement::Compact(compact) => jobs::compact(&ctx, compact).await,
        Statement::Purge(purge) => jobs::purge(&ctx, purge).await,
        Statement::Export(export) => jobs::export(&ctx, export).await,
        Statement::KillJob { job_id, position } => jobs::kill(&ctx, job_id, *position).await,
        Statement::CreateUser(user) => users::create(&ctx, user).await,
        Statement::AlterUser { user, password, role, position } => {
            users::alter(&ctx, user, password.as_deref(), *role, *position).await
        }
        Statement::DropUser { user, if_exists, position } => {
            users::drop(&ctx, user, *if_exists, *position).await
        }
        _ => Err(Error::new(ErrorCode::InvalidStatement, "this statement cannot be executed here")),
    }
}
