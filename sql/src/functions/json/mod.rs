//! JSON in queries: the operators `->`, `->>`, `#>`, `#>>`, `@>` and `<@`, subscripts, and the functions of which
//! they are short forms.
//!
//! A value is found in the text as it is stored ([`text`]), and given as that part of it: nothing is parsed into a tree, and
//! numbers keep their digits. What is not there is NULL, and so is a value of another kind than a function asks for; a
//! number that its type cannot hold is an error. A first operand that is TEXT is checked to be JSON.

mod contains;
mod function;
mod get;
mod operators;
mod text;

use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;

pub(crate) use operators::JsonOperators;

/// All functions over JSON.
pub(crate) fn udfs() -> impl Iterator<Item = Arc<ScalarUDF>> {
    function::all().chain([contains::function()])
}
