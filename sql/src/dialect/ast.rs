//! What a statement can be, after parsing.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast;
use kalamdb_engine::{DataType, TableKind, TableOptions};

use super::options::Written;
use crate::auth::Role;
use crate::error::{Error, Position};

/// One statement of a request with where it was found.
#[derive(Debug, Clone)]
pub struct ParsedStatement {
    /// What it says.
    pub statement: Arc<Statement>,
    /// Its own text, without the semicolon.
    pub text: Arc<str>,
    /// Where it starts in the text of the request.
    pub position: Position,
}

/// A table's name as written, folded to lower case unless quoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableRef {
    /// The namespace, if one was written.
    pub namespace: Option<String>,
    /// The table.
    pub name: String,
    /// Where it was written.
    pub position: Option<Position>,
}

/// A statement. Everything that DataFusion plans keeps sqlparser's tree, whose spans are positions in the request.
#[derive(Debug, Clone)]
pub enum Statement {
    /// `SELECT`, `VALUES`, `WITH ...`.
    Query(Box<ast::Statement>),
    /// `EXPLAIN [ANALYZE]` of a query.
    Explain(Box<ast::Statement>),
    /// `INSERT`.
    Insert(Box<ast::Insert>),
    /// `UPDATE`.
    Update(Box<ast::Update>),
    /// `DELETE`.
    Delete(Box<ast::Delete>),
    /// `BEGIN`.
    Begin,
    /// `COMMIT`.
    Commit,
    /// `ROLLBACK`.
    Rollback,
    /// `USE ns`.
    Use {
        /// The namespace.
        namespace: String,
        /// Where it was written.
        position: Option<Position>,
    },
    /// `CREATE NAMESPACE`.
    CreateNamespace(CreateNamespace),
    /// `ALTER NAMESPACE ... SET OPTIONS (...)`.
    AlterNamespace(CreateNamespace),
    /// `DROP NAMESPACE`.
    DropNamespace {
        /// Its name.
        name: String,
        /// No error if it is not there.
        if_exists: bool,
        /// Its tables go with it.
        cascade: bool,
        /// Where the name was written.
        position: Option<Position>,
    },
    /// `CREATE [USER|SHARED|STREAM] TABLE`.
    CreateTable(Box<CreateTable>),
    /// `ALTER TABLE`.
    AlterTable(Box<AlterTable>),
    /// `DROP [USER|SHARED|STREAM] TABLE`.
    DropTable {
        /// Which one.
        table: TableRef,
        /// The kind, if one was written.
        kind: Option<TableKind>,
        /// No error if it is not there.
        if_exists: bool,
        /// Live queries on it are ended.
        cascade: bool,
    },
    /// `CREATE [OR REPLACE] VIEW`.
    CreateView(Box<CreateView>),
    /// `DROP VIEW`.
    DropView {
        /// Which one.
        view: TableRef,
        /// No error if it is not there.
        if_exists: bool,
    },
    /// `SHOW NAMESPACES`.
    ShowNamespaces,
    /// `SHOW TABLES [IN ns]`.
    ShowTables {
        /// The namespace, if one was written.
        namespace: Option<String>,
        /// Where it was written.
        position: Option<Position>,
    },
    /// `SHOW COLUMNS FROM t`.
    ShowColumns(TableRef),
    /// `DESCRIBE [TABLE] t [HISTORY]`.
    Describe {
        /// Which table.
        table: TableRef,
        /// All schema versions instead of the columns.
        history: bool,
    },
    /// `SHOW STATS FOR TABLE t`, `SHOW TABLE STATS t`.
    ShowStats(TableRef),
    /// `SHOW MANIFEST FOR t`.
    ShowManifest(TableRef),
    /// `FLUSH TABLE t [FOR USER 'u'] [NOWAIT]` or, without a table, `FLUSH ALL [NOWAIT]`.
    Flush(Flush),
    /// `CREATE USER`.
    CreateUser(CreateUser),
    /// `ALTER USER`.
    AlterUser {
        /// User id or username.
        user: String,
        /// New password.
        password: Option<String>,
        /// New role.
        role: Option<Role>,
        /// Where the name was written.
        position: Option<Position>,
    },
    /// `DROP USER`.
    DropUser {
        /// User id or username.
        user: String,
        /// No error if there is none.
        if_exists: bool,
        /// Where the name was written.
        position: Option<Position>,
    },
    /// `EXECUTE AS USER 'u' (statement)`.
    ExecuteAsUser {
        /// The user id.
        user: String,
        /// Where it was written.
        position: Option<Position>,
        /// What to run as that user.
        inner: Box<Statement>,
    },
    /// `COMPACT TABLE t [FOR USER 'u'] [NOWAIT]`.
    Compact(Compact),
    /// `EXPORT USER 'u' TO 'path'`.
    Export(Export),
    /// `PURGE USER 'u' [NOWAIT]`.
    Purge(Purge),
    /// `KILL JOB 'id'`.
    KillJob {
        /// The job id.
        job_id: String,
        /// Where it was written.
        position: Option<Position>,
    },
    /// `KILL LIVE QUERY 'id'`.
    KillLiveQuery {
        /// The live id.
        live_id: String,
    },
    /// A statement that could not be understood: it fails when its turn comes, so that those before it still run.
    Invalid(Error),
}

impl Statement {
    /// True for statements that read or write rows: they take parameters and have a time limit.
    pub fn is_about_rows(&self) -> bool {
        matches!(
            self,
            Self::Query(_)
                | Self::Explain(_)
                | Self::Insert(_)
                | Self::Update(_)
                | Self::Delete(_)
                | Self::ExecuteAsUser { .. }
        )
    }

