//! Dates and times as text, without allocation.
//!
//! Years outside 0000 to 9999 are written with a sign and at least five digits, as RFC 3339's own extension has it.

use std::io::Write as _;

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// Appends `2024-02-29T12:00:00.000000Z`.
pub(crate) fn write_timestamp(micros: i64, out: &mut Vec<u8>) {
    let days = micros.div_euclid(SECONDS_PER_DAY * MICROS_PER_SECOND);
    write_date(days, out);
    out.push(b'T');
    write_time_of_day(micros.rem_euclid(SECONDS_PER_DAY * MICROS_PER_SECOND), out);
    out.push(b'Z');
}

/// Appends `2024-02-29` for days since the epoch.
pub(super) fn write_date(days: i64, out: &mut Vec<u8>) {
    let (year, month, day) = civil_from_days(days);
    if (0..=9999).contains(&year) {
        digits::<4>(year.unsigned_abs(), out);
    } else {
        out.push(if year < 0 { b'-' } else { b'+' });
        digits::<5>(year.unsigned_abs(), out);
    }
    out.push(b'-');
    digits::<2>(month, out);
    out.push(b'-');
    digits::<2>(day, out);
}

/// Appends `12:34:56.000000` for microseconds since midnight.
pub(super) fn write_time_of_day(micros: i64, out: &mut Vec<u8>) {
    let seconds = micros.div_euclid(MICROS_PER_SECOND).unsigned_abs();
    digits::<2>(seconds / 3_600, out);
    out.push(b':');
    digits::<2>(seconds / 60 % 60, out);
    out.push(b':');
    digits::<2>(seconds % 60, out);
    out.push(b'.');
    digits::<6>(micros.rem_euclid(MICROS_PER_SECOND).unsigned_abs(), out);
}

/// Days since 1970-01-01 as year, month and day of the proleptic Gregorian calendar (Howard Hinnant's algorithm).
fn civil_from_days(days: i64) -> (i64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month.unsigned_abs(), day.unsigned_abs())
}

/// Appends a number with at least `N` digits. By hand, and of a length that the compiler knows: a timestamp has six of these, and
/// the formatter of the language takes longer for one than the rest of a row does. It gets what has more digits.
fn digits<const N: usize>(value: u64, out: &mut Vec<u8>) {
    let (mut text, mut rest) = ([b'0'; N], value);
    for digit in text.iter_mut().rev() {
        *digit += (rest % 10) as u8;
        rest /= 10;
    }
    match rest {
        0 => out.extend_from_slice(&text),
        _ => write!(out, "{value}").expect("writing to a Vec cannot fail"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timestamp(micros: i64) -> String {
        let mut out = Vec::new();
        write_timestamp(micros, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn timestamps_are_rfc_3339_with_microseconds() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(timestamp(-1), "1969-12-31T23:59:59.999999Z");
        assert_eq!(timestamp(1_709_210_096_123_456), "2024-02-29T12:34:56.123456Z");
        assert_eq!(timestamp(253_402_300_799_999_999), "9999-12-31T23:59:59.999999Z");
        assert_eq!(timestamp(253_402_300_800_000_000), "+10000-01-01T00:00:00.000000Z");
        assert_eq!(timestamp(-62_198_755_200_000_000), "-00001-01-01T00:00:00.000000Z");
        assert_eq!(timestamp(i64::MAX), "+294247-01-10T04:00:54.775807Z");
    }

    #[test]
    fn no_digit_is_left_out() {
        for value in [0, 7, 99, 100, 123, 10_000, u64::MAX] {
            let mut out = Vec::new();
            digits::<2>(value, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("{value:02}"));
        }
    }

    #[test]
    fn every_day_of_five_centuries_agrees_with_chrono() {
        let epoch = chrono::NaiveDate::from_ymd_opt(1970, 1, 1).unwrap();
        for days in -90_000..90_000_i64 {
            let mut out = Vec::new();
            write_date(days, &mut out);
            let expected = (epoch + chrono::Duration::days(days)).format("%Y-%m-%d").to_string();
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
