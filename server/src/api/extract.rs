//! Extractors that reject a request with the error envelope and the name of the invalid field.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::{CONTENT_TYPE, EXPECT};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;

use super::error::{ApiError, Code};

/// Size limit of a JSON body, in bytes: 200,000 characters of user input fit, also if each is written as two `\u` escapes.
pub const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;
/// Number of bytes of an oversized body that are read and discarded before it is rejected.
const MAX_DISCARDED_BYTES: usize = 64 * 1024 * 1024;
/// How much of the rest of a refused request is read, in bytes, and for how long.
const MOST_READ_ON: usize = 256 * 1024 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for receiving a whole body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Extractor of a JSON object of type `T`.
#[derive(Debug)]
pub struct ApiJson<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for ApiJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if kind != "application/json" {
            return Err(ApiError::invalid("Content-Type", "must be application/json"));
        }
        let body = read_body(request.into_body()).await?;
        parse_json(&body).map(Self)
    }
}

/// Reads a whole body. An oversized one is read on and discarded up to [`MAX_DISCARDED_BYTES`]: a client that is still sending when
/// the server closes the connection gets a connection reset instead of the response (RFC 9112, section 9.6).
pub(super) async fn read_body(body: Body) -> Result<Vec<u8>, ApiError> {
    let (mut body, mut kept, mut length) = (body.into_data_stream(), Vec::new(), 0_usize);
    let read = async {
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| ApiError::invalid("body", error.to_string()))?;
            length += piece.len();
            if length <= MAX_BODY_BYTES {
                kept.extend_from_slice(&piece);
            } else {
                kept = Vec::new();
            }
            if length > MAX_DISCARDED_BYTES {
                break;
            }
        }
        Ok::<_, ApiError>(())
    };
    let result = tokio::time::timeout(BODY_TIMEOUT, read).await;
    if length > MAX_BODY_BYTES {
        return Err(ApiError::new(Code::PayloadTooLarge, format!("the body exceeds {MAX_BODY_BYTES} bytes")));
    }
    result.map_err(|_| ApiError::invalid("body", format!("must be received within {BODY_TIMEOUT:?}")))??;
    Ok(kept)
}

/// Reads on what is left of the body of a refused request, for the same reason as in [`read_body`].
pub(super) async fn read_on(request: Request, next: Next) -> Response {
    // A client that waits to be asked for the body (RFC 9110, section 10.1.1) sends none when it is refused.
    if request.body().is_end_stream() || request.headers().contains_key(EXPECT) {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    let lent = Arc::new(Mutex::new(body.into_data_stream()));
    let response = next.run(Request::from_parts(head, Body::from_stream(pieces(lent.clone())))).await;
    if response.status().is_client_error() || response.status().is_server_error() {
        let rest = async {
            let (mut rest, mut length) = (Box::pin(pieces(lent)), 0);
            while let Some(Ok(piece)) = rest.next().await {
                length += piece.len();
                if length > MOST_READ_ON {
                    break;
                }
            }
        };
        // A client that takes longer gets no response.
        drop(tokio::time::timeout(DISCARD_TIMEOUT, rest).await);
    }
    response
}

/// The pieces of a body, each for whoever asks first.
fn pieces(body: Arc<Mutex<BodyDataStream>>) -> impl Stream<Item = Result<Bytes, axum::Error>> + Send + 'static {
    futures::stream::poll_fn(move |context| body.lock().poll_next_unpin(context))
}

/// Parses a JSON object.
///
/// # Errors
/// [`Code::ValidationError`]: `body` is not a JSON object, or one of its fields is invalid; the error names the field.
pub fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // serde also deserializes a struct from an array, field by field.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::invalid("body", "must be a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        // A syntax error is an error of the whole body, although the parser was at some field when it met it.
        let of_field = error.is_data() && path != ".";
        ApiError::invalid(if of_field { path } else { "body".to_owned() }, error.to_string())
    })?;
    json.end().map_err(|error| ApiError::invalid("body", error.to_string()))?;
    Ok(value)
}

/// Extractor of query parameters.
#[derive(Debug)]
pub struct ApiQuery<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for ApiQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = parts.uri.query().unwrap_or_default().to_owned();
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(explain_query::<T>(&query, &rejection.body_text())),
        }
    }
}

/// Names the parameter that makes a query invalid. `why` is what the parser says of the whole query.
fn explain_query<T: DeserializeOwned>(query: &str, why: &str) -> ApiError {
    let pairs: Vec<_> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    for (at, (name, value)) in pairs.iter().enumerate() {
        if pairs[..at].iter().any(|(earlier, _)| earlier == name) {
            return ApiError::invalid(name, "must be given once");
        }
        // Each parameter on its own: other parameters that are required are missing then, which is no error of this one.
        let alone = url::form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish();
        let Ok(alone) = format!("/?{alone}").parse() else { continue };
        match Query::<T>::try_from_uri(&alone).map(drop).map_err(|error| error.body_text()) {
            Err(error) if error.contains("unknown field") => {
                return ApiError::invalid(name, "is not a parameter of this request");
            }
            Err(error) if !error.contains("missing field") => {
                return ApiError::invalid(name, format!("{value:?} is not accepted: {}", in_our_words(name, &error)));
            }
            _ => {}
        }
    }
    match why.split('`').nth(1).filter(|_| why.contains("missing field")) {
        Some(name) => ApiError::invalid(name, "is required"),
        None => ApiError::invalid("query", "cannot be parsed"),
    }
}

