//! The error envelope, and the mapping from the server's errors to status, code and message.
//!
//! Policy: for a client's mistake, the message says what is wrong and what is accepted. For a failure of the server, the client
//! gets only INTERNAL_ERROR and the request id; the cause is in the log under that id.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::request_id;
use crate::conversation::runs::StartError;
use crate::conversation::store::StoreError;
use crate::conversation::waiting::WaitError;
use crate::tenancy::{Problem, TenancyError};
use nagaya_workspace::state::StateError;
use nagaya_workspace::{AcquireError, ReleaseError};

/// When to try again, where nothing is known of when it may succeed.
const SOON: Duration = Duration::from_secs(5);

/// Machine-readable code of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    /// The request has no valid key.
    Unauthorized,
    /// The key may not do this.
    Forbidden,
    /// A path leads out of the workspace.
    PathTraversal,
    /// The resource does not exist, or the caller may not know that it does.
    NotFound,
    /// The route does not support the method.
    MethodNotAllowed,
    /// The resource's current state does not allow the operation.
    Conflict,
    /// A run uses the resource.
    ResourceLocked,
    /// The body exceeds the size limit.
    PayloadTooLarge,
    /// A field, parameter or header is invalid.
    ValidationError,
    /// The key's rate limit is used up.
    RateLimitExceeded,
    /// The server failed.
    InternalError,
    /// A dependency does not work at the moment.
    ServiceUnavailable,
    /// The server has no disk space for the request's files.
    InsufficientStorage,
}

impl Code {
    fn status(self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden | Self::PathTraversal => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict | Self::ResourceLocked => StatusCode::CONFLICT,
            Self::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ValidationError => StatusCode::UNPROCESSABLE_ENTITY,
            Self::RateLimitExceeded => StatusCode::TOO_MANY_REQUESTS,
            Self::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
            Self::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::InsufficientStorage => StatusCode::INSUFFICIENT_STORAGE,
        }
    }
}

/// One invalid field of a request.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Detail {
    /// Path of the field, or the name of the parameter or header.
    pub field: String,
    /// Why the value is invalid, or what is accepted.
    pub message: String,
}

/// An error response.
#[derive(Debug)]
pub struct ApiError {
    code: Code,
    message: String,
    details: Vec<Detail>,
    retry_after: Option<Duration>,
}

/// The body of every error response.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorEnvelope {
    error: ErrorBody,
}

/// An error with everything needed to report it.
#[derive(Debug, Serialize, ToSchema)]
struct ErrorBody {
    code: Code,
    /// What went wrong and, where possible, what to do; its text may change.
    message: String,
    /// The invalid fields of the request; empty for other errors.
    details: Vec<Detail>,
    /// Id of the request, as in `X-Request-ID` and in the server's log.
    request_id: String,
    /// When the response was made.
    #[schema(value_type = String, format = DateTime)]
    timestamp: jiff::Timestamp,
}

impl ApiError {
    /// An error with a code and a human-readable message. `RESOURCE_LOCKED` and `SERVICE_UNAVAILABLE` have a Retry-After of 5 seconds.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let passes = matches!(code, Code::ResourceLocked | Code::ServiceUnavailable);
        Self { code, message: message.into(), details: Vec::new(), retry_after: passes.then_some(SOON) }
    }

    /// The machine-readable code.
    #[cfg(test)]
    pub(super) fn code(&self) -> Code {
        self.code
    }

    /// The invalid fields.
    #[cfg(test)]
    pub(super) fn details(&self) -> &[Detail] {
        &self.details
    }

    /// The human-readable message.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// 422 for one invalid field.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        let (field, message) = (field.into(), message.into());
        Self {
            details: vec![Detail { field: field.clone(), message: message.clone() }],
            ..Self::new(Code::ValidationError, format!("{field}: {message}"))
        }
    }

    /// 422 for several invalid fields.
    pub fn invalid_fields(details: Vec<Detail>) -> Self {
        let all: Vec<String> = details.iter().map(|of| format!("{}: {}", of.field, of.message)).collect();
        Self { details, ..Self::new(Code::ValidationError, all.join("; ")) }
    }

    /// 404 for a resource that does not exist or that the caller must not know of.
    pub fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, format!("no such {what}"))
    }

    /// 500 for a failure of the server. The cause is logged and not sent to the client.
    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, request_id = request_id::current(), "request failed");
        Self::new(Code::InternalError, "the server failed; its log has the cause under this request id")
    }

    /// 503 with a Retry-After of 5 seconds.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Code::ServiceUnavailable, message)
    }

    /// Sets the Retry-After header, in whole seconds.
    #[must_use]
    pub fn retry_after(self, time: Duration) -> Self {
        Self { retry_after: Some(time), ..self }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorEnvelope {
            error: ErrorBody {
                code: self.code,
                message: self.message,
                details: self.details,
                request_id: request_id::current(),
                timestamp: jiff::Timestamp::now(),
            },
        };
        let mut response = (self.code.status(), Json(body)).into_response();
        response.extensions_mut().insert(self.code);
        if let Some(after) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs()));
        }
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound(what) => Self::not_found(what),
            StoreError::Conflict(why) => Self::new(Code::Conflict, why),
            unavailable if unavailable.is_unavailable() => {
                tracing::warn!(error = %unavailable, request_id = request_id::current(), "the database is unavailable");
                Self::unavailable("the database is unavailable; try again")
            }
            other => Self::internal(&other),
        }
    }
}

