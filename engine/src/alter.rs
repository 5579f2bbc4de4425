//! What `ALTER TABLE` does to a table's definition.
//!
//! Nothing stored is rewritten: a change makes one new schema version, and rows of older ones are read through
//! [`crate::project`]. That works because a column is known by its id, which is never given again; because types only get
//! wider; and because a key column keeps its type, so that keys of all versions compare.

use arrow::array::ArrayRef;

use crate::catalog::{Table, TableKind, TableOptions};
use crate::error::{Error, Result};
use crate::ids::{ColumnId, TableId, TableName};
use crate::project::widen;
use crate::row_checks::RowsNeeded;
use crate::schema::{Column, SchemaDef, TableSchema};
use crate::types::DataType;
use crate::widen::{is_widening, widenings};

/// Changes to one table, all or none of them.
#[derive(Debug, Clone)]
pub struct AlterTable {
    /// The table.
    pub id: TableId,
    /// The schema version that the changes were made for; if it is not the table's any more, nothing is changed.
    pub base_version: u32,
    /// The changes; each finds what those before it made.
    pub changes: Vec<TableChange>,
}

/// One change to a table.
#[derive(Debug, Clone)]
pub enum TableChange {
    /// A new column behind the others. Its id is the schema's `next_column_id`.
    AddColumn(NewColumn),
    /// Takes a column out; what it held can no longer be read.
    DropColumn(ColumnId),
    /// Gives a column another name.
    RenameColumn {
        /// Which.
        id: ColumnId,
        /// The new name.
        name: String,
    },
    /// Gives a column a wider type; see [`is_widening`].
    RetypeColumn {
        /// Which.
        id: ColumnId,
        /// The new type.
        data_type: DataType,
    },
    /// Changes the DEFAULT of rows inserted from now on.
    SetDefault {
        /// Which column.
        id: ColumnId,
        /// The expression as SQL text.
        default: Option<String>,
        /// See [`Column::generated`].
        generated: bool,
    },
    /// Makes a column NOT NULL, or takes that back. Rows are looked through for NULL while writes go on.
    SetNotNull {
        /// Which column.
        id: ColumnId,
        /// True for NOT NULL.
        not_null: bool,
    },
    /// Gives the table another name in its namespace.
    RenameTable(TableName),
    /// Replaces the table's options.
    SetOptions(TableOptions),
    /// Replaces the CHECK expressions.
    SetChecks(Vec<String>),
}

/// A column to be added.
#[derive(Debug, Clone)]
pub struct NewColumn {
    /// Its name.
    pub name: String,
    /// Its type.
    pub data_type: DataType,
    /// False for NOT NULL, which needs `initial` unless the table has no rows.
    pub nullable: bool,
    /// The DEFAULT expression as SQL text.
    pub default: Option<String>,
    /// See [`Column::generated`].
    pub generated: bool,
    /// What rows that are there already hold: an array of one value. `None` for NULL.
    pub initial: Option<ArrayRef>,
}

/// What a table becomes, and what must be true of its rows for that.
#[derive(Debug)]
pub(crate) struct Altered {
    pub(crate) table: Table,
    /// What is changed, in words; empty if nothing is.
    pub(crate) words: Vec<String>,
    /// True if there is a new schema version.
    pub(crate) new_version: bool,
    pub(crate) needed: RowsNeeded,
}

/// Works the changes into a table's definition.
///
/// # Errors
/// [`Error::InvalidSchema`] that names the column and says why not; [`Error::Conflict`] if the table is not at the
/// version that the changes were made for.
pub(crate) fn alter(table: &Table, wanted: AlterTable, now: i64) -> Result<Altered> {
    if table.schema.version() != wanted.base_version {
        return Err(Error::Conflict);
    }
    let mut work = Work {
        base: &table.schema,
        def: table.schema.def().clone(),
        name: table.name.clone(),
        options: table.options.clone(),
        words: Vec::new(),
        needed: RowsNeeded::default(),
    };
    wanted.changes.into_iter().try_for_each(|change| work.apply(change))?;
    let new_version = work.def != *table.schema.def();
    if new_version && table.kind == TableKind::Stream {
        let name = table.qualified_name();
        return Err(Error::InvalidSchema(format!("the columns of a STREAM table such as {name} are fixed")));
    }
    work.def.version += u32::from(new_version);
    let schema = if new_version { TableSchema::new(work.def)? } else { table.schema.clone() };
    let table = Table {
        id: table.id,
        namespace: table.namespace.clone(),
        name: work.name,
        kind: table.kind,
        schema,
        options: work.options,
        path: table.path.clone(),
        created_at: table.created_at,
        updated_at: now,
    };
    Ok(Altered { table, words: work.words, new_version, needed: work.needed })
}

struct Work<'a> {
    base: &'a TableSchema,
    def: SchemaDef,
    name: TableName,
    options: TableOptions,
    words: Vec<String>,
    needed: RowsNeeded,
}

