//! AWS credentials: fetched from the chain when they are needed, and again when they expire or a target says that they have.

use std::time::{Duration, Instant, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use parking_lot::Mutex;

use crate::answer::Refusal;

/// How long the chain may take. In some deployments it queries other hosts.
const PATIENCE: Duration = Duration::from_secs(10);
/// Credentials that expire sooner than this are not used, because the request must arrive before they do.
const BEFORE_EXPIRY: Duration = Duration::from_secs(60);
/// How long credentials without an expiry are cached. They are not fetched for each request, because some chains start a program.
const ENDLESS: Duration = Duration::from_secs(5);
/// What is known once a target has refused the credentials.
const REFUSED: &str = "AWS refuses the credentials: they are unknown or expired, or the secret is wrong";
/// How long a failure of the chain counts before [`Chain::is_unknown`] asks for another attempt.
const FAILURE_COUNTS: Duration = Duration::from_secs(30);
/// How long a failure of the chain is the answer to further requests, which a client can make as fast as it likes.
const BACK_OFF: Duration = Duration::from_secs(1);
/// Minimum interval between two rejections by targets that make the proxy fetch new credentials, because a client can provoke them.
const BETWEEN_DOUBTS: Duration = Duration::from_secs(10);

/// Why there are no AWS credentials.
#[derive(Debug, thiserror::Error)]
pub enum NoCredentials {
    /// No credential chain is configured.
    #[error("there is no AWS credential chain")]
    NoChain,
    /// The chain has none, or failed.
    #[error("no AWS credentials: {0}")]
    Refused(#[from] CredentialsError),
    /// The chain did not answer in time.
    #[error("no AWS credentials: the chain did not answer within {PATIENCE:?}")]
    Slow,
    /// The chain failed a moment ago, for this reason, and is not asked again yet.
    #[error("{0}")]
    Lately(String),
}

/// The standard AWS credential chain, with a cache: credentials are kept until a minute before they expire, and those without
/// an expiry for five seconds.
pub struct Chain {
    provider: Option<SharedCredentialsProvider>,
    /// Whether a client is told to ask the operator when there are none.
    operators: bool,
    known: Mutex<Known>,
    /// Held while a request fetches credentials, so that only one does.
    asking: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Known {
    /// The credentials, and when they were fetched.
    credentials: Option<(Credentials, Instant)>,
    /// When a target's rejection last counted.
    doubted: Option<Instant>,
    /// When the chain last answered or failed.
    asked: Option<Instant>,
    /// Why the chain had no credentials when it was last asked.
    problem: Option<String>,
    /// Whether a target refused the credentials of the last signature that it judged.
    refused: bool,
}

impl Known {
    fn fresh(&self) -> Option<Credentials> {
        let (credentials, since) = self.credentials.as_ref()?;
        let fresh = match credentials.expiry() {
            Some(expiry) => expiry > SystemTime::now() + BEFORE_EXPIRY,
            None => since.elapsed() < ENDLESS,
        };
        fresh.then(|| credentials.clone())
    }

    /// Why the chain failed, if that was so short a time ago that it is not asked again.
    fn failed_lately(&self, now: Instant) -> Option<String> {
        let lately = self.asked.is_some_and(|asked| now.saturating_duration_since(asked) < BACK_OFF);
        self.problem.clone().filter(|_| lately)
    }

    /// Drops the cached credentials if a target has rejected them and the last rejection is long enough ago; true if it did.
    fn doubt(&mut self, refused: &Credentials, now: Instant) -> bool {
        let another = self.credentials.as_ref().is_none_or(|(known, _)| known != refused);
        let too_soon = self.doubted.is_some_and(|last| now.saturating_duration_since(last) < BETWEEN_DOUBTS);
        if another || too_soon {
            return false;
        }
        (self.credentials, self.doubted) = (None, Some(now));
        true
    }
}

impl Chain {
    /// A chain that asks `provider` once credentials are needed.
    #[must_use]
    pub fn new(provider: Option<SharedCredentialsProvider>) -> Self {
        Self { provider, operators: true, known: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    /// A chain of a policy's credential, which is not the operator's.
    pub(crate) fn of_policy(provider: SharedCredentialsProvider) -> Self {
        Self { operators: false, ..Self::new(Some(provider)) }
    }

    fn known(&self) -> parking_lot::MutexGuard<'_, Known> {
        self.known.lock()
    }

    /// The current credentials.
    ///
    /// # Errors
    /// There is no chain, it has no credentials, or it does not answer within ten seconds. A failure is the answer for a second.
    pub async fn credentials(&self) -> Result<Credentials, NoCredentials> {
        if let Some(known) = self.lately() {
            return known;
        }
        let provider = self.provider.as_ref().ok_or(NoCredentials::NoChain)?;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let asking = tokio::time::timeout_at(deadline, self.asking.lock()).await;
        let _alone = asking.map_err(|_| NoCredentials::Slow)?;
        // Another request may have fetched them meanwhile, or failed to.
        if let Some(known) = self.lately() {
            return known;
        }
        let lookup = async {
            let credentials = provider.provide_credentials().await?;
            if credentials.expiry().is_some_and(|expiry| expiry <= SystemTime::now()) {
                return Err(CredentialsError::provider_error("they have expired"));
            }
            self.known().credentials = Some((credentials.clone(), Instant::now()));
            Ok::<_, CredentialsError>(credentials)
        };
        let found = tokio::time::timeout_at(deadline, lookup).await.map_err(|_| NoCredentials::Slow);
        let found = found.and_then(|found| found.map_err(NoCredentials::from));
        let mut known = self.known();
        known.asked = Some(Instant::now());
        known.problem = found.as_ref().err().map(ToString::to_string);
        found
    }

    /// What the chain answered, if that still holds.
    fn lately(&self) -> Option<Result<Credentials, NoCredentials>> {
        let known = self.known();
        let failed = || known.failed_lately(Instant::now()).map(|why| Err(NoCredentials::Lately(why)));
        known.fresh().map(Ok).or_else(failed)
    }

    /// Why nothing can be signed, as far as is known; nobody is asked.
    pub(crate) fn problem(&self) -> Option<String> {
        let known = self.known();
        match self.provider {
            None => Some(NoCredentials::NoChain.to_string()),
            Some(_) if known.refused => Some(REFUSED.into()),
            Some(_) => known.problem.clone(),
        }
    }

    /// Whether it is worth asking the chain, because it has not been asked, or failed some time ago.
    pub(crate) fn is_unknown(&self) -> bool {
        let known = self.known();
        let failed = known.problem.is_some();
        self.provider.is_some() && known.asked.is_none_or(|asked| failed && asked.elapsed() > FAILURE_COUNTS)
    }

    /// Notes whether a target has accepted a signature, or refused its credentials.
    pub(crate) fn judged(&self, accepted: bool) {
        self.known().refused = !accepted;
    }

    /// As [`Self::credentials`], for a client's request, which is refused if there are none; the reason is only logged.
    pub(crate) async fn for_request(&self) -> Result<Credentials, Refusal> {
        self.credentials().await.map_err(|error| {
            // Said once for each time that the chain is asked, not for each request.
            if !matches!(error, NoCredentials::NoChain | NoCredentials::Lately(_)) {
                tracing::error!(error = &error as &dyn std::error::Error, "a request is not signed");
            }
            if self.operators { Refusal::no_aws_credentials() } else { Refusal::no_token() }
        })
    }

    /// Reports that a target rejected these credentials as expired, whatever their stated expiry: the next request fetches new ones.
    pub(crate) fn doubt(&self, refused: &Credentials) {
        if self.known().doubt(refused, Instant::now()) {
            tracing::warn!("a target does not know the AWS credentials any more; they are asked for again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_is_honoured_at_intervals_and_for_its_credentials_only() {
        let (old, new) =
            (Credentials::new("old", "s", None, None, "test"), Credentials::new("new", "s", None, None, "test"));
        let now = Instant::now();
        let mut known = Known { credentials: Some((old.clone(), now)), ..Known::default() };
        assert!(!known.doubt(&new, now), "others are known by now");
        assert!(known.doubt(&old, now) && known.fresh().is_none());
        known.credentials = Some((new.clone(), now));
        assert!(!known.doubt(&new, now + BETWEEN_DOUBTS / 2) && known.fresh().is_some(), "too soon");
        assert!(known.doubt(&new, now + BETWEEN_DOUBTS));
    }

    /// Counts how often it is asked, and has no credentials.
    #[derive(Debug, Default)]
    struct Refusing(std::sync::atomic::AtomicUsize);

    impl ProvideCredentials for &'static Refusing {
        fn provide_credentials<'a>(&'a self) -> aws_credential_types::provider::future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            aws_credential_types::provider::future::ProvideCredentials::new(async {
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tokio::task::yield_now().await;
                Err(CredentialsError::not_loaded("the role is refused"))
            })
        }
    }

    #[tokio::test]
    async fn a_refusal_is_the_answer_to_all_who_ask_at_once_and_for_a_while() {
        let refusing: &'static Refusing = Box::leak(Box::default());
        let chain = Chain::of_policy(SharedCredentialsProvider::new(refusing));
        let asked = || refusing.0.load(std::sync::atomic::Ordering::Relaxed);
        let all = futures::future::join_all((0..20).map(|_| chain.credentials())).await;
        assert!(all.iter().all(Result::is_err));
        assert_eq!(asked(), 1);
        let known = |asked: Instant| Known { asked: Some(asked), problem: Some("p".into()), ..Known::default() };
        let now = Instant::now();
        assert!(known(now).failed_lately(now).is_some() && known(now).failed_lately(now + BACK_OFF).is_none());
        assert!(Known { asked: Some(now), ..Known::default() }.failed_lately(now).is_none(), "it did not fail");
    }

    #[test]
    fn credentials_about_to_expire_are_not_used() {
        let ending = |left: Duration| {
            let credentials = Credentials::new("id", "s", None, Some(SystemTime::now() + left), "test");
            Known { credentials: Some((credentials, Instant::now())), ..Known::default() }.fresh().is_some()
        };
        assert!(ending(BEFORE_EXPIRY * 2) && !ending(BEFORE_EXPIRY / 2));
    }
}
