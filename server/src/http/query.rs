//! The query part of an address, as pairs in their order: feeds repeat names, and their order means something.

use axum::extract::Query;
use axum::http::Uri;

use super::error::{ApiError, ApiResult};

/// Decoded pairs in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pairs(pub(crate) Vec<(String, String)>);

impl Pairs {
    /// The pairs of an address; none if they cannot be decoded.
    pub(crate) fn of(uri: &Uri) -> Self {
        Self(Query::try_from_uri(uri).map_or_else(|_| Vec::new(), |Query(pairs)| pairs))
    }

    /// The last value of a name.
    pub(crate) fn last(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A value as a number.
    ///
    /// # Errors
    /// `INVALID_PARAMETER` naming it.
    pub(crate) fn number(&self, name: &str) -> ApiResult<Option<u64>> {
        self.last(name).map(|value| number(name, value)).transpose()
    }

    /// Refuses names other than these: a misspelt option must not go unnoticed.
    ///
    /// # Errors
    /// `INVALID_PARAMETER` naming the stranger and the valid ones.
    pub(crate) fn only(&self, valid: &[&str]) -> ApiResult<()> {
        match self.0.iter().find(|(key, _)| !valid.contains(&key.as_str())) {
            None => Ok(()),
            Some((key, _)) => Err(ApiError::invalid(format!("there is no parameter {key:?}"))
                .hint(format!("the parameters are {}", valid.join(", ")))),
        }
    }
}

/// Reads a number.
///
/// # Errors
/// `INVALID_PARAMETER` naming it.
pub(crate) fn number(name: &str, value: &str) -> ApiResult<u64> {
    value.parse().map_err(|_| ApiError::invalid(format!("{name} must be a whole number, not {value:?}")))
}

/// Reads a truth value.
///
/// # Errors
/// `INVALID_PARAMETER` naming it.
pub(crate) fn truth(name: &str, value: &str) -> ApiResult<bool> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(ApiError::invalid(format!("{name} must be true or false, not {value:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded_and_keep_their_order() {
        let pairs = Pairs::of(&"/x?a=1+2&b=%C3%A4&a=3&c".parse().unwrap());
        let expected = [("a", "1 2"), ("b", "ä"), ("a", "3"), ("c", "")];
        assert_eq!(pairs.0, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert_eq!(pairs.last("a"), Some("3"));
        assert_eq!(pairs.number("a").unwrap(), Some(3));
        assert!(pairs.number("b").is_err());
        assert!(pairs.only(&["a", "b"]).is_err());
        assert!(pairs.only(&["a", "b", "c"]).is_ok());
    }
}