/// What a parser's message means to a client.
fn in_our_words(name: &str, error: &str) -> String {
    const NUMBER: &str = "must be a whole number that is not negative and not too large";
    match error {
        _ if name.ends_with("_date") => "must be a time with its offset, such as 2026-01-31T12:00:00Z".into(),
        _ if error.contains("digit") || error.contains("number too") || error.contains("empty string") => NUMBER.into(),
        _ if error.contains("provided string was not `true` or `false`") => "must be true or false".into(),
        _ if error.contains("unknown variant") => {
            let accepted: Vec<&str> = error.split('`').skip(3).step_by(2).collect();
            format!("must be one of: {}", accepted.join(", "))
        }
        _ => "must have the form that the API's description gives for it".into(),
    }
}

/// Extractor of path parameters. An invalid one answers 404, because no resource has such an id.
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

/// Checks a text's length, in characters, and that it has no NUL, which PostgreSQL does not store.
///
/// # Errors
/// [`Code::ValidationError`] with the accepted length.
pub fn check_length(field: &str, text: &str, range: std::ops::RangeInclusive<usize>) -> Result<(), ApiError> {
    if range.contains(&text.chars().count()) && !text.contains('\0') {
        return Ok(());
    }
    let (low, high) = (range.start(), range.end());
    Err(ApiError::invalid(field, format!("must have {low} to {high} characters, none of them NUL")))
}

/// Checks an id that the client chooses: that of a tenant or a model.
///
/// # Errors
/// [`Code::ValidationError`] with the accepted form.
pub fn check_id(field: &str, text: &str) -> Result<(), ApiError> {
    if super::auth::is_id(text) {
        return Ok(());
    }
    Err(ApiError::invalid(field, "must have 1 to 64 letters, digits, '-', '_' or '.', the first a letter or digit"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only parsed")]
    struct Example {
        path: String,
        limit: Option<usize>,
        from_date: Option<jiff::Timestamp>,
        status: Option<crate::conversation::store::ConversationStatus>,
    }

    #[tokio::test]
    async fn a_body_is_read_whole_up_to_its_limit_and_no_further() {
        for length in [0, 1, MAX_BODY_BYTES - 1, MAX_BODY_BYTES] {
            // In pieces, the last of which reaches the limit.
            let pieces = [vec![b'x'; length / 2], vec![b'y'; length - length / 2]];
            let whole = pieces.concat();
            let stream = futures::stream::iter(pieces.map(Ok::<_, std::io::Error>));
            assert!(read_body(Body::from_stream(stream)).await.is_ok_and(|read| read == whole), "{length}");
        }
        let refused = read_body(Body::from(vec![b'x'; MAX_BODY_BYTES + 1])).await.expect_err("too large");
        assert!(refused.message().contains(&MAX_BODY_BYTES.to_string()), "{}", refused.message());
    }

    #[test]
    fn a_json_body_is_one_object_and_nothing_else() {
        let read = |text: &str| parse_json::<Example>(text.as_bytes()).map_err(|error| error.message().to_owned());
        assert_eq!(read(" {\"path\": \"a\"}\n").expect("an object").path, "a");
        for (text, why) in [
            ("{\"path\": \"a\"} {}", "body: "),
            ("{\"path\": \"a\"}x", "body: "),
            ("{\"path\": \"a\",}", "body: "),
            ("[\"a\"]", "body: must be a JSON object"),
            ("", "body: must be a JSON object"),
            ("{\"path\": 1}", "path: "),
            ("{\"path\": \"a\", \"limit\": -1}", "limit: "),
            ("{\"path\": \"a\", \"colour\": 1}", "colour: "),
        ] {
            let told = read(text).expect_err(text);
            assert!(told.starts_with(why), "{text}: {told}");
        }
    }

    #[test]
    fn lengths_are_in_characters_and_ends_included() {
        for (text, fits) in
            [("", false), ("\u{9577}", true), ("\u{9577}\u{9577}", true), ("abc", false), ("a\0", false)]
        {
            assert_eq!(check_length("f", text, 1..=2).is_ok(), fits, "{text:?}");
        }
        assert!(check_id("f", &"a".repeat(64)).is_ok() && check_id("f", &"a".repeat(65)).is_err());
    }

    #[tokio::test]
    async fn a_bad_query_names_its_parameter_in_words_of_ours() {
        for (query, message) in [
            ("path=a&limit=x", "limit: \"x\" is not accepted: must be a whole number"),
            ("path=a&limit=-1", "limit: \"-1\" is not accepted: must be a whole number"),
            ("path=a&limit=", "limit: \"\" is not accepted: must be a whole number"),
            ("path=a&from_date=yesterday", "from_date: \"yesterday\" is not accepted: must be a time"),
            ("path=a&status=gone", "status: \"gone\" is not accepted: must be one of: active, archived"),
            ("path=a&path=b", "path: must be given once"),
            ("path=a&limit=1&color=red", "color: is not a parameter of this request"),
            ("limit=1", "path: is required"),
        ] {
            let request = Request::builder().uri(format!("/?{query}")).body(Body::empty()).expect("a request");
            let (mut parts, _) = request.into_parts();
            let error = ApiQuery::<Example>::from_request_parts(&mut parts, &()).await.expect_err(query);
            assert!(error.message().starts_with(message), "{query}: {}", error.message());
        }
    }
}