impl From<TenancyError> for ApiError {
    fn from(error: TenancyError) -> Self {
        match error {
            TenancyError::Problems(problems) => Self::invalid_fields(
                problems.into_iter().map(|Problem { place, why }| Detail { field: place, message: why }).collect(),
            ),
            TenancyError::Policy(error) => Self::invalid(error.place, error.message),
            TenancyError::Store(error) => error.into(),
            missing @ TenancyError::NoKey => Self::new(Code::Conflict, missing.to_string()),
            other @ (TenancyError::Seal(_) | TenancyError::Unreadable(_)) => Self::internal(&other),
        }
    }
}

impl From<StartError> for ApiError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Locked => Self::new(Code::ResourceLocked, error.to_string()),
            StartError::Wait(WaitError::Full | WaitError::TooLarge) => {
                Self::new(Code::Conflict, error.to_string()).retry_after(SOON)
            }
            StartError::Wait(WaitError::Disk(_))
            | StartError::Unsettled
            | StartError::Journal(_)
            | StartError::Stopping => Self::unavailable(error.to_string()),
        }
    }
}

impl From<ReleaseError> for ApiError {
    fn from(error: ReleaseError) -> Self {
        match error {
            ReleaseError::Engine(cause) => {
                Self::unavailable(format!("the workspace could not be released yet: {cause}"))
            }
            ReleaseError::State(cause) => cause.into(),
            busy @ ReleaseError::BusyElsewhere => Self::new(Code::ResourceLocked, busy.to_string()),
            later @ (ReleaseError::Timeout(_) | ReleaseError::Peer(_)) => Self::unavailable(later.to_string()),
            other => Self::internal(&other),
        }
    }
}

impl From<AcquireError> for ApiError {
    fn from(error: AcquireError) -> Self {
        match error {
            AcquireError::Busy => StartError::Locked.into(),
            other => Self::unavailable(format!("no workspace can be provided: {other}")),
        }
    }
}

impl From<StateError> for ApiError {
    fn from(error: StateError) -> Self {
        match error {
            StateError::File(cause) => Self::internal(&cause),
            other => Self::unavailable(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use nagaya_workspace::PeerUnavailable;
    use nagaya_workspace::engine::EngineError;

    use super::*;

    /// Status, code and Retry-After of an answer.
    fn answer(error: ApiError) -> (u16, Code, Option<String>) {
        let code = error.code();
        let response = error.into_response();
        let after = response.headers().get(header::RETRY_AFTER).map(|after| after.to_str().expect("text").to_owned());
        (response.status().as_u16(), code, after)
    }

    #[test]
    fn each_code_has_its_status_and_says_whether_to_come_again() {
        for (code, status, again) in [
            (Code::Unauthorized, 401, false),
            (Code::Forbidden, 403, false),
            (Code::PathTraversal, 403, false),
            (Code::NotFound, 404, false),
            (Code::MethodNotAllowed, 405, false),
            (Code::Conflict, 409, false),
            (Code::ResourceLocked, 409, true),
            (Code::PayloadTooLarge, 413, false),
            (Code::ValidationError, 422, false),
            (Code::RateLimitExceeded, 429, false),
            (Code::InternalError, 500, false),
            (Code::ServiceUnavailable, 503, true),
            (Code::InsufficientStorage, 507, false),
        ] {
            let after = again.then(|| "5".to_owned());
            assert_eq!(answer(ApiError::new(code, "why")), (status, code, after), "{code:?}");
        }
        let later = ApiError::unavailable("why").retry_after(Duration::from_secs(9));
        assert_eq!(answer(later).2.as_deref(), Some("9"));
    }

    #[test]
    fn each_cause_has_its_code() {
        let io = || io::Error::other("disk");
        let state = || StateError::Contended("w".into());
        let away = || StoreError::Slow(SOON);
        for (error, code) in [
            (StoreError::NotFound("model").into(), Code::NotFound),
            (StoreError::Conflict("why".into()).into(), Code::Conflict),
            (away().into(), Code::ServiceUnavailable),
            (StoreError::Journal("why".into()).into(), Code::InternalError),
            (TenancyError::Problems(Vec::new()).into(), Code::ValidationError),
            (TenancyError::NoKey.into(), Code::Conflict),
            (TenancyError::Store(away()).into(), Code::ServiceUnavailable),
            (TenancyError::Store(StoreError::NotFound("vault")).into(), Code::NotFound),
            (StartError::Locked.into(), Code::ResourceLocked),
            (StartError::Unsettled.into(), Code::ServiceUnavailable),
            (StartError::Journal(io()).into(), Code::ServiceUnavailable),
            (StartError::Stopping.into(), Code::ServiceUnavailable),
            (StartError::Wait(WaitError::Full).into(), Code::Conflict),
            (StartError::Wait(WaitError::TooLarge).into(), Code::Conflict),
            (StartError::Wait(WaitError::Disk(io())).into(), Code::ServiceUnavailable),
            (ReleaseError::Engine(EngineError::RemovalInProgress).into(), Code::ServiceUnavailable),
            (ReleaseError::State(state()).into(), Code::ServiceUnavailable),
            (ReleaseError::BusyElsewhere.into(), Code::ResourceLocked),
            (ReleaseError::Timeout(SOON).into(), Code::ServiceUnavailable),
            (ReleaseError::Peer(PeerUnavailable("why".into())).into(), Code::ServiceUnavailable),
            (ReleaseError::Interrupted.into(), Code::InternalError),
            (AcquireError::Busy.into(), Code::ResourceLocked),
            (AcquireError::State(state()).into(), Code::ServiceUnavailable),
            (state().into(), Code::ServiceUnavailable),
        ] {
            let error: ApiError = error;
            assert_eq!(error.code(), code, "{}", error.message());
        }
        let waits = ApiError::from(StartError::Wait(WaitError::Full));
        assert_eq!(answer(waits), (409, Code::Conflict, Some("5".into())), "there is room once a run has ended");
    }
}
