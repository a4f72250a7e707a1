//! The run that a message begins is chosen before the message is accepted and is written down with its `Idempotency-Key`, so that the message
//! is not accepted twice where the first answer was lost.

use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::error::ApiError;
use super::forward::FromPeer;
use super::idempotency::Work;
use crate::conversation::runs::Runs;

/// In requests of one server to another: the run that the message begins, and those that earlier attempts may have begun.
const OWN: HeaderName = HeaderName::from_static("nagaya-run");
const EARLIER: HeaderName = HeaderName::from_static("nagaya-earlier-runs");
/// Attempts of one request of which the runs are remembered.
const MOST: usize = 20;

/// The runs of a message.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// Ids of the runs that earlier attempts of the same request may have begun, oldest first.
    pub(super) earlier: Vec<String>,
    /// The run's id, if another server has written it down.
    told: Option<String>,
    work: Option<Work>,
}

impl Attempts {
    fn of(work: Work) -> Self {
        let earlier = work.earlier_runs().map(ids).unwrap_or_default();
        Self { earlier, told: None, work: Some(work) }
    }

    fn told(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name)?.to_str().ok();
        let earlier = text(EARLIER).map(ids).unwrap_or_default();
        Self { earlier, told: text(OWN).map(ToOwned::to_owned), work: None }
    }

    /// The id of the run that the message is about to begin, which is written down beside those of earlier attempts; `None` if the request
    /// has no `Idempotency-Key`.
    ///
    /// # Errors
    /// The database failed, or another server has taken the request over.
    pub(super) async fn own(self) -> Result<Option<String>, ApiError> {
        let Some(work) = self.work else { return Ok(self.told) };
        let own = Runs::new_id();
        let mut all = self.earlier;
        all.push(own.clone());
        let last = all.len().saturating_sub(MOST);
        work.starts(&all[last..].join(" ")).await?;
        Ok(Some(own))
    }
}

fn ids(text: &str) -> Vec<String> {
    text.split(' ').filter(|id| !id.is_empty()).map(ToOwned::to_owned).collect()
}

impl<S: Sync> FromRequestParts<S> for Attempts {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        if parts.extensions.get::<FromPeer>().is_some() {
            return Ok(Self::told(&parts.headers));
        }
        Ok(parts.extensions.get::<Work>().cloned().map(Self::of).unwrap_or_default())
    }
}

/// Whether a request is a message.
pub(super) fn is_message(request: &Request) -> bool {
    request.uri().path().ends_with("/messages")
}

/// Tells the server to which a request is forwarded which runs are those of the message.
///
/// # Errors
/// The database failed, or another server has taken the request over.
pub(super) async fn tell(request: &mut Request) -> Result<(), ApiError> {
    // Nobody outside chooses them.
    request.headers_mut().remove(OWN);
    request.headers_mut().remove(EARLIER);
    let work = request.extensions().get::<Work>().cloned();
    let Some(work) = work.filter(|_| is_message(request)) else { return Ok(()) };
    let attempts = Attempts::of(work);
    let earlier = attempts.earlier.join(" ");
    let own = attempts.own().await?.unwrap_or_default();
    for (name, text) in [(OWN, own), (EARLIER, earlier)] {
        let text = HeaderValue::try_from(text).map_err(|error| ApiError::internal(&error))?;
        request.headers_mut().insert(name, text);
    }
    Ok(())
}
