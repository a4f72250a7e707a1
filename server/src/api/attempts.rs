//! The run that a message begins is chosen before the message is accepted and is written down with its `Idempotency-Key`, so that the message
//! is not accepted twice where the first answer was lost.

use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::error::ApiError;
use super::forward::FromPeer;
use super::idempotency::Work;
use crate::conversation::runs::Runs;

/// In requests of one server to another: the run that the message begins, and the one that an earlier attempt may have begun.
const OWN: HeaderName = HeaderName::from_static("nagaya-run");
const EARLIER: HeaderName = HeaderName::from_static("nagaya-earlier-run");

/// The runs of a message.
#[derive(Debug)]
pub(super) struct Attempts {
    /// Id of the run that the message begins.
    pub(super) own: String,
    /// Id of the run that an earlier attempt of the same request may have begun.
    pub(super) earlier: Option<String>,
}

impl Attempts {
    async fn new(work: Option<&Work>) -> Result<Self, ApiError> {
        let own = Runs::new_id();
        let Some(work) = work else { return Ok(Self { own, earlier: None }) };
        work.starts(&own).await?;
        Ok(Self { own, earlier: work.earlier_run() })
    }

    fn told(headers: &HeaderMap) -> Self {
        let id = |name| headers.get(name)?.to_str().ok().map(ToOwned::to_owned);
        Self { own: id(OWN).unwrap_or_else(Runs::new_id), earlier: id(EARLIER) }
    }
}

impl<S: Sync> FromRequestParts<S> for Attempts {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        match parts.extensions.get::<FromPeer>() {
            Some(_) => Ok(Self::told(&parts.headers)),
            None => Self::new(parts.extensions.get::<Work>()).await,
        }
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
    let Attempts { own, earlier } = Attempts::new(Some(&work)).await?;
    for (name, id) in [(OWN, Some(own)), (EARLIER, earlier)] {
        if let Some(id) = id {
            request.headers_mut().insert(name, HeaderValue::try_from(id).map_err(|error| ApiError::internal(&error))?);
        }
    }
    Ok(())
}
