//! Authentication by API key, and the authorization of operators and tenants.

use std::collections::HashMap;
use std::fmt;

use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::AppState;
use super::error::{ApiError, Code};
use super::request_id;
use nagaya_telemetry::audit::Event;

/// Path of the metrics.
pub(super) const METRICS_PATH: &str = "/metrics";
const KEY_HEADER: HeaderName = HeaderName::from_static("x-api-key");
/// Minimum length of a key, in characters: shorter ones can be guessed by brute force.
const SHORTEST_KEY: usize = 16;

/// The caller that a key authenticates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// The deployment's operator; every caller is one when no keys are configured.
    Operator,
    /// The tenant with this id.
    Tenant(String),
    /// A monitoring system, which may read `/metrics` and nothing else.
    Metrics,
}

/// Stands before the ':' of a key of [`Principal::Metrics`]; no tenant's id begins with '@'.
const METRICS_SCOPE: &str = "@metrics";

/// The configured keys, kept as SHA-256 hashes so that a memory dump does not reveal them.
#[derive(Clone, Default)]
pub struct ApiKeys(Vec<([u8; 32], Principal)>);

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl ApiKeys {
    /// Parses `KEY,TENANT:KEY,@metrics:KEY,…`: operators' keys, tenants' keys and keys for `/metrics`.
    ///
    /// # Errors
    /// A message with the number of the invalid key and the accepted form; it never contains a key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut seen = HashMap::new();
        let mut keys = Vec::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let number = keys.len() + 1;
            let (principal, key) = match item.split_once(':') {
                Some((METRICS_SCOPE, key)) => (Principal::Metrics, key),
                Some((tenant, key)) if is_id(tenant) => (Principal::Tenant(tenant.to_owned()), key),
                Some(_) => {
                    return Err(format!("key {number}: accepted before the ':': a tenant's id, or {METRICS_SCOPE}"));
                }
                None => (Principal::Operator, item),
            };
            if key.len() < SHORTEST_KEY || !key.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(format!("key {number}: accepted: at least {SHORTEST_KEY} visible ASCII characters"));
            }
            let hash = hash(key);
            if let Some(earlier) = seen.insert(hash, number) {
                return Err(format!("keys {earlier} and {number} are the same"));
            }
            keys.push((hash, principal));
        }
        Ok(Self(keys))
    }

    /// The number of configured keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no keys are configured, which makes every caller an operator.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The index of a key and its principal. Compares with every configured key in constant time, so that the response time does not
    /// reveal how much of a key matches.
    fn find(&self, key: &str) -> Option<(usize, Principal)> {
        let hash = hash(key);
        let mut found = None;
        for (number, (known, principal)) in self.0.iter().enumerate() {
            if bool::from(known.ct_eq(&hash)) {
                found = Some((number, principal.clone()));
            }
        }
        found
    }
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// Whether `text` is a valid tenant or model id.
#[must_use]
pub fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
}

/// The key that a request presents, in `X-API-Key` or else as a bearer token.
fn presented(headers: &HeaderMap) -> Option<&str> {
    let bearer = || headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ");
    headers.get(KEY_HEADER).and_then(|value| value.to_str().ok()).or_else(bearer)
}

/// Attaches the [`Principal`] to a request. Answers 401 without a valid key and 429 when the key's rate limit is exceeded.
pub async fn layer(State(app): State<AppState>, request: Request, next: Next) -> Result<Response, ApiError> {
    if app.keys.is_empty() {
        return Ok(audited(&app, None, Principal::Operator, request, next).await);
    }
    let known = presented(request.headers()).and_then(|key| app.keys.find(key));
    let (number, principal) = known
        .ok_or_else(|| ApiError::new(Code::Unauthorized, "send a valid key as X-API-Key or Authorization: Bearer"))?;
    let allowance = match app.rate_limits.as_ref().map_or(Ok(None), |limits| limits.take(number)) {
        Ok(allowance) => allowance,
        Err(exhausted) => return Ok(exhausted.response()),
    };
    let mut response = audited(&app, Some(number + 1), principal, request, next).await;
    if let Some(allowance) = allowance {
        allowance.write_headers(response.headers_mut());
    }
    Ok(response)
}