    /// True for statements that only say what is there.
    pub(crate) fn only_shows(&self) -> bool {
        matches!(
            self,
            Self::ShowNamespaces
                | Self::ShowTables { .. }
                | Self::ShowColumns(_)
                | Self::Describe { .. }
                | Self::ShowStats(_)
                | Self::ShowManifest(_)
        )
    }
}

/// `CREATE NAMESPACE` and `ALTER NAMESPACE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateNamespace {
    /// Its name.
    pub name: String,
    /// No error if it is there.
    pub if_not_exists: bool,
    /// Options, a JSON object.
    pub options: serde_json::Map<String, serde_json::Value>,
    /// Where the name was written.
    pub position: Option<Position>,
}

/// `CREATE TABLE`.
#[derive(Debug, Clone)]
pub struct CreateTable {
    /// Its name.
    pub table: TableRef,
    /// How its rows are partitioned and kept.
    pub kind: TableKind,
    /// No error if it is there.
    pub if_not_exists: bool,
    /// The columns as declared.
    pub columns: Vec<ColumnDef>,
    /// `PRIMARY KEY (...)` as names with their places; empty if every key column says so itself.
    pub primary_key: Vec<(String, Option<Position>)>,
    /// `CHECK (...)` of columns and table.
    pub checks: Vec<ast::Expr>,
    /// LOCATION, FLUSH POLICY and WITH.
    pub options: TableOptions,
    /// `LOCATION REFERENCE 'name'`.
    pub location_reference: Option<(String, Option<Position>)>,
}

/// `ALTER TABLE`.
#[derive(Debug, Clone)]
pub struct AlterTable {
    /// Which one.
    pub table: TableRef,
    /// No error if it is not there.
    pub if_exists: bool,
    /// What to change, in this order.
    pub changes: Vec<Alteration>,
}

/// A name and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Folded to lower case unless quoted.
    pub name: String,
    /// Where it was written.
    pub position: Option<Position>,
}

/// One change of `ALTER TABLE`.
#[derive(Debug, Clone)]
pub enum Alteration {
    /// `ADD COLUMN c TYPE ...`.
    AddColumn {
        /// The column.
        column: ColumnDef,
        /// Nothing to do if there is one of the name.
        if_not_exists: bool,
    },
    /// `DROP COLUMN c`.
    DropColumn {
        /// Which.
        column: Named,
        /// Nothing to do if there is none.
        if_exists: bool,
    },
    /// `RENAME COLUMN a TO b`.
    RenameColumn {
        /// Which.
        column: Named,
        /// Its new name.
        to: Named,
    },
    /// `RENAME TO t2`.
    RenameTable(TableRef),
    /// `MODIFY COLUMN c TYPE`.
    Retype {
        /// Which.
        column: Named,
        /// Its new type.
        data_type: DataType,
        /// Where the type was written.
        position: Option<Position>,
    },
    /// `ALTER COLUMN c SET DEFAULT x` and `DROP DEFAULT`.
    SetDefault {
        /// Which.
        column: Named,
        /// The new default.
        default: Option<ast::Expr>,
        /// Where it was written.
        position: Option<Position>,
    },
    /// `ALTER COLUMN c SET NOT NULL` and `DROP NOT NULL`.
    SetNotNull {
        /// Which.
        column: Named,
        /// True for `SET`.
        not_null: bool,
    },
    /// `SET (k = v, ...)`.
    SetOptions(Vec<Written>),
}

/// A column of `CREATE TABLE`.
#[derive(Debug, Clone)]
pub struct ColumnDef {
    /// Its name.
    pub name: String,
    /// Its type.
    pub data_type: DataType,
    /// False for NOT NULL.
    pub nullable: bool,
    /// `PRIMARY KEY` after it.
    pub primary_key: bool,
    /// DEFAULT; `AUTO_INCREMENT` is `SNOWFLAKE_ID()`.
    pub default: Option<ast::Expr>,
    /// Where the default was written.
    pub default_position: Option<Position>,
    /// Where the name was written.
    pub position: Option<Position>,
}

/// `CREATE [OR REPLACE] VIEW`.
#[derive(Debug, Clone)]
pub struct CreateView {
    /// Its name.
    pub view: TableRef,
    /// It takes the place of a view of that name.
    pub replace: bool,
    /// No error if it is there.
    pub if_not_exists: bool,
    /// The names of its columns, if they are given.
    pub columns: Vec<String>,
    /// What it stands for.
    pub query: Box<ast::Query>,
}

/// `FLUSH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flush {
    /// The table; all of them if absent.
    pub table: Option<TableRef>,
    /// One user's partition of a USER table.
    pub user: Option<String>,
    /// Answer before it is done.
    pub nowait: bool,
}

/// `COMPACT TABLE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compact {
    /// The table.
    pub table: TableRef,
    /// One user's partition of a USER table.
    pub user: Option<String>,
    /// Answer before it is done.
    pub nowait: bool,
}

/// `PURGE USER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purge {
    /// Whose rows.
    pub user: String,
    /// Where the user was written.
    pub position: Option<Position>,
    /// Answer before it is done.
    pub nowait: bool,
}

/// `EXPORT USER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Whose rows.
    pub user: String,
    /// Where the user was written.
    pub position: Option<Position>,
    /// The directory to be made.
    pub path: String,
    /// Where the path was written.
    pub path_position: Option<Position>,
    /// Answer before it is done.
    pub nowait: bool,
}

/// `CREATE USER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateUser {
    /// User id and username.
    pub user: String,
    /// No error if it is there.
    pub if_not_exists: bool,
    /// Its password, if it can log in with one.
    pub password: Option<String>,
    /// Its role.
    pub role: Role,
    /// Where the name was written.
    pub position: Option<Position>,
}
