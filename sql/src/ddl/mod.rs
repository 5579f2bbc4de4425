//! Statements that change the catalog. Each is one atomic, durable change of the engine.
//!
//! They need the role `dba`. The namespace `system` belongs to the database: nothing is created, changed or dropped in it.

mod alter;
mod conditions;
mod schema;

use kalamdb_engine::{
    DEFAULT_NAMESPACE, Ddl, NamespaceId, NewTable, SYSTEM_NAMESPACE, TableKind, TableName, TableOptions,
};
use serde_json::{Map, Value};

use crate::auth::Role;
use crate::dialect::{CreateNamespace, CreateTable, TableRef};
use crate::error::{Error, ErrorCode, Position, Result};
use crate::session::Outcome;
use crate::statement::StatementContext;
use crate::system::INFORMATION_SCHEMA;
use crate::{locations, names};

pub(crate) use alter::alter_table;

/// `CREATE NAMESPACE`.
///
/// # Errors
/// [`ErrorCode::AlreadyExists`], [`ErrorCode::InvalidParameter`] for a name that cannot be used.
pub(crate) async fn create_namespace(ctx: &StatementContext, wanted: &CreateNamespace) -> Result<Outcome> {
    ctx.require(Role::Dba, "CREATE NAMESPACE")?;
    let name = NamespaceId::new(&wanted.name).map_err(|e| Error::from(e).with_position(wanted.position))?;
    if name.as_str() == INFORMATION_SCHEMA {
        return Err(reserved(&wanted.name, wanted.position));
    }
    let options = Value::Object(wanted.options.clone()).to_string();
    match ctx.instance.database().ddl(Ddl::CreateNamespace { name, options }).await.map_err(Error::from) {
        Ok(_) => Ok(Outcome::message(format!("namespace {} created", wanted.name))),
        Err(error) if error.code == ErrorCode::AlreadyExists && wanted.if_not_exists => {
            Ok(Outcome::message(format!("namespace {} already exists", wanted.name)))
        }
        Err(error) => Err(error.with_position(wanted.position)),
    }
}

/// `ALTER NAMESPACE ... SET OPTIONS`: the options named get their new values, NULL removes one.
///
/// # Errors
/// [`ErrorCode::NamespaceNotFound`].
pub(crate) async fn alter_namespace(ctx: &StatementContext, wanted: &CreateNamespace) -> Result<Outcome> {
    ctx.require(Role::Dba, "ALTER NAMESPACE")?;
    let namespace = ctx.catalog.namespace(&wanted.name);
    let namespace =
        namespace.ok_or_else(|| names::namespace_not_found(ctx, &wanted.name, wanted.position))?;
    let mut options: Map<String, Value> = serde_json::from_str(&namespace.options).unwrap_or_default();
    options.extend(wanted.options.clone());
    options.retain(|_, value| !value.is_null());
    let change =
        Ddl::AlterNamespace { name: namespace.id.clone(), options: Value::Object(options).to_string() };
    ctx.instance.database().ddl(change).await?;
    Ok(Outcome::message(format!("namespace {} changed", wanted.name)))
}

/// `DROP NAMESPACE`.
///
/// # Errors
/// [`ErrorCode::NamespaceNotFound`]; [`ErrorCode::InUse`] listing its tables, unless they go with it.
pub(crate) async fn drop_namespace(
    ctx: &StatementContext,
    name: &str,
    if_exists: bool,
    cascade: bool,
    at: Option<Position>,
) -> Result<Outcome> {
    ctx.require(Role::Dba, "DROP NAMESPACE")?;
    if [SYSTEM_NAMESPACE, INFORMATION_SCHEMA, DEFAULT_NAMESPACE].contains(&name) {
        return Err(reserved(name, at));
    }
    let Some(namespace) = ctx.catalog.namespace(name) else {
        return match if_exists {
            true => Ok(Outcome::message(format!("namespace {name} does not exist"))),
            false => Err(names::namespace_not_found(ctx, name, at)),
        };
    };
    let tables: Vec<_> = ctx.catalog.tables_in(name).cloned().collect();
    let views = ctx.catalog.views_in(name).map(|view| view.qualified_name());
    let users: Vec<_> = tables.iter().map(|table| table.qualified_name()).chain(views).collect();
    if !cascade && !users.is_empty() {
        let list = users.join(", ");
        let message = format!("namespace {name} is in use by {list}");
        return Err(Error::new(ErrorCode::InUse, message)
            .with_hint("CASCADE drops its tables and views too")
            .with_position(at));
    }
    ctx.instance.database().ddl(Ddl::DropNamespace { name: namespace.id.clone(), cascade }).await?;
    ctx.instance.live().tables_dropped();
    Ok(Outcome::message(format!("namespace {name} dropped")))
}

