//! `ALTER TABLE`: from names to the engine's changes, all of one statement in one change of the catalog.
//!
//! The changes are made one after the other on a draft of the table, so that each finds what those before it made:
//! `RENAME a TO b, ADD a INT` works. The engine then takes all of them or none.

use std::sync::Arc;

use kalamdb_engine::{
    AlterTable as Changes, Column, ColumnId, Ddl, Error as EngineError, NewColumn, SYSTEM_NAMESPACE,
    SchemaDef, Table, TableChange, TableKind, TableName, TableOptions, TableSchema, is_reserved, is_widening,
};

use super::{conditions, reserved, schema};
use crate::auth::Role;
use crate::dialect::{AlterTable, Alteration, ColumnDef, Named, TableRef, alter_option, parse_expression};
use crate::error::{Error, ErrorCode, Position, Result};
use crate::session::Outcome;
use crate::statement::StatementContext;
use crate::system::INFORMATION_SCHEMA;
use crate::{functions, names};

/// How often the statement is tried when another change of the table came between.
const TRIES: usize = 10;

/// `ALTER TABLE`.
///
/// # Errors
/// [`ErrorCode::TableNotFound`], [`ErrorCode::ColumnNotFound`]; [`ErrorCode::AlreadyExists`] for a name that is taken;
/// [`ErrorCode::InUse`] if a live query or a CHECK uses what is to go; [`ErrorCode::NotNullViolation`] if the rows that
/// are there do not allow it; whatever is wrong with a type, default or option.
pub(crate) async fn alter_table(mut ctx: Arc<StatementContext>, wanted: &AlterTable) -> Result<Outcome> {
    ctx.require(Role::Dba, "ALTER TABLE")?;
    let namespace = wanted.table.namespace.as_deref().unwrap_or(&ctx.namespace);
    if [SYSTEM_NAMESPACE, INFORMATION_SCHEMA].contains(&namespace) {
        return Err(reserved(namespace, wanted.table.position));
    }
    let full_name = format!("{namespace}.{}", wanted.table.name);
    let mut tries = 0;
    loop {
        let table = match names::engine_table(&ctx, &wanted.table) {
            Ok(table) => table,
            Err(error)
                if wanted.if_exists
                    && matches!(error.code, ErrorCode::TableNotFound | ErrorCode::NamespaceNotFound) =>
            {
                return Ok(Outcome::message(format!("table {full_name} does not exist")));
            }
            Err(error) => return Err(error),
        };
        let draft = draft(&ctx, &table, wanted)?;
        draft.refuse_if_in_use(&ctx)?;
        let Draft { changes, vanished, .. } = draft;
        let (id, base_version) = (table.id, table.schema.version());
        let change = Ddl::AlterTable(Box::new(Changes { id, base_version, changes }));
        match ctx.instance.database().ddl(change).await {
            Ok(_) => {
                let columns: Vec<ColumnId> = vanished.into_iter().map(|(id, _)| id).collect();
                ctx.instance.live().columns_changed(id, &columns);
                return Ok(Outcome::message(format!("table {full_name} altered")));
            }
            Err(EngineError::Conflict) if tries < TRIES => tries += 1,
            Err(error @ EngineError::NotNullViolation { .. }) => {
                return Err(Error::from(error).with_hint(
                    "rows that are there hold NULL or lack the column: give it a DEFAULT, or UPDATE the rows first",
                ));
            }
            Err(error) => return Err(Error::from(error).with_position(wanted.table.position)),
        }
        ctx = StatementContext::read(&ctx.instance, ctx.identity.clone(), ctx.namespace.clone());
    }
}

fn draft(ctx: &StatementContext, table: &Arc<Table>, wanted: &AlterTable) -> Result<Draft> {
    let mut draft = Draft {
        table: table.clone(),
        def: table.schema.def().clone(),
        options: table.options.clone(),
        changes: Vec::new(),
        vanished: Vec::new(),
        retyped: Vec::new(),
    };
    wanted.changes.iter().try_for_each(|change| draft.apply(ctx, change))?;
    draft.check_conditions(ctx)?;
    Ok(draft)
}

/// The table as the changes so far leave it.
struct Draft {
    table: Arc<Table>,
    def: SchemaDef,
    options: TableOptions,
    changes: Vec<TableChange>,
    /// Columns that are dropped or get another type, and where that was written: no live query may use them.
    vanished: Vec<(ColumnId, Option<Position>)>,
    /// Columns whose type changes.
    retyped: Vec<ColumnId>,
}

