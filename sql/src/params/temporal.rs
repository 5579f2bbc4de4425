//! Dates and times, as RFC 3339 has them and as SQL writes them.

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Timelike, Utc};
use datafusion::scalar::ScalarValue;
use kalamdb_engine::{DataType, TIMEZONE};

use super::mismatch;
use crate::error::Result;

/// Text for a TIMESTAMP, DATE or TIME. A timestamp without offset is UTC; digits below a microsecond are refused.
pub(super) fn from_text(text: &str, target: &DataType) -> Result<ScalarValue> {
    let trimmed = text.trim();
    let value = match target {
        DataType::Timestamp => timestamp(trimmed).map(|time| {
            ScalarValue::TimestampMicrosecond(Some(time.timestamp_micros()), Some(TIMEZONE.into()))
        }),
        DataType::Date => date(trimmed).map(|days| ScalarValue::Date32(Some(days))),
        _ => time(trimmed).map(|micros| ScalarValue::Time64Microsecond(Some(micros))),
    };
    value.ok_or_else(|| mismatch(&format!("{:?}", text.chars().take(60).collect::<String>()), target))
}

fn timestamp(text: &str) -> Option<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(text)
        .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z"))
        .or_else(|_| DateTime::parse_from_str(text, "%+"))
        .map(|time| time.with_timezone(&Utc))
        .ok()
        .or_else(|| {
            let formats =
                ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"];
            let naive = formats.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
            let naive =
                naive.or_else(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0));
            naive.map(|naive| naive.and_utc())
        })?;
    time.nanosecond().is_multiple_of(1_000).then_some(time)
}

fn date(text: &str) -> Option<i32> {
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    i32::try_from(date.signed_duration_since(NaiveDate::default()).num_days()).ok()
}

fn time(text: &str) -> Option<i64> {
    let time = NaiveTime::parse_from_str(text, "%H:%M:%S%.f")
        .or_else(|_| NaiveTime::parse_from_str(text, "%H:%M"))
        .ok()?;
    let nanos = i64::from(time.nanosecond());
    // chrono tells a leap second by nanoseconds beyond a billion; a time of day has none.
    (nanos < 1_000_000_000 && nanos % 1_000 == 0)
        .then(|| i64::from(time.num_seconds_from_midnight()) * 1_000_000 + nanos / 1_000)
}
