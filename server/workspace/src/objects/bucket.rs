//! The bucket: how it is reached, and what its faults mean.

use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::provider::SharedCredentialsProvider;
use futures::StreamExt;
use nagaya_egress::Chain;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{BackoffConfig, Error, ObjectStore, RetryConfig};
use tokio::time::Instant;

use super::StorageError;
use super::conversation_store::ConversationStore;
use super::link::{Keys, Link, Refusal};
use super::name;

/// A request that fails for a reason that may pass is sent again so often.
const RETRIES: usize = 2;
/// Pauses between: first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// No retry begins later than this after its first try.
const RETRY_WITHIN: Duration = Duration::from_secs(10);
/// Characters of a fault that are told.
const TOLD: usize = 300;

/// Which bucket, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketSettings {
    /// Its name.
    pub name: String,
    /// What all objects' names begin with; ends with '/'.
    pub prefix: String,
    /// Where it is reached; `None` is Amazon's endpoint of the region.
    pub endpoint: Option<String>,
    /// How long one conversation's sync may take; a run waits no longer for it.
    pub sync_timeout: Duration,
}

/// Why a bucket cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The host's certificate authorities cannot be read.
    #[error("the host's certificate authorities: {0}")]
    Authorities(#[from] std::io::Error),
    /// The client cannot be made.
    #[error("{0}")]
    Client(#[from] object_store::Error),
}

/// A bucket with rooms' files.
#[derive(Debug, Clone)]
pub struct Bucket {
    pub(super) store: Arc<AmazonS3>,
    settings: Arc<BucketSettings>,
}

impl Bucket {
    /// Nothing is asked before the first need.
    ///
    /// # Errors
    /// The client cannot be made.
    pub fn open(
        settings: BucketSettings,
        region: &str,
        credentials: Option<SharedCredentialsProvider>,
    ) -> Result<Self, SetupError> {
        let retry = RetryConfig {
            backoff: BackoffConfig { init_backoff: PAUSE.0, max_backoff: PAUSE.1, base: 2.0 },
            max_retries: RETRIES,
            retry_timeout: RETRY_WITHIN,
        };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&settings.name)
            .with_region(region)
            .with_credentials(Arc::new(Keys(Chain::new(credentials))))
            .with_http_connector(Link::new()?)
            .with_retry(retry);
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
        }
        Ok(Self { store: Arc::new(builder.build()?), settings: Arc::new(settings) })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// How long one sync may take.
    #[must_use]
    pub fn sync_timeout(&self) -> Duration {
        self.settings.sync_timeout
    }

    /// When a sync that begins now has to be over.
    #[must_use]
    pub fn sync_deadline(&self) -> Instant {
        Instant::now() + self.settings.sync_timeout
    }

    /// Where a conversation's files are.
    #[must_use]
    pub fn conversation_store(&self, tenant: &str, conversation: &str) -> ConversationStore {
        let root = format!("{}{}/{}", self.settings.prefix, name::escape(tenant), name::escape(conversation));
        ConversationStore::new(self.clone(), root)
    }

    /// Whether it answers, and lists what it has.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self, until: Instant) -> Result<(), StorageError> {
        // Nothing is called so: the list is empty, whatever the bucket holds.
        let nowhere = Path::parse(format!("{}.ping", self.settings.prefix)).map_err(object_store::Error::from);
        let mut listed = self.store.list(Some(&nowhere.map_err(told)?));
        match within(until, async { Ok(listed.next().await) }).await? {
            Some(Err(error)) => Err(told(error)),
            Some(Ok(_)) | None => Ok(()),
        }
    }
}

/// Work of the store's, no longer than `until`.
pub(super) async fn within<T>(
    until: Instant,
    work: impl Future<Output = object_store::Result<T>>,
) -> Result<T, StorageError> {
    let began = Instant::now();
    match tokio::time::timeout_at(until, work).await {
        Ok(done) => done.map_err(told),
        Err(_) => Err(StorageError::Timeout(until.duration_since(began))),
    }
}

/// A store's fault as ours, cut to what a person reads.
pub(super) fn told(error: object_store::Error) -> StorageError {
    let chain = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
    let (mut innermost, mut slow, mut refused) = (None, false, false);
    for cause in chain {
        slow |= cause.is::<tokio::time::error::Elapsed>();
        refused |= cause.is::<Refusal>();
        innermost = Some(cause);
    }
    let text = innermost.map_or_else(String::new, ToString::to_string);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(TOLD).collect();
    match error {
        _ if refused => StorageError::Refused(text),
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => StorageError::Refused(text),
        Error::NotFound { .. } => StorageError::NotFound(text),
        _ if slow => StorageError::Unreachable("it does not answer".into()),
        _ if innermost.is_some_and(<dyn std::error::Error>::is::<std::io::Error>) => StorageError::Unreachable(text),
        _ => StorageError::Failed(text),
    }
}