/// Runs the request as `principal`. Records it in the audit trail if its method and route are able to change more than a
/// conversation: a tenant, a model, the pool or a workspace.
async fn audited(
    app: &AppState,
    key: Option<usize>,
    principal: Principal,
    mut request: Request,
    next: Next,
) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    let is_audited = !request.method().is_safe() && route.is_none_or(|path| !path.as_str().contains("/conversations"));
    let refusal = out_of_scope(&principal, route.is_some_and(|path| path.as_str() == METRICS_PATH));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    request.extensions_mut().insert(principal.clone());
    let response = match refusal {
        Some(refusal) => refusal.into_response(),
        None => next.run(request).await,
    };
    if is_audited {
        app.audit.record(&Event::Operator {
            method: method.as_str(),
            path: &path,
            status: response.status().as_u16(),
            request_id: &request_id::current(),
            key,
            tenant: match &principal {
                Principal::Operator | Principal::Metrics => None,
                Principal::Tenant(tenant) => Some(tenant),
            },
        });
    }
    response
}

/// Why a caller may not use the metrics, which are the whole deployment's, or any other route.
fn out_of_scope(principal: &Principal, is_metrics: bool) -> Option<ApiError> {
    match (principal, is_metrics) {
        (Principal::Tenant(_), true) => Some(requires_operator()),
        (Principal::Metrics, false) => {
            Some(ApiError::new(Code::Forbidden, format!("this key is only for {METRICS_PATH}")))
        }
        _ => None,
    }
}

fn principal(parts: &Parts) -> Result<&Principal, ApiError> {
    parts.extensions.get().ok_or_else(|| ApiError::internal(&"the route lacks the authentication layer"))
}

/// Extractor that accepts only operators; other callers get 403.
#[derive(Debug)]
pub struct Operator;

impl<S: Sync> FromRequestParts<S> for Operator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        match principal(parts)? {
            Principal::Operator => Ok(Self),
            Principal::Tenant(_) | Principal::Metrics => Err(requires_operator()),
        }
    }
}

fn requires_operator() -> ApiError {
    ApiError::new(Code::Forbidden, "this route requires an operator's key")
}

impl<S: Sync> FromRequestParts<S> for Principal {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        principal(parts).cloned()
    }
}

/// Extractor of the path's `tenant_id`, if the caller may act for that tenant. Otherwise the answer is 404, so that a tenant
/// cannot find out which other tenants exist.
#[derive(Debug)]
pub struct TenantScope(pub String);

impl<S: Send + Sync> FromRequestParts<S> for TenantScope {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let params =
            RawPathParams::from_request_parts(parts, state).await.map_err(|_| ApiError::not_found("tenant"))?;
        let tenant = params.iter().find(|(name, _)| *name == "tenant_id").map(|(_, value)| value.to_owned());
        let tenant = tenant.ok_or_else(|| ApiError::internal(&"the route has no tenant_id in its path"))?;
        match principal(parts)? {
            Principal::Operator => Ok(Self(tenant)),
            Principal::Tenant(own) if *own == tenant => Ok(Self(tenant)),
            Principal::Tenant(_) | Principal::Metrics => Err(ApiError::not_found("tenant")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_key_is_found_with_its_principal() {
        let keys = ApiKeys::parse("0123456789abcdef, acme:fedcba9876543210,@metrics:fedcba98765432100").expect("valid");
        assert_eq!(keys.find("fedcba98765432100"), Some((2, Principal::Metrics)));
        assert_eq!(keys.find("0123456789abcdef"), Some((0, Principal::Operator)));
        assert_eq!(keys.find("fedcba9876543210"), Some((1, Principal::Tenant("acme".into()))));
        assert_eq!(keys.find("0123456789abcdeF"), None);
        assert!(ApiKeys::parse("").expect("valid").is_empty());
    }

    #[test]
    fn error_messages_and_debug_output_contain_no_key() {
        for bad in [
            "hunter2",
            "@other:0123456789abcdef",
            "@metrics:hunter2",
            "te nant:0123456789abcdef",
            "acme:hunter2",
            "0123456789abcdef,0123456789abcdef",
        ] {
            let message = ApiKeys::parse(bad).expect_err("invalid");
            assert!(!message.contains("hunter2") && !message.contains("0123456789abcdef"), "{message}");
        }
        let keys = ApiKeys::parse("0123456789abcdef").expect("valid");
        assert!(!format!("{keys:?}").contains("0123"));
    }
}