impl Work<'_> {
    fn apply(&mut self, change: TableChange) -> Result<()> {
        match change {
            TableChange::AddColumn(column) => self.add(column),
            TableChange::DropColumn(id) => self.drop(id),
            TableChange::RenameColumn { id, name } => self.rename(id, name),
            TableChange::RetypeColumn { id, data_type } => self.retype(id, data_type),
            TableChange::SetDefault { id, default, generated } => self.set_default(id, default, generated),
            TableChange::SetNotNull { id, not_null } => self.set_not_null(id, not_null),
            TableChange::RenameTable(name) => {
                if name != self.name {
                    self.words.push(format!("renamed table {} to {name}", self.name));
                    self.name = name;
                }
                Ok(())
            }
            TableChange::SetOptions(options) => {
                if options != self.options {
                    self.words.push("changed options".into());
                    self.options = options;
                }
                Ok(())
            }
            TableChange::SetChecks(checks) => {
                if checks != self.def.checks {
                    self.words.push("changed checks".into());
                    self.def.checks = checks;
                }
                Ok(())
            }
        }
    }

    fn column(&mut self, id: ColumnId) -> Result<&mut Column> {
        let column = self.def.columns.iter_mut().find(|column| column.id == id);
        column.ok_or_else(|| Error::InvalidSchema(format!("the table has no column number {}", id.0)))
    }

    /// A column that is not part of the key.
    fn value_column(&mut self, id: ColumnId, change: &str) -> Result<&mut Column> {
        let is_key = self.def.primary_key.contains(&id);
        let column = self.column(id)?;
        match is_key {
            false => Ok(column),
            true => Err(Error::InvalidSchema(format!(
                "column {:?} is part of the primary key and cannot {change}",
                column.name
            ))),
        }
    }

    fn add(&mut self, new: NewColumn) -> Result<()> {
        let id = ColumnId(self.def.next_column_id);
        self.def.next_column_id += 1;
        let column = Column::new(id, new.name, new.data_type).with_initial(new.initial.as_ref())?;
        let (not_null, lacks_value) = (!new.nullable, column.initial.is_none());
        let words = if not_null { " NOT NULL" } else { "" };
        self.words.push(format!("added column {} {}{words}", column.name, column.data_type));
        if not_null && lacks_value {
            self.needed.none_for = Some(column.name.clone());
        }
        self.def.columns.push(Column {
            nullable: new.nullable,
            default: new.default,
            generated: new.generated,
            // Deleted rows and old versions lack the value.
            held_nulls: not_null && lacks_value,
            ..column
        });
        Ok(())
    }

    fn drop(&mut self, id: ColumnId) -> Result<()> {
        let name = self.value_column(id, "be dropped")?.name.clone();
        self.def.columns.retain(|column| column.id != id);
        self.needed.not_null.retain(|other| *other != id);
        self.words.push(format!("dropped column {name}"));
        Ok(())
    }

    fn rename(&mut self, id: ColumnId, name: String) -> Result<()> {
        let column = self.column(id)?;
        if column.name != name {
            let before = std::mem::replace(&mut column.name, name.clone());
            self.words.push(format!("renamed column {before} to {name}"));
        }
        Ok(())
    }

    fn retype(&mut self, id: ColumnId, data_type: DataType) -> Result<()> {
        if self.column(id)?.data_type == data_type {
            return Ok(());
        }
        let column = self.value_column(id, "change its type")?;
        let (name, before) = (column.name.clone(), column.data_type.clone());
        if !is_widening(&before, &data_type) {
            let others = widenings(&before);
            return Err(Error::InvalidSchema(format!(
                "column {name:?} cannot become {data_type}: {before} can be changed to {others} without losing values"
            )));
        }
        if let Some(text) = &column.initial {
            let value = crate::codec::columns::decode_value(text, &before.arrow())?;
            let value = widen(&value, &data_type)?;
            column.initial = Some(crate::codec::columns::encode_value(&value, &data_type.arrow())?);
        }
        column.former_types.push(std::mem::replace(&mut column.data_type, data_type.clone()));
        self.words.push(format!("changed column {name} from {before} to {data_type}"));
        Ok(())
    }

    fn set_default(&mut self, id: ColumnId, default: Option<String>, generated: bool) -> Result<()> {
        let column = self.column(id)?;
        if column.default != default || column.generated != generated {
            let words = match &default {
                Some(text) => format!("changed the default of column {} to {text}", column.name),
                None => format!("dropped the default of column {}", column.name),
            };
            (column.default, column.generated) = (default, generated);
            self.words.push(words);
        }
        Ok(())
    }

    fn set_not_null(&mut self, id: ColumnId, not_null: bool) -> Result<()> {
        if self.column(id)?.nullable != not_null {
            return Ok(());
        }
        let known = self.base.position(id).map(|at| self.base.columns()[at].nullable);
        let column = self.value_column(id, "become nullable")?;
        let name = column.name.clone();
        column.nullable = !not_null;
        if not_null {
            column.held_nulls = true;
            match known {
                Some(true) => self.needed.not_null.push(id),
                // It was NOT NULL before this statement, which has only come back to it.
                Some(false) => {}
                None if column.initial.is_none() => self.needed.none_for = Some(name.clone()),
                None => column.held_nulls = false,
            }
        } else {
            self.needed.not_null.retain(|other| *other != id);
        }
        let now = if not_null { "NOT NULL" } else { "nullable" };
        self.words.push(format!("made column {name} {now}"));
        Ok(())
    }
}
