//! Which system columns a statement names, and keeping them out of wildcards.
//!
//! The rewrite works on the parsed statement, one SELECT at a time: `*` over one table becomes
//! `* EXCLUDE (_seq, ...)`, over several `a.* EXCLUDE (...), b.*, ...` with the columns of `USING` once. So a subquery that
//! lists `_seq` itself keeps it under an outer `*`. What this cannot express (NATURAL joins, `* REPLACE` over several
//! tables, a common table expression with the name of a table) is refused, and only for statements that name a system
//! column at all.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::common::TableReference;
use datafusion::sql::planner::{IdentNormalizer, object_name_to_table_reference};
use datafusion::sql::sqlparser::ast::{
    self, ExcludeSelectItem, Expr, Ident, JoinConstraint, JoinOperator, ObjectName, Query, Select,
    SelectItem, SelectItemQualifiedWildcardKind, TableFactor, TableWithJoins, Visit, VisitMut, Visitor,
    VisitorMut, WildcardAdditionalOptions,
};
use kalamdb_engine::{DELETED, SEQ, TS, UPDATED};

use crate::error::{Error, ErrorCode, Result};
use crate::provider::{Binder, Naming, ROW_ADDRESS, USER};

/// Finds the system columns that a statement names.
pub(super) fn naming(statement: &ast::Statement) -> Naming {
    let mut names = Names { found: Naming::default() };
    let _ = statement.visit(&mut names);
    names.found
}

struct Names {
    found: Naming,
}

impl Visitor for Names {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let name = match expr {
            Expr::Identifier(name) => Some(name),
            Expr::CompoundIdentifier(parts) => parts.last(),
            _ => None,
        };
        match name.map(normal).as_deref() {
            Some(SEQ | UPDATED | DELETED | TS) => self.found.system = true,
            Some(USER) => self.found.user = true,
            Some(ROW_ADDRESS) => self.found.address = true,
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// An identifier, folded to lower case unless quoted.
pub(super) fn normal(ident: &Ident) -> String {
    IdentNormalizer::new(true).normalize(ident.clone())
}

/// Rewrites every wildcard so that it leaves out the system columns that tables show to this statement.
///
/// # Errors
/// [`ErrorCode::Unsupported`] for a wildcard that cannot be rewritten, saying what to write instead.
pub(super) fn narrow_wildcards(statement: &mut ast::Statement, binder: &Binder<'_>) -> Result<()> {
    let mut rewrite = Rewrite { binder, ctes: HashSet::new() };
    match statement.visit(&mut rewrite) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Rewrite<'a> {
    binder: &'a Binder<'a>,
    /// Names of common table expressions, anywhere in the statement.
    ctes: HashSet<String>,
}

impl VisitorMut for Rewrite<'_> {
    type Break = Box<Error>;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Box<Error>> {
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            self.ctes.insert(normal(&cte.alias.name));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Box<Error>> {
        match self.narrow(select) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(Box::new(error)),
        }
    }
}

/// One relation of a FROM clause.
struct Relation {
    /// How `x.*` names it; `None` for a subquery without an alias.
    qualifier: Option<ObjectName>,
    /// The system columns it shows.
    system: Vec<String>,
    /// Columns that a join with USING has given already.
    given: Vec<String>,
}

impl Relation {
    fn left_out(&self) -> impl Iterator<Item = &String> {
        self.system.iter().chain(&self.given)
    }

    fn is_called(&self, name: &ObjectName) -> bool {
        let last = |name: &ObjectName| name.0.last().and_then(|part| part.as_ident()).map(normal);
        self.qualifier.as_ref().is_some_and(|qualifier| last(qualifier) == last(name))
    }
}

impl Rewrite<'_> {
    fn narrow(&self, select: &mut Select) -> Result<()> {
        let has_wildcard =
            |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
        if !select.projection.iter().any(has_wildcard) {
            return Ok(());
        }
        let mut relations = Vec::new();
        let mut natural = false;
        for from in &select.from {
            self.collect(from, &mut relations, &mut natural)?;
        }
        if relations.iter().all(|relation| relation.system.is_empty()) {
            return Ok(());
        }
        if natural {
            return Err(unsupported(
                "NATURAL joins together with system columns",
                "write JOIN ... USING (columns)",
            ));
        }
        let mut projection = Vec::with_capacity(select.projection.len());
        for item in select.projection.drain(..) {
            match item {
                SelectItem::Wildcard(options) => narrow_star(options, &relations, &mut projection)?,
                SelectItem::QualifiedWildcard(
                    SelectItemQualifiedWildcardKind::ObjectName(name),
                    mut options,
                ) => {
                    if let Some(relation) = relations.iter().find(|relation| relation.is_called(&name)) {
                        exclude(&mut options, relation.system.iter());
                    }
                    let name = SelectItemQualifiedWildcardKind::ObjectName(name);
                    projection.push(SelectItem::QualifiedWildcard(name, options));
                }
                other => projection.push(other),
            }
        }
        select.projection = projection;
        Ok(())
    }

