//! The S3 bucket: its client, and the classification of its errors.

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

/// Retries of a request that fails for a temporary reason.
const RETRIES: usize = 2;
/// First and longest pause between retries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// No retry begins later than this after the first attempt.
const RETRY_WITHIN: Duration = Duration::from_secs(10);
/// Maximum length in characters of an error's text.
const MAX_ERROR_TEXT: usize = 300;

/// Settings of the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketSettings {
    /// Name of the bucket (`S3_BUCKET_NAME`).
    pub name: String,
    /// Prefix of all objects' names; ends with '/' (`S3_PREFIX`).
    pub prefix: String,
    /// Endpoint (`S3_ENDPOINT_URL`); `None` for Amazon's endpoint of the region.
    pub endpoint: Option<String>,
    /// Time limit for one sync of a conversation's files, and so for how long a run waits for it (`S3_SYNC_TIMEOUT`).
    pub sync_timeout: Duration,
}

/// Why the client of the bucket could not be created.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The host's certificate authorities cannot be read.
    #[error("the host's certificate authorities cannot be read: {0}")]
    Authorities(#[from] std::io::Error),
    /// The settings are not valid for the client.
    #[error("the S3 client: {0}")]
    Client(#[from] object_store::Error),
}

/// The bucket that stores conversations' files.
#[derive(Debug, Clone)]
pub struct Bucket {
    pub(super) store: Arc<AmazonS3>,
    settings: Arc<BucketSettings>,
}

impl Bucket {
    /// Creates the client. No request is sent yet.
    ///
    /// # Errors
    /// The client cannot be created.
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

    /// Name of the bucket.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// Time limit for one sync.
    #[must_use]
    pub fn sync_timeout(&self) -> Duration {
        self.settings.sync_timeout
    }

    /// The deadline of a sync that begins now.
    #[must_use]
    pub fn sync_deadline(&self) -> Instant {
        Instant::now() + self.settings.sync_timeout
    }

    /// The part of the bucket that stores a conversation's files.
    #[must_use]
    pub fn conversation_store(&self, tenant: &str, conversation: &str) -> ConversationStore {
        let root = format!("{}{}/{}", self.settings.prefix, name::escape(tenant), name::escape(conversation));
        ConversationStore::new(self.clone(), root)
    }

    /// Checks that the bucket answers and may be listed.
    ///
    /// # Errors
    /// The bucket does not answer, does not exist or denies access.
    pub async fn ping(&self, until: Instant) -> Result<(), StorageError> {
        // No object has this prefix, so the list is empty and cheap.
        let unused = Path::parse(format!("{}.ping", self.settings.prefix)).map_err(object_store::Error::from);
        let mut listed = self.store.list(Some(&unused.map_err(map_error)?));
        match within(until, async { Ok(listed.next().await) }).await? {
            Some(Err(error)) => Err(map_error(error)),
            Some(Ok(_)) | None => Ok(()),
        }
    }
}

/// Runs an operation of the store with a deadline.
pub(super) async fn within<T>(
    until: Instant,
    work: impl Future<Output = object_store::Result<T>>,
) -> Result<T, StorageError> {
    let began = Instant::now();
    match tokio::time::timeout_at(until, work).await {
        Ok(done) => done.map_err(map_error),
        Err(_) => Err(StorageError::Timeout(until.duration_since(began))),
    }
}

/// Classifies a store's error by its causes and shortens the text of the innermost.
pub(super) fn map_error(error: object_store::Error) -> StorageError {
    let chain = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
    let (mut innermost, mut timed_out, mut refused) = (None, false, false);
    for cause in chain {
        timed_out |= cause.is::<tokio::time::error::Elapsed>();
        refused |= cause.is::<Refusal>();
        innermost = Some(cause);
    }
    let text = innermost.map_or_else(String::new, ToString::to_string);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MAX_ERROR_TEXT).collect();
    match error {
        _ if refused => StorageError::Refused(text),
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => StorageError::Refused(text),
        Error::NotFound { .. } => StorageError::NotFound(text),
        _ if timed_out => StorageError::Unreachable("no response in time".into()),
        _ if innermost.is_some_and(<dyn std::error::Error>::is::<std::io::Error>) => StorageError::Unreachable(text),
        _ => StorageError::Failed(text),
    }
}
