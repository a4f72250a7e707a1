//! Extractors whose rejections are our envelope, with the field that is wrong.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use futures::StreamExt;
use serde::de::DeserializeOwned;

use super::error::{ApiError, Code};

/// Largest JSON body, in bytes.
pub const LARGEST_BODY: usize = 1024 * 1024;
/// How much of a larger one is read before it is refused.
const MOST_READ: usize = 64 * LARGEST_BODY;
/// How long a body may take to arrive.
const LONGEST_READ: Duration = Duration::from_secs(60);

/// A JSON body.
#[derive(Debug)]
pub struct ApiJson<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for ApiJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if kind != "application/json" {
            return Err(ApiError::invalid("Content-Type", "application/json is accepted"));
        }
        let body = whole(request.into_body()).await?;
        parse_json(&body).map(Self)
    }
}

/// Reads a body. Of one that is too large some more is read than is kept: a client that is still sending when its connection is closed
/// sees that, and not why.
async fn whole(body: Body) -> Result<Vec<u8>, ApiError> {
    let (mut body, mut kept, mut length) = (body.into_data_stream(), Vec::new(), 0_usize);
    let read = async {
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| ApiError::invalid("body", error.to_string()))?;
            length += piece.len();
            if length <= LARGEST_BODY {
                kept.extend_from_slice(&piece);
            } else {
                kept = Vec::new();
            }
            if length > MOST_READ {
                break;
            }
        }
        Ok::<_, ApiError>(())
    };
    let in_time = tokio::time::timeout(LONGEST_READ, read).await;
    if length > LARGEST_BODY {
        return Err(ApiError::new(Code::PayloadTooLarge, format!("the body has more than {LARGEST_BODY} bytes")));
    }
    in_time.map_err(|_| ApiError::invalid("body", "it did not arrive in time"))??;
    Ok(kept)
}

/// Reads a JSON object.
///
/// # Errors
/// It is none, or a field of it is wrong.
pub fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // The deserializer would also take an array, field by field.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::invalid("body", "a JSON object is accepted"));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        // Where the text itself breaks off or is no JSON, the place it does so in belongs to no field.
        let of_field = error.is_data() && path != ".";
        ApiError::invalid(if of_field { path } else { "body".to_owned() }, error.to_string())
    })?;
    json.end().map_err(|error| ApiError::invalid("body", error.to_string()))?;
    Ok(value)
}

/// Query parameters.
#[derive(Debug)]
pub struct ApiQuery<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for ApiQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(ApiError::invalid("query", rejection.body_text())),
        }
    }
}

/// Path parameters; one that cannot be read names nothing.
#[derive(Debug)]
pub struct ApiPath<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for ApiPath<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(_) => Err(ApiError::not_found("resource")),
        }
    }
}

/// Checks a text's length in characters.
///
/// # Errors
/// It is too short or too long.
pub fn check_length(field: &str, text: &str, range: std::ops::RangeInclusive<usize>) -> Result<(), ApiError> {
    if range.contains(&text.chars().count()) && !text.contains('\0') {
        return Ok(());
    }
    let (low, high) = (range.start(), range.end());
    Err(ApiError::invalid(field, format!("{low} to {high} characters, none of them NUL, are accepted")))
}

/// Checks an id that a client chooses.
///
/// # Errors
/// It is none.
pub fn check_id(field: &str, text: &str) -> Result<(), ApiError> {
    if super::auth::is_id(text) {
        return Ok(());
    }
    Err(ApiError::invalid(field, "1 to 64 letters, digits, '-', '_', '.' are accepted, the first a letter or digit"))
}
