//! Where in an object store something is.

/// A bucket and a prefix in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Location {
    /// The bucket.
    pub bucket: String,
    /// What the keys of all objects begin with; may be empty.
    pub prefix: String,
}

impl S3Location {
    /// Reads `s3://bucket/prefix`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        let rest = url.strip_prefix("s3://").ok_or("it does not begin with s3://")?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/');
        let named = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c);
        if bucket.len() < 3 || bucket.len() > 63 || !bucket.chars().all(named) {
            return Err("a bucket's name has 3 to 63 lower-case letters, digits, dots and dashes");
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._/".contains(c);
        let climbs = prefix.split('/').any(|part| part == "." || part == "..") || prefix.contains("//");
        if prefix.len() > 200 || !prefix.chars().all(plain) || climbs {
            return Err(
                "a prefix has at most 200 letters, digits, dots, dashes and slashes, and climbs nowhere",
            );
        }
        Ok(Self { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_bucket_and_a_prefix_and_nothing_that_climbs() {
        let parsed = |url: &str| S3Location::parse(url).map(|at| (at.bucket, at.prefix));
        assert_eq!(parsed("s3://data/a/b/"), Ok(("data".into(), "a/b".into())));
        assert_eq!(parsed("s3://data"), Ok(("data".into(), String::new())));
        for wrong in
            ["data", "s3://", "s3://a/b", "s3://data/../x", "s3://DATA/x", "s3://data/a b", "s3://data/a//b"]
        {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
