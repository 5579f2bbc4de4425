//! Settings with a unit: [`Span`] for lengths of time, [`Size`] for bytes. Both read and print the same text, so what
//! `--print-config` shows can be pasted into a configuration file.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A length of time: a whole number with `ms`, `s`, `m`, `h` or `d`; a bare number means seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A number of bytes: a whole number with `B`, `KiB`, `MiB` or `GiB` (or `K`, `M`, `G`); a bare number means bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Span {
    /// A number of seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl Size {
    /// A number of KiB.
    pub const fn kib(kib: u64) -> Self {
        Self(kib << 10)
    }

    /// A number of MiB.
    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// The bytes as a length in memory.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

const SPAN_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const SIZE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || {
            format!(
                "{text:?} is not a length of time: write for example \"500ms\", \"15s\", \"10m\" or \"1h\""
            )
        };
        let (number, unit) = split(text).ok_or_else(wanted)?;
        let unit = if unit.is_empty() { "s" } else { unit };
        let (_, scale) = SPAN_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wanted)?;
        number.checked_mul(*scale).map(|ms| Self(Duration::from_millis(ms))).ok_or_else(wanted)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || {
            format!("{text:?} is not a number of bytes: write for example \"64KiB\", \"16MiB\" or \"1GiB\"")
        };
        let (number, unit) = split(text).ok_or_else(wanted)?;
        let unit = if unit.is_empty() { "B" } else { unit };
        let same = |name: &str| {
            name.eq_ignore_ascii_case(unit) || (unit.len() == 1 && name[..1].eq_ignore_ascii_case(unit))
        };
        let (_, scale) = SIZE_UNITS.iter().find(|(name, _)| same(name)).ok_or_else(wanted)?;
        number.checked_mul(*scale).map(Self).ok_or_else(wanted)
    }
}

/// The number a text begins with and the unit after it.
fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim()))
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if ms == 0 {
            return f.write_str("0s");
        }
        let (unit, scale) =
            SPAN_UNITS.iter().find(|(_, scale)| ms.is_multiple_of(*scale)).unwrap_or(&("ms", 1));
        write!(f, "{}{unit}", ms / scale)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0;
        let divides = |scale: u64| bytes >= scale && bytes.is_multiple_of(scale);
        let (unit, scale) = SIZE_UNITS.iter().find(|(_, scale)| divides(*scale)).unwrap_or(&("B", 1));
        write!(f, "{}{unit}", bytes / scale)
    }
}

struct TextOrNumber<T>(std::marker::PhantomData<T>);

impl<T: FromStr<Err = String>> Visitor<'_> for TextOrNumber<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number with a unit")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

macro_rules! serde_as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(TextOrNumber(std::marker::PhantomData))
            }
        }
    };
}
serde_as_text!(Span);
serde_as_text!(Size);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_read_again() {
        for text in ["0s", "250ms", "1s", "90s", "15m", "1h", "7d"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        for text in ["0B", "100B", "64KiB", "16MiB", "3GiB", "1025B"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn bare_numbers_are_seconds_and_bytes() {
        assert_eq!("30".parse(), Ok(Span::seconds(30)));
        assert_eq!("4096".parse(), Ok(Size(4096)));
        assert_eq!("16m".parse(), Ok(Size::mib(16)));
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        for text in ["", "x", "-1s", "5 parsecs", "1.5h", "99999999999999999999s", "18446744073709551615d"] {
            assert!(text.parse::<Span>().unwrap_err().contains("for example"), "{text}");
            assert!(text.parse::<Size>().unwrap_err().contains("for example"), "{text}");
        }
    }
}
