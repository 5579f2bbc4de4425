//! Which types a column's type can be changed to without losing a value.

use crate::types::DataType;

/// The digits of the longest whole number of a type, if that is what it holds.
fn digits(data_type: &DataType) -> Option<u8> {
    match data_type {
        DataType::SmallInt => Some(5),
        DataType::Int => Some(10),
        DataType::BigInt => Some(19),
        _ => None,
    }
}

/// True if every value of `from` is, exactly, a value of `to`.
pub fn is_widening(from: &DataType, to: &DataType) -> bool {
    use DataType::*;
    match (from, to) {
        (SmallInt, Int | BigInt | Float | Double) | (Int, BigInt | Double) | (Float, Double) => true,
        (SmallInt | Int | BigInt, Decimal { precision, scale }) => {
            digits(from).is_some_and(|digits| precision.saturating_sub(*scale) >= digits)
        }
        (Decimal { precision: p1, scale: s1 }, Decimal { precision: p2, scale: s2 }) => {
            from != to && s2 >= s1 && p2.saturating_sub(*s2) >= p1.saturating_sub(*s1)
        }
        (Date, Timestamp) => true,
        // What has a text form that says all of it.
        (Boolean | SmallInt | Int | BigInt | Float | Double | Decimal { .. }, Text) => true,
        (Json | Uuid | Timestamp | Date | Time, Text) => true,
        _ => false,
    }
}

/// The types that a type can be changed to, in words.
pub fn widenings(from: &DataType) -> String {
    match from {
        DataType::SmallInt => "INT, BIGINT, FLOAT, DOUBLE, DECIMAL with 5 digits before the point, TEXT",
        DataType::Int => "BIGINT, DOUBLE, DECIMAL with 10 digits before the point, TEXT",
        DataType::BigInt => "DECIMAL with 19 digits before the point, TEXT",
        DataType::Float => "DOUBLE, TEXT",
        DataType::Decimal { .. } => "DECIMAL with as many digits on both sides of the point, TEXT",
        DataType::Date => "TIMESTAMP, TEXT",
        DataType::Boolean
        | DataType::Double
        | DataType::Json
        | DataType::Uuid
        | DataType::Timestamp
        | DataType::Time => "TEXT",
        DataType::Text | DataType::Bytes | DataType::Array(_) => "no other type",
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_types_that_hold_every_value_are_wider() {
        use DataType::*;
        let decimal = |precision, scale| Decimal { precision, scale };
        for (from, to) in [
            (SmallInt, Int),
            (SmallInt, BigInt),
            (Int, BigInt),
            (Int, Double),
            (SmallInt, Float),
            (Float, Double),
            (BigInt, decimal(19, 0)),
            (Int, decimal(12, 2)),
            (decimal(5, 2), decimal(7, 4)),
            (decimal(5, 2), decimal(6, 2)),
            (Date, Timestamp),
            (Uuid, Text),
            (Json, Text),
            (Boolean, Text),
        ] {
            assert!(is_widening(&from, &to), "{from} to {to}");
            assert!(!is_widening(&to, &from), "{to} to {from}");
        }
        for (from, to) in [
            (BigInt, Double),
            (Int, Float),
            (BigInt, decimal(20, 2)),
            (decimal(5, 2), decimal(5, 3)),
            (decimal(5, 2), Double),
            (Text, Json),
            (Bytes, Text),
            (Array(Box::new(Int)), Text),
            (Timestamp, Date),
            (Int, Int),
        ] {
            assert!(!is_widening(&from, &to), "{from} to {to}");
        }
    }
}
