//! From names in a text to tables, and from misspelt names to hints.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{Ident, ObjectName};
use kalamdb_engine::{Access, Catalog, Table, TableKind, View};

use crate::dialect::{TableRef, position};
use crate::error::{Error, ErrorCode, Position, Result};
use crate::statement::StatementContext;
use crate::system::{self, ComputedTable};

/// What a table's name stands for.
#[derive(Debug, Clone)]
pub(crate) enum Resolved {
    /// A table of the engine.
    Table(Arc<Table>),
    /// A query under a name.
    View(Arc<View>),
    /// A table whose rows are computed when it is read.
    Computed(Arc<dyn ComputedTable>),
}

/// An identifier as names are compared: lower case unless quoted.
pub(crate) fn fold(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_ascii_lowercase(),
    }
}

/// A written table name.
///
/// # Errors
/// [`ErrorCode::InvalidStatement`] for more than `namespace.table`.
pub(crate) fn table_ref(name: &ObjectName) -> Result<TableRef> {
    let idents: Vec<&Ident> = name.0.iter().filter_map(|part| part.as_ident()).collect();
    let at = idents.first().and_then(|ident| position(ident.span));
    match idents.as_slice() {
        [table] if name.0.len() == 1 => Ok(TableRef { namespace: None, name: fold(table), position: at }),
        [namespace, table] if name.0.len() == 2 => {
            Ok(TableRef { namespace: Some(fold(namespace)), name: fold(table), position: at })
        }
        _ => Err(Error::new(ErrorCode::InvalidStatement, format!("{name} is not a table name"))
            .with_hint("a table is written as table or namespace.table")
            .with_position(at)),
    }
}

/// Finds a table: in the namespace that was written, else in the statement's, else among the computed tables.
///
/// Who may read or write it is the caller's to check, except for computed tables, which are checked here.
///
/// # Errors
/// [`ErrorCode::NamespaceNotFound`] or [`ErrorCode::TableNotFound`] with the nearest name as hint;
/// [`ErrorCode::PermissionDenied`] for a computed table of the system.
pub(crate) fn resolve(ctx: &StatementContext, written: &TableRef) -> Result<Resolved> {
    let namespace = written.namespace.as_deref().unwrap_or(&ctx.namespace);
    // First, because a computed table may show more than the stored one of the same name.
    if let Some(table) = system::computed(namespace, &written.name) {
        if !table.everyone() && !ctx.is_dba() {
            let message = format!("you may not read table {namespace}.{}", written.name);
            return Err(Error::new(ErrorCode::PermissionDenied, message).with_position(written.position));
        }
        return Ok(Resolved::Computed(table));
    }
    if let Some(table) = ctx.catalog.table(namespace, &written.name) {
        return Ok(Resolved::Table(table.clone()));
    }
    if let Some(view) = ctx.catalog.view(namespace, &written.name) {
        return Ok(Resolved::View(view.clone()));
    }
    Err(table_not_found(ctx, namespace, &written.name).with_position(written.position))
}

/// Finds a table of the engine.
///
/// # Errors
/// As [`resolve`]; [`ErrorCode::InvalidStatement`] for a view and for a computed table.
pub(crate) fn engine_table(ctx: &StatementContext, written: &TableRef) -> Result<Arc<Table>> {
    match resolve(ctx, written)? {
        Resolved::Table(table) => Ok(table),
        Resolved::View(view) => {
            let message = format!("{} is a view, not a table", view.qualified_name());
            Err(Error::new(ErrorCode::InvalidStatement, message).with_position(written.position))
        }
        Resolved::Computed(table) => Err(Error::new(
            ErrorCode::InvalidStatement,
            format!("{}.{} is computed when it is read", table.namespace(), table.name()),
        )
        .with_position(written.position)),
    }
}