    fn collect(
        &self,
        from: &TableWithJoins,
        relations: &mut Vec<Relation>,
        natural: &mut bool,
    ) -> Result<()> {
        self.relation(&from.relation, relations, natural)?;
        for join in &from.joins {
            let start = relations.len();
            self.relation(&join.relation, relations, natural)?;
            match constraint(&join.join_operator) {
                Some(JoinConstraint::Natural) => *natural = true,
                Some(JoinConstraint::Using(names)) => {
                    let names = names.iter().filter_map(|name| name.0.last()?.as_ident().map(normal));
                    if let Some(relation) = relations.get_mut(start) {
                        relation.given.extend(names);
                    }
                }
                _ => {}
            }
            match &join.join_operator {
                JoinOperator::LeftSemi(_) | JoinOperator::LeftAnti(_) => relations.truncate(start),
                JoinOperator::Semi(_) | JoinOperator::Anti(_) => relations.truncate(start),
                JoinOperator::RightSemi(_) | JoinOperator::RightAnti(_) => drop(relations.drain(..start)),
                _ => {}
            }
        }
        Ok(())
    }

    fn relation(
        &self,
        factor: &TableFactor,
        relations: &mut Vec<Relation>,
        natural: &mut bool,
    ) -> Result<()> {
        let (qualifier, system) = match factor {
            TableFactor::Table { name, alias, args: None, .. } => {
                let qualifier = alias.as_ref().map_or(name.clone(), |alias| vec![alias.name.clone()].into());
                (Some(qualifier), self.system_columns(name)?)
            }
            TableFactor::NestedJoin { table_with_joins, .. } => {
                return self.collect(table_with_joins, relations, natural);
            }
            other => (alias_of(other).map(|alias| vec![alias.clone()].into()), Vec::new()),
        };
        relations.push(Relation { qualifier, system, given: Vec::new() });
        Ok(())
    }

    /// The system columns that a name in FROM shows; none unless it is a table of the engine.
    fn system_columns(&self, name: &ObjectName) -> Result<Vec<String>> {
        let name: TableReference = object_name_to_table_reference(name.clone(), true)?;
        let Some(table) = self.binder.engine_table(&name) else { return Ok(Vec::new()) };
        if matches!(name, TableReference::Bare { .. }) && self.ctes.contains(name.table()) {
            let what =
                format!("a WITH query named {} like a table, together with system columns", name.table());
            return Err(unsupported(&what, "give the WITH query another name"));
        }
        Ok(self.binder.shape(table).system_names().map(str::to_owned).collect())
    }
}

fn narrow_star(
    mut options: WildcardAdditionalOptions,
    relations: &[Relation],
    projection: &mut Vec<SelectItem>,
) -> Result<()> {
    if let [only] = relations {
        exclude(&mut options, only.system.iter());
        projection.push(SelectItem::Wildcard(options));
        return Ok(());
    }
    if options
        != (WildcardAdditionalOptions {
            wildcard_token: options.wildcard_token.clone(),
            ..Default::default()
        })
    {
        let what = "EXCLUDE, EXCEPT and REPLACE over several tables together with system columns";
        return Err(unsupported(what, "write table.* EXCLUDE (...) for each table"));
    }
    for relation in relations {
        let Some(qualifier) = &relation.qualifier else {
            let what = "* over a subquery without a name together with system columns";
            return Err(unsupported(what, "give the subquery a name: (SELECT ...) AS q"));
        };
        let mut options = options.clone();
        exclude(&mut options, relation.left_out());
        let name = SelectItemQualifiedWildcardKind::ObjectName(qualifier.clone());
        projection.push(SelectItem::QualifiedWildcard(name, options));
    }
    Ok(())
}

/// Adds columns to those a wildcard leaves out already.
fn exclude<'a>(options: &mut WildcardAdditionalOptions, names: impl Iterator<Item = &'a String>) {
    let mut excluded = match options.opt_exclude.take() {
        Some(ExcludeSelectItem::Single(name)) => vec![name],
        Some(ExcludeSelectItem::Multiple(names)) => names,
        None => Vec::new(),
    };
    let mut present: HashSet<String> =
        excluded.iter().filter_map(|name| name.0.last()?.as_ident().map(normal)).collect();
    if let Some(except) = &options.opt_except {
        present.extend([&except.first_element].into_iter().chain(&except.additional_elements).map(normal));
    }
    let missing = names.filter(|name| present.insert((*name).clone()));
    excluded.extend(missing.map(|name| ObjectName::from(vec![Ident::with_quote('"', name.as_str())])));
    if !excluded.is_empty() {
        options.opt_exclude = Some(ExcludeSelectItem::Multiple(excluded));
    }
}

fn constraint(join: &JoinOperator) -> Option<&JoinConstraint> {
    match join {
        JoinOperator::Join(c)
        | JoinOperator::Inner(c)
        | JoinOperator::Left(c)
        | JoinOperator::LeftOuter(c)
        | JoinOperator::Right(c)
        | JoinOperator::RightOuter(c)
        | JoinOperator::FullOuter(c)
        | JoinOperator::CrossJoin(c)
        | JoinOperator::Semi(c)
        | JoinOperator::LeftSemi(c)
        | JoinOperator::RightSemi(c)
        | JoinOperator::Anti(c)
        | JoinOperator::LeftAnti(c)
        | JoinOperator::RightAnti(c)
        | JoinOperator::StraightJoin(c) => Some(c),
        _ => None,
    }
}

fn alias_of(factor: &TableFactor) -> Option<&Ident> {
    let alias = match factor {
        TableFactor::Table { alias, .. }
        | TableFactor::Derived { alias, .. }
        | TableFactor::TableFunction { alias, .. }
        | TableFactor::Function { alias, .. }
        | TableFactor::UNNEST { alias, .. } => alias,
        _ => return None,
    };
    alias.as_ref().map(|alias| &alias.name)
}

fn unsupported(what: &str, instead: &str) -> Error {
    Error::new(ErrorCode::Unsupported, format!("{what} are not supported")).with_hint(instead)
}
