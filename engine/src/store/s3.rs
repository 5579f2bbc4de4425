//! Stores that speak S3, named `<credentials> s3://<bucket>/<prefix>`: everything that is needed to reach them but the
//! secret itself, which stays where the credentials are.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kalamdb_wal::Disk;
use object_store::aws::AmazonS3Builder;
use object_store::{BackoffConfig, ClientOptions, ObjectStoreExt, RetryConfig};

use super::location::S3Location;
use super::object::{ObjectDisk, Spool};

/// How long a request may take, and how long failed ones are tried again.
const REQUEST: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(10);
const RETRIES: usize = 4;

/// What a reference to credentials stands for.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Where the store is, if it is not Amazon's: `http://127.0.0.1:8333`.
    pub endpoint: Option<String>,
    /// Its region; `us-east-1` if it has none.
    pub region: Option<String>,
    /// The access key's id; without one, requests are not signed.
    pub access_key_id: Option<String>,
    /// The access key's secret.
    pub secret_access_key: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, region, .. } = self;
        f.debug_struct("Credentials")
            .field("endpoint", endpoint)
            .field("region", region)
            .finish_non_exhaustive()
    }
}

impl S3Location {
    /// Opens it with credentials, and makes sure that something can be written, read and removed there.
    ///
    /// # Errors
    /// What the store says.
    pub fn open(
        &self,
        credentials: &Credentials,
        local: &Arc<dyn Disk>,
        mounted: &Path,
        spool: &Path,
    ) -> io::Result<Arc<dyn Disk>> {
        let client = ClientOptions::new().with_timeout(REQUEST).with_allow_http(true);
        let retry =
            RetryConfig { backoff: BackoffConfig::default(), max_retries: RETRIES, retry_timeout: RETRY };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&self.bucket)
            .with_region(credentials.region.as_deref().unwrap_or("us-east-1"))
            .with_client_options(client)
            .with_retry(retry);
        if let Some(endpoint) = &credentials.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        builder = match (&credentials.access_key_id, &credentials.secret_access_key) {
            (Some(id), Some(secret)) => builder.with_access_key_id(id).with_secret_access_key(secret),
            _ => builder.with_skip_signature(true),
        };
        let store =
            builder.build().map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e.to_string()))?;
        let disk =
            ObjectDisk::new(Arc::new(store), &self.prefix, mounted, Spool::new(local.clone(), spool)?)?;
        disk.probe(&mounted.join("_probe"))?;
        Ok(Arc::new(disk))
    }
}

impl ObjectDisk {
    fn probe(&self, path: &Path) -> io::Result<()> {
        let (key, store) = self.place(path)?;
        self.run(async move {
            store.put(&key, "kalamdb".into()).await?;
            store.get(&key).await?.bytes().await?;
            store.delete(&key).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_ever_printed() {
        let credentials = Credentials { secret_access_key: Some("hush".into()), ..Credentials::default() };
        assert!(!format!("{credentials:?}").contains("hush"));
    }
}