/// The error for a missing table, or for its missing namespace, with the nearest name as hint.
pub(crate) fn table_not_found(ctx: &StatementContext, namespace: &str, name: &str) -> Error {
    if !namespace_exists(&ctx.catalog, namespace) {
        return namespace_not_found(ctx, namespace, None);
    }
    let error = Error::new(ErrorCode::TableNotFound, format!("table {namespace}.{name} does not exist"));
    match nearest_table(ctx, namespace, name) {
        Some(name) => error.with_hint(format!("did you mean {name}?")),
        None => error,
    }
}

/// The error for a missing namespace, with the nearest name as hint.
pub(crate) fn namespace_not_found(ctx: &StatementContext, name: &str, at: Option<Position>) -> Error {
    let error = Error::new(ErrorCode::NamespaceNotFound, format!("namespace {name} does not exist"))
        .with_position(at);
    let names = ctx.catalog.namespaces().map(|namespace| namespace.id.as_str());
    match nearest(name, names) {
        Some(near) => error.with_hint(format!("did you mean {near}?")),
        None => error,
    }
}

/// True if tables can be named in it.
pub(crate) fn namespace_exists(catalog: &Catalog, name: &str) -> bool {
    catalog.namespace(name).is_some()
        || name == system::INFORMATION_SCHEMA
        || name == kalamdb_engine::SYSTEM_NAMESPACE
}

/// The most similar table this session may see: in the same namespace, or one of the same name elsewhere.
fn nearest_table(ctx: &StatementContext, namespace: &str, name: &str) -> Option<String> {
    let stored =
        ctx.catalog.tables_in(namespace).filter(|table| visible(ctx, table)).map(|table| table.name.as_str());
    let computed =
        system::all().filter(|table| table.namespace() == namespace && (table.everyone() || ctx.is_dba()));
    let computed: Vec<&str> = computed.map(|table| table.name()).collect();
    let views = ctx.catalog.views_in(namespace).map(|view| view.name.as_str());
    if let Some(near) = nearest(name, stored.chain(views).chain(computed)) {
        return Some(format!("{namespace}.{near}"));
    }
    let elsewhere = ctx.catalog.tables().find(|table| table.name.as_str() == name && visible(ctx, table));
    elsewhere.map(|table| table.qualified_name())
}

/// True if the session may know that the table exists.
pub(crate) fn visible(ctx: &StatementContext, table: &Table) -> bool {
    match table.kind {
        TableKind::System => ctx.is_dba() || table.name.as_str() == "users",
        TableKind::Shared | TableKind::Stream => ctx.is_dba() || table.options.access != Access::Private,
        TableKind::User => true,
    }
}

/// The error for a missing column, with the nearest of `columns` as hint.
pub(crate) fn column_not_found<'a>(
    table: &str,
    name: &str,
    columns: impl IntoIterator<Item = &'a str>,
    at: Option<Position>,
) -> Error {
    let error =
        Error::new(ErrorCode::ColumnNotFound, format!("column {name} of table {table} does not exist"))
            .with_position(at);
    match nearest(name, columns) {
        Some(near) => error.with_hint(format!("did you mean {near}?")),
        None => error,
    }
}

/// The candidate most similar to a name, if any is similar enough to be what was meant.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let allowed = (name.chars().count() / 3).clamp(1, 4);
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let lower = candidate.to_lowercase();
        let mut distance = strsim::damerau_levenshtein(&name, &lower);
        // A name that begins like the other is near, however much is missing: `conv` for `conversations`.
        if distance > allowed && name.len() >= 3 && (lower.starts_with(&name) || name.starts_with(&lower)) {
            distance = allowed;
        }
        if distance <= allowed && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_if_one_is_near() {
        let tables = ["messages", "members", "conversations"];
        for (written, expected) in [
            ("mesages", Some("messages")),
            ("message", Some("messages")),
            ("MESSAGES", Some("messages")),
            ("memebrs", Some("members")),
            ("conv", Some("conversations")),
            ("orders", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, tables), expected, "{written}");
        }
    }

    #[test]
    fn names_fold_unless_they_are_quoted() {
        assert_eq!(fold(&Ident::new("MyTable")), "mytable");
        assert_eq!(fold(&Ident::with_quote('"', "MyTable")), "MyTable");
    }
}