/// `CREATE TABLE`.
///
/// # Errors
/// [`ErrorCode::AlreadyExists`], [`ErrorCode::NamespaceNotFound`], and whatever is wrong with the columns.
pub(crate) async fn create_table(ctx: &StatementContext, wanted: &CreateTable) -> Result<Outcome> {
    ctx.require(Role::Dba, "CREATE TABLE")?;
    let at = wanted.table.position;
    let namespace = wanted.table.namespace.as_deref().unwrap_or(&ctx.namespace);
    if [SYSTEM_NAMESPACE, INFORMATION_SCHEMA].contains(&namespace) {
        return Err(reserved(namespace, at));
    }
    let Some(known) = ctx.catalog.namespace(namespace) else {
        return Err(names::namespace_not_found(ctx, namespace, at));
    };
    let full_name = format!("{namespace}.{}", wanted.table.name);
    let exists = || Ok(Outcome::message(format!("table {full_name} already exists")));
    if wanted.if_not_exists && ctx.catalog.table(namespace, &wanted.table.name).is_some() {
        return exists();
    }
    let options = &wanted.options;
    let stored = options.location.is_some() || wanted.location_reference.is_some();
    if wanted.kind == TableKind::Stream
        && (stored || options.flush_rows.is_some() || options.flush_interval_secs.is_some())
    {
        let message = "a STREAM table is never written to disk: it has no LOCATION and no FLUSH POLICY";
        return Err(Error::new(ErrorCode::InvalidParameter, message)
            .with_hint("its options are retention, max_buffer, ephemeral and access")
            .with_position(at));
    }
    let (_locations, store) = match &wanted.location_reference {
        Some((name, at)) => {
            let locked = ctx.instance.locations().lock().await;
            let store = locations::check_reference(ctx, name, *at).await?;
            (Some(locked), store)
        }
        None => (None, None),
    };
    let location_reference = wanted.location_reference.as_ref().map(|(name, _)| name.clone());
    let table = NewTable {
        namespace: known.id.clone(),
        name: TableName::new(&wanted.table.name).map_err(|e| Error::from(e).with_position(at))?,
        kind: wanted.kind,
        schema: schema::build(ctx, wanted)?,
        options: TableOptions { location_reference, store, ..wanted.options.clone() },
    };
    match ctx.instance.database().ddl(Ddl::CreateTable(Box::new(table))).await.map_err(Error::from) {
        Ok(_) => Ok(Outcome::message(format!("table {full_name} created"))),
        Err(error) if error.code == ErrorCode::AlreadyExists && wanted.if_not_exists => exists(),
        Err(error) => Err(error.with_position(at)),
    }
}

/// `DROP TABLE`.
///
/// # Errors
/// [`ErrorCode::TableNotFound`]; [`ErrorCode::InUse`] listing the live queries on it, unless they are to be ended.
pub(crate) async fn drop_table(
    ctx: &StatementContext,
    written: &TableRef,
    kind: Option<TableKind>,
    if_exists: bool,
    cascade: bool,
) -> Result<Outcome> {
    ctx.require(Role::Dba, "DROP TABLE")?;
    let namespace = written.namespace.as_deref().unwrap_or(&ctx.namespace);
    if [SYSTEM_NAMESPACE, INFORMATION_SCHEMA].contains(&namespace) {
        return Err(reserved(namespace, written.position));
    }
    let table = match names::engine_table(ctx, written) {
        Ok(table) => table,
        Err(error)
            if if_exists && matches!(error.code, ErrorCode::TableNotFound | ErrorCode::NamespaceNotFound) =>
        {
            return Ok(Outcome::message(format!("table {namespace}.{} does not exist", written.name)));
        }
        Err(error) => return Err(error),
    };
    if kind.is_some_and(|kind| kind != table.kind) {
        let message =
            format!("{} is a {} table", table.qualified_name(), table.kind.to_string().to_uppercase());
        return Err(Error::new(ErrorCode::InvalidStatement, message).with_position(written.position));
    }
    let live = ctx.instance.live().subscriptions_on(table.id);
    if !cascade && !live.is_empty() {
        let message =
            format!("table {} is in use by live queries {}", table.qualified_name(), live.join(", "));
        return Err(Error::new(ErrorCode::InUse, message)
            .with_hint("CASCADE ends them")
            .with_position(written.position));
    }
    ctx.instance.database().ddl(Ddl::DropTable { id: table.id }).await?;
    ctx.instance.live().tables_dropped();
    Ok(Outcome::message(format!("table {} dropped", table.qualified_name())))
}

/// The error for a change in a namespace of the database's own.
pub(crate) fn reserved(namespace: &str, at: Option<Position>) -> Error {
    let message = format!("namespace {namespace} belongs to the database");
    Error::new(ErrorCode::PermissionDenied, message).with_position(at)
}
