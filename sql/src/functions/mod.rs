//! The functions that DataFusion does not have: ids, who is asking, JSON, and arithmetic that does not wrap around.
//!
//! Ids and identity are bound to a statement, because what they say depends on its session and database. `CURRENT_USER` and
//! `CURRENT_ROLE` are constants while a statement runs; the ids are new for every row.

mod bounded;
mod checked;
mod constants;
mod defaults;
mod instead;
mod json;
mod subqueries;
mod texts;
mod unary;

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringViewArray};
use arrow::datatypes::{DataType as ArrowType, Field, FieldRef};
use datafusion::common::{Result as DataFusionResult, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use kalamdb_engine::DataType;

use crate::auth::Identity;
use crate::instance::Instance;
use crate::statement::StatementContext;

pub(crate) use bounded::bound_functions;
pub(crate) use checked::{CheckedAvg, CheckedOperators, ExactSum};
pub(crate) use constants::FittingConstants;
pub(crate) use defaults::{
    check_default, check_expression, constant_default, evaluate_default, is_snowflake, rewritten,
};
pub(crate) use instead::instead_of;
pub(crate) use json::{JsonOperators, udfs as json_udfs};
pub(crate) use subqueries::RightSubqueries;
pub(crate) use texts::CheckedTexts;

/// What `version()` says.
const VERSION: &str = concat!("KalamDB ", env!("CARGO_PKG_VERSION"));

/// Which of our functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    SnowflakeId,
    UuidV7,
    RandomUuid,
    Ulid,
    CurrentUser,
    CurrentRole,
    Version,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::SnowflakeId,
        Self::UuidV7,
        Self::RandomUuid,
        Self::Ulid,
        Self::CurrentUser,
        Self::CurrentRole,
        Self::Version,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::SnowflakeId => "snowflake_id",
            Self::UuidV7 => "uuid_v7",
            Self::RandomUuid => "gen_random_uuid",
            Self::Ulid => "ulid",
            Self::CurrentUser => "current_user",
            Self::CurrentRole => "current_role",
            Self::Version => "version",
        }
    }

    fn named(name: &str) -> Option<Self> {
        let name = match name.to_ascii_lowercase().as_str() {
            "session_user" => "current_user",
            "uuid" | "uuid_generate_v4" => "gen_random_uuid",
            _ => name,
        };
        Self::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name))
    }

    fn data_type(self) -> DataType {
        match self {
            Self::SnowflakeId => DataType::BigInt,
            Self::UuidV7 | Self::RandomUuid => DataType::Uuid,
            Self::Ulid | Self::CurrentUser | Self::CurrentRole | Self::Version => DataType::Text,
        }
    }

    /// The values for `rows` rows.
    fn values(self, instance: &Instance, identity: &Identity, rows: usize) -> ArrayRef {
        match self {
            Self::SnowflakeId => Arc::new(Int64Array::from(instance.database().snowflakes(rows))),
            Self::UuidV7 => texts(rows, || uuid_v7(instance)),
            Self::RandomUuid => texts(rows, || random_uuid(instance)),
            Self::Version => texts(rows, || VERSION.to_owned()),
            Self::Ulid => texts(rows, || ulid(instance)),
            Self::CurrentUser => texts(rows, || identity.user.to_string()),
            Self::CurrentRole => texts(rows, || identity.role.to_string()),
        }
    }
}

fn texts(rows: usize, text: impl Fn() -> String) -> ArrayRef {
    Arc::new(StringViewArray::from_iter_values((0..rows).map(|_| text())))
}

fn uuid_v7(instance: &Instance) -> String {
    let mut random = [0; 10];
    instance.database().random_bytes(&mut random);
    uuid::Builder::from_unix_timestamp_millis(now_millis(instance), &random)
        .into_uuid()
        .hyphenated()
        .to_string()
}

fn random_uuid(instance: &Instance) -> String {
    let mut random = [0; 16];
    instance.database().random_bytes(&mut random);
    uuid::Builder::from_random_bytes(random).into_uuid().hyphenated().to_string()
}

fn ulid(instance: &Instance) -> String {
    let mut random = [0; 16];
    instance.database().random_bytes(&mut random);
    ulid::Ulid::from_parts(now_millis(instance), u128::from_le_bytes(random)).to_string()
}

fn now_millis(instance: &Instance) -> u64 {
    u64::try_from(instance.clock().now_micros() / 1_000).unwrap_or(0)
}

/// One of our functions by its name in any case, bound to a statement.
pub(crate) fn lookup(ctx: &StatementContext, name: &str) -> Option<Arc<ScalarUDF>> {
    Kind::named(name).map(|kind| bind(ctx, kind))
}

/// All of our functions, bound to a statement.
pub(crate) fn udfs(ctx: &StatementContext) -> Vec<Arc<ScalarUDF>> {
    Kind::ALL.into_iter().map(|kind| bind(ctx, kind)).collect()
}

fn bind(ctx: &StatementContext, kind: Kind) -> Arc<ScalarUDF> {
    let volatility = match kind {
        Kind::CurrentUser | Kind::CurrentRole | Kind::Version => Volatility::Stable,
        Kind::SnowflakeId | Kind::UuidV7 | Kind::RandomUuid | Kind::Ulid => Volatility::Volatile,
    };
    let signature = Signature::nullary(volatility);
    let (instance, identity) = (ctx.instance.clone(), ctx.identity.clone());
    Arc::new(ScalarUDF::from(Bound { kind, instance, identity, signature }))
}

/// A function bound to a session.
struct Bound {
    kind: Kind,
    instance: Arc<Instance>,
    identity: Identity,
    signature: Signature,
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind.name())
    }
}

impl PartialEq for Bound {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && self.identity == other.identity
    }
}

impl Eq for Bound {}

impl Hash for Bound {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.kind.hash(state);
        self.identity.user.hash(state);
    }
}

impl ScalarUDFImpl for Bound {
    fn name(&self) -> &str {
        self.kind.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[ArrowType]) -> DataFusionResult<ArrowType> {
        Ok(self.kind.data_type().arrow())
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs<'_>) -> DataFusionResult<FieldRef> {
        let field: Field = self.kind.data_type().field(self.name(), false);
        Ok(Arc::new(field))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let constant = |text: String| ColumnarValue::Scalar(ScalarValue::Utf8View(Some(text)));
        Ok(match self.kind {
            Kind::CurrentUser => constant(self.identity.user.to_string()),
            Kind::CurrentRole => constant(self.identity.role.to_string()),
            Kind::Version => constant(VERSION.to_owned()),
            kind => ColumnarValue::Array(kind.values(&self.instance, &self.identity, args.number_rows)),
        })
    }
}