impl Draft {
    fn apply(&mut self, ctx: &StatementContext, change: &Alteration) -> Result<()> {
        match change {
            Alteration::RenameTable(to) => self.rename_table(to),
            Alteration::SetOptions(written) => {
                for option in written {
                    alter_option(option, &mut self.options, self.table.kind)?;
                }
                self.changes.push(TableChange::SetOptions(self.options.clone()));
                Ok(())
            }
            _ if self.table.kind == TableKind::Stream => {
                let message = format!(
                    "table {} is a STREAM table, whose columns cannot be changed",
                    self.table.qualified_name()
                );
                Err(Error::new(ErrorCode::InvalidStatement, message))
            }
            Alteration::AddColumn { column, if_not_exists } => self.add(ctx, column, *if_not_exists),
            Alteration::DropColumn { column, if_exists } => self.drop(column, *if_exists),
            Alteration::RenameColumn { column, to } => self.rename(column, to),
            Alteration::Retype { column, data_type, position } => {
                self.retype(ctx, column, data_type, *position)
            }
            Alteration::SetDefault { column, default, position } => {
                self.set_default(ctx, column, default.as_ref(), *position)
            }
            Alteration::SetNotNull { column, not_null } => self.set_not_null(column, *not_null),
        }
    }

    fn name(&self) -> String {
        self.table.qualified_name()
    }

    fn find(&self, wanted: &Named) -> Result<usize> {
        let found = self.def.columns.iter().position(|column| column.name == wanted.name);
        found.ok_or_else(|| {
            let columns = self.def.columns.iter().map(|column| column.name.as_str());
            names::column_not_found(&self.name(), &wanted.name, columns, wanted.position)
        })
    }

    /// A column that is not part of the key.
    fn find_value(&self, wanted: &Named, change: &str) -> Result<usize> {
        let at = self.find(wanted)?;
        if !self.def.primary_key.contains(&self.def.columns[at].id) {
            return Ok(at);
        }
        let message = format!(
            "column {} is part of the primary key of table {} and cannot {change}",
            wanted.name,
            self.name()
        );
        Err(Error::new(ErrorCode::InvalidStatement, message).with_position(wanted.position))
    }

    fn check_new_name(&self, name: &str, at: Option<Position>) -> Result<()> {
        let (code, message) = if is_reserved(name) {
            (ErrorCode::InvalidStatement, format!("column name {name} is reserved"))
        } else if self.def.columns.iter().any(|column| column.name == name) {
            (ErrorCode::AlreadyExists, format!("table {} has a column {name} already", self.name()))
        } else {
            return Ok(());
        };
        Err(Error::new(code, message).with_position(at))
    }

    fn rename_table(&mut self, to: &TableRef) -> Result<()> {
        if to.namespace.as_deref().is_some_and(|namespace| namespace != self.table.namespace.as_str()) {
            let message = format!("table {} cannot be moved to another namespace", self.name());
            return Err(Error::new(ErrorCode::Unsupported, message).with_position(to.position));
        }
        let name = TableName::new(&to.name).map_err(|e| Error::from(e).with_position(to.position))?;
        self.changes.push(TableChange::RenameTable(name));
        Ok(())
    }

    fn add(&mut self, ctx: &StatementContext, wanted: &ColumnDef, if_not_exists: bool) -> Result<()> {
        if if_not_exists && self.def.columns.iter().any(|column| column.name == wanted.name) {
            return Ok(());
        }
        self.check_new_name(&wanted.name, wanted.position)?;
        let mut column = schema::build_column(ctx, wanted)?;
        let initial = functions::constant_default(ctx, &column)
            .map_err(|error| error.with_position(wanted.default_position))?;
        column.id = ColumnId(self.def.next_column_id);
        self.def.next_column_id += 1;
        self.changes.push(TableChange::AddColumn(NewColumn {
            name: column.name.clone(),
            data_type: column.data_type.clone(),
            nullable: column.nullable,
            default: column.default.clone(),
            generated: column.generated,
            initial,
        }));
        self.def.columns.push(column);
        Ok(())
    }

    fn drop(&mut self, wanted: &Named, if_exists: bool) -> Result<()> {
        if if_exists && !self.def.columns.iter().any(|column| column.name == wanted.name) {
            return Ok(());
        }
        let at = self.find_value(wanted, "be dropped")?;
        for condition in &self.def.checks {
            if conditions::mentions(condition, &wanted.name)? {
                let message = format!("column {} is in use by CHECK ({condition})", wanted.name);
                return Err(Error::new(ErrorCode::InUse, message).with_position(wanted.position));
            }
        }
        let column = self.def.columns.remove(at);
        self.vanished.push((column.id, wanted.position));
        self.changes.push(TableChange::DropColumn(column.id));
        Ok(())
    }

