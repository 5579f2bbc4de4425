//! Object stores that storage locations name, with credentials from the environment or the configuration.
//!
//! A location's `credentials_ref` of `env:ARCHIVE` stands for the variables `ARCHIVE_ENDPOINT`, `ARCHIVE_REGION`,
//! `ARCHIVE_ACCESS_KEY_ID` and `ARCHIVE_SECRET_ACCESS_KEY`, as far as they are set. They are read when the store is first
//! used and are kept nowhere else. `config:archive` stands for the settings `credentials.archive`.

use std::collections::BTreeMap;
use std::env::VarError;
use std::io;
use std::path::Path;
use std::sync::Arc;

use kalamdb_sql::engine::store::{Credentials, S3Location, Stores};
use kalamdb_sql::engine::{Disk, RealDisk};

use crate::config::StoreCredentials;

/// The stores that the environment or these settings have credentials for.
pub(crate) fn configured(settings: &BTreeMap<String, StoreCredentials>) -> Arc<dyn Stores> {
    Arc::new(ConfiguredStores { settings: settings.clone() })
}

#[derive(Debug)]
struct ConfiguredStores {
    settings: BTreeMap<String, StoreCredentials>,
}

impl Stores for ConfiguredStores {
    fn open(&self, name: &str, mounted: &Path, spool: &Path) -> io::Result<Arc<dyn Disk>> {
        let refused =
            |reason: String| io::Error::new(io::ErrorKind::InvalidInput, format!("{name}: {reason}"));
        let (reference, url) = name.split_once(' ').ok_or_else(|| refused("it names no location".into()))?;
        let location = S3Location::parse(url).map_err(|reason| refused(reason.into()))?;
        let credentials = match reference.split_once(':') {
            Some(("env", prefix)) => credentials(prefix, |name| std::env::var(name)).map_err(refused)?,
            Some(("config", name)) => match self.settings.get(name) {
                Some(found) => found.into(),
                None => return Err(refused(format!("the configuration has no credentials.{name}"))),
            },
            _ => Credentials::default(),
        };
        let local: Arc<dyn Disk> = Arc::new(RealDisk);
        location.open(&credentials, &local, mounted, spool)
    }
}

impl From<&StoreCredentials> for Credentials {
    fn from(settings: &StoreCredentials) -> Self {
        let set = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        Self {
            endpoint: set(&settings.endpoint),
            region: set(&settings.region),
            access_key_id: set(&settings.access_key_id),
            secret_access_key: set(&settings.secret_access_key),
        }
    }
}

fn credentials(
    prefix: &str,
    variable: impl Fn(&str) -> Result<String, VarError>,
) -> Result<Credentials, String> {
    let read = |what: &str| match variable(&format!("{prefix}_{what}")) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(format!("{prefix}_{what} is not text")),
    };
    let found = Credentials {
        endpoint: read("ENDPOINT")?,
        region: read("REGION")?,
        access_key_id: read("ACCESS_KEY_ID")?,
        secret_access_key: read("SECRET_ACCESS_KEY")?,
    };
    match (&found.access_key_id, &found.secret_access_key) {
        (Some(_), Some(_)) => Ok(found),
        _ => Err(format!("{prefix}_ACCESS_KEY_ID and {prefix}_SECRET_ACCESS_KEY are not both set")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_what_the_environment_says_and_half_a_key_is_refused() {
        let set = |name: &str| match name {
            "A_ACCESS_KEY_ID" | "B_ACCESS_KEY_ID" => Ok("id".to_owned()),
            "A_SECRET_ACCESS_KEY" => Ok("secret".to_owned()),
            "A_ENDPOINT" => Ok("http://store".to_owned()),
            _ => Err(VarError::NotPresent),
        };
        let found = credentials("A", set).unwrap();
        assert_eq!((found.endpoint.as_deref(), found.region), (Some("http://store"), None));
        let refused = credentials("B", set).unwrap_err();
        assert!(refused.contains("B_SECRET_ACCESS_KEY"), "{refused}");
    }

    #[test]
    fn what_the_configuration_does_not_have_is_refused_by_name() {
        let archive = StoreCredentials { region: "eu".into(), ..StoreCredentials::default() };
        let found = Credentials::from(&archive);
        assert_eq!((found.region.as_deref(), found.endpoint), (Some("eu"), None));
        let settings = BTreeMap::from([("archive".to_owned(), archive)]);
        let open = |reference: &str| {
            let here = Path::new("/nowhere");
            configured(&settings).open(&format!("{reference} s3://bucket/prefix"), here, here).map(drop)
        };
        let refused = open("config:other").unwrap_err().to_string();
        assert!(refused.contains("credentials.other"), "{refused}");
    }
}
