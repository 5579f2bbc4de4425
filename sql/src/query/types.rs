//! Types named in casts, the same as in column definitions.

use std::sync::Arc;

use arrow::datatypes::FieldRef;
use datafusion::common::Result;
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::sql::sqlparser::ast::DataType as SqlType;

/// Understands the types that tables have; others are left to DataFusion.
#[derive(Debug)]
pub(super) struct EngineTypes;

impl TypePlanner for EngineTypes {
    fn plan_type_field(&self, sql_type: &SqlType) -> Result<Option<FieldRef>> {
        Ok(crate::types::from_sql(sql_type).ok().map(|data_type| Arc::new(data_type.field("", true))))
    }
}