    fn rename(&mut self, wanted: &Named, to: &Named) -> Result<()> {
        let at = self.find(wanted)?;
        if wanted.name == to.name {
            return Ok(());
        }
        self.check_new_name(&to.name, to.position)?;
        let id = self.def.columns[at].id;
        self.def.columns[at].name = to.name.clone();
        self.changes.push(TableChange::RenameColumn { id, name: to.name.clone() });
        let renamed = self.def.checks.iter().map(|check| conditions::rename(check, &wanted.name, &to.name));
        let renamed: Vec<String> = renamed.collect::<Result<_>>()?;
        if renamed != self.def.checks {
            self.def.checks = renamed;
            self.changes.push(TableChange::SetChecks(self.def.checks.clone()));
        }
        Ok(())
    }

    fn retype(
        &mut self,
        ctx: &StatementContext,
        wanted: &Named,
        data_type: &kalamdb_engine::DataType,
        at: Option<Position>,
    ) -> Result<()> {
        let index = self.find(wanted)?;
        if self.def.columns[index].data_type == *data_type {
            return Ok(());
        }
        self.find_value(wanted, "change its type")?;
        let before = &self.def.columns[index].data_type;
        if !is_widening(before, data_type) {
            let message =
                format!("column {} cannot become {data_type}: values of {before} could be lost", wanted.name);
            let others = kalamdb_engine::widenings(before);
            return Err(Error::new(ErrorCode::TypeMismatch, message)
                .with_hint(format!("{before} can be changed to {others}"))
                .with_position(at));
        }
        let column = &mut self.def.columns[index];
        column.data_type = data_type.clone();
        if let Some(default) = &column.default {
            functions::check_default(ctx, &parse_expression(default)?, data_type).map_err(|mut error| {
                error.message = format!("the default {default} of column {}: {}", column.name, error.message);
                error.with_hint("change or drop the default first").with_position(at)
            })?;
        }
        let id = column.id;
        self.vanished.push((id, wanted.position));
        self.retyped.push(id);
        self.changes.push(TableChange::RetypeColumn { id, data_type: data_type.clone() });
        Ok(())
    }

    fn set_default(
        &mut self,
        ctx: &StatementContext,
        wanted: &Named,
        default: Option<&datafusion::sql::sqlparser::ast::Expr>,
        at: Option<Position>,
    ) -> Result<()> {
        let index = self.find(wanted)?;
        let column = &self.def.columns[index];
        // The same rules as for a column that is declared with it.
        let declared = ColumnDef {
            name: column.name.clone(),
            data_type: column.data_type.clone(),
            nullable: column.nullable,
            primary_key: false,
            default: default.cloned(),
            default_position: at,
            position: wanted.position,
        };
        let Column { default, generated, .. } = schema::build_column(ctx, &declared)?;
        let column = &mut self.def.columns[index];
        (column.default, column.generated) = (default.clone(), generated);
        self.changes.push(TableChange::SetDefault { id: column.id, default, generated });
        Ok(())
    }

    fn set_not_null(&mut self, wanted: &Named, not_null: bool) -> Result<()> {
        let index = match not_null {
            true => self.find(wanted)?,
            false => self.find_value(wanted, "become nullable")?,
        };
        let column = &mut self.def.columns[index];
        if column.nullable == not_null {
            column.nullable = !not_null;
            self.changes.push(TableChange::SetNotNull { id: column.id, not_null });
        }
        Ok(())
    }

    /// Conditions must mean something, and the same, over the changed columns.
    fn check_conditions(&self, ctx: &StatementContext) -> Result<()> {
        if self.def.checks.is_empty() || self.retyped.is_empty() {
            return Ok(());
        }
        let schema = TableSchema::new(self.def.clone())?;
        for id in &self.retyped {
            let Some(at) = schema.position(*id) else { continue };
            let column = &schema.columns()[at];
            for condition in &self.def.checks {
                if column.data_type == kalamdb_engine::DataType::Text
                    && conditions::mentions(condition, &column.name)?
                {
                    let message = format!("column {} is in use by CHECK ({condition})", column.name);
                    return Err(Error::new(ErrorCode::InUse, message));
                }
            }
        }
        for condition in &self.def.checks {
            functions::check_expression(ctx, &parse_expression(condition)?, schema.rows())?;
        }
        Ok(())
    }

    fn refuse_if_in_use(&self, ctx: &StatementContext) -> Result<()> {
        for (id, at) in &self.vanished {
            let live = ctx.instance.live().subscriptions_using(self.table.id, &[*id]);
            if !live.is_empty() {
                let column = self.table.schema.position(*id).map(|at| &self.table.schema.columns()[at].name);
                let message = format!(
                    "column {} of table {} is in use by live queries {}",
                    column.map_or("", String::as_str),
                    self.name(),
                    live.join(", ")
                );
                return Err(Error::new(ErrorCode::InUse, message)
                    .with_hint("KILL LIVE QUERY ends one")
                    .with_position(*at));
            }
        }
        Ok(())
    }
}
