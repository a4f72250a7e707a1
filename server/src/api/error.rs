//! The one mapping from what went wrong to what a client sees.
//!
//! Policy: a client learns what it did wrong and what to do; of a fault of ours it learns only that there was one, and
//! the request id under which the log has the rest.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::request_id;
use crate::conversation::runs::StartError;
use crate::conversation::store::StoreError;
use nagaya_workspace::state::StateError;
use nagaya_workspace::{AcquireError, ReleaseError};

/// What went wrong, for a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs, reason = "the names are CONTRACT §2's and say it")]
pub enum Code {
    Unauthorized,
    Forbidden,
    PathTraversal,
    NotFound,
    MethodNotAllowed,
    Conflict,
    ResourceLocked,
    PayloadTooLarge,
    ValidationError,
    RateLimitExceeded,
    InternalError,
    ServiceUnavailable,
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
        }
    }
}

/// One field that is wrong, and how.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Detail {
    /// Path of the field.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

/// An answer that is not a success.
#[derive(Debug)]
pub struct ApiError {
    code: Code,
    message: String,
    details: Vec<Detail>,
    retry_after: Option<Duration>,
}

/// The body of every answer that is not a success.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorEnvelope {
    error: ErrorBody,
}

#[derive(Debug, Serialize, ToSchema)]
struct ErrorBody {
    code: Code,
    message: String,
    details: Vec<Detail>,
    request_id: String,
    #[schema(value_type = String, format = DateTime)]
    timestamp: jiff::Timestamp,
}

impl ApiError {
    /// An error with a code and a message for a person.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Vec::new(), retry_after: None }
    }

    /// What went wrong, for a program.
    #[cfg(test)]
    pub(super) fn code(&self) -> Code {
        self.code
    }

    /// A field that is wrong.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        let (field, message) = (field.into(), message.into());
        Self {
            details: vec![Detail { field: field.clone(), message: message.clone() }],
            ..Self::new(Code::ValidationError, format!("{field}: {message}"))
        }
    }

    /// Something that is not there, or that the caller must not know of.
    pub fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, format!("no such {what}"))
    }

    /// A fault of ours: the log gets the cause, the client does not.
    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, request_id = request_id::current(), "request failed");
        Self::new(Code::InternalError, "the server failed; its log has the cause under this request id")
    }

    /// Something that may well work later.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Code::ServiceUnavailable, message).retry_after(Duration::from_secs(5))
    }

    /// It may go better after this time, in whole seconds.
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
            away if away.is_unavailable() => {
                tracing::warn!(error = %away, request_id = request_id::current(), "database");
                Self::unavailable("the database cannot be used at the moment; try again")
            }
            other => Self::internal(&other),
        }
    }
}

impl From<StartError> for ApiError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Locked => Self::new(Code::ResourceLocked, error.to_string()),
            StartError::Unsettled | StartError::Journal(_) | StartError::Stopping => {
                Self::unavailable(error.to_string())
            }
        }
    }
}

impl From<ReleaseError> for ApiError {
    fn from(error: ReleaseError) -> Self {
        match error {
            ReleaseError::Engine(cause) => Self::unavailable(format!("the room could not be released yet: {cause}")),
            ReleaseError::State(cause) => cause.into(),
            busy @ ReleaseError::Elsewhere => Self::new(Code::ResourceLocked, busy.to_string()),
            later @ (ReleaseError::Slow(_) | ReleaseError::Others(_)) => Self::unavailable(later.to_string()),
            other => Self::internal(&other),
        }
    }
}

impl From<AcquireError> for ApiError {
    fn from(error: AcquireError) -> Self {
        match error {
            AcquireError::Busy => StartError::Locked.into(),
            other => Self::unavailable(format!("no room can be opened: {other}")),
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
