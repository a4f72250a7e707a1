//! Authentication by key or token, and the authorization of operators and tenants.

mod configured;
mod ending;
mod keys;
mod oidc;
mod scopes;
mod secret;

use std::fmt;
use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;

use super::AppState;
use super::error::{ApiError, Code};
use super::forward::FromPeer;
use super::request_id;
use crate::conversation::store::Scope;
pub use configured::ApiKeys;
pub(super) use ending::is_stream;
pub use keys::Keys;
use nagaya_telemetry::audit::Event;
pub use oidc::{Grant, Oidc, OidcSettings};
pub use scopes::{ALL as ALL_SCOPES, Scopes};
pub(super) use secret::{Secret, to_hex};

/// Path of the metrics.
pub(super) const METRICS_PATH: &str = "/metrics";
const KEY_HEADER: HeaderName = HeaderName::from_static("x-api-key");

/// Whom a caller acts for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// The deployment's operator; every caller is one where no keys are required.
    Operator,
    /// The tenant with this id.
    Tenant(String),
    /// A monitoring system, which may read `/metrics` and nothing else.
    Metrics,
}

/// By what a caller is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Credential {
    /// By nothing: no keys are required.
    None,
    /// A key in `API_KEYS`: its position, from 1.
    Configured(usize),
    /// A key that was created at run time: its id.
    Key(Arc<str>),
    /// A token of the configured issuer: its claim `sub`.
    Token(Arc<str>),
}

/// `API_KEYS:1`, a key's id, or `token:` and a token's owner.
impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Configured(number) => write!(f, "API_KEYS:{number}"),
            Self::Key(id) => f.write_str(id),
            Self::Token(subject) => write!(f, "token:{subject}"),
        }
    }
}

/// Who sends a request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Whom the caller acts for.
    pub principal: Principal,
    /// What the caller may do.
    pub scopes: Scopes,
    /// By what the caller is known.
    pub credential: Credential,
    /// When the caller's token expires. Keys may change meanwhile, and are looked up.
    pub until: Option<Timestamp>,
}

impl Caller {
    /// The owner of a key in `API_KEYS`, who may do all that the principal can.
    fn configured(number: usize, principal: Principal) -> Self {
        let scopes = match principal {
            Principal::Operator => Scopes::ALL,
            Principal::Tenant(_) => Scopes::of_tenant(),
            Principal::Metrics => [Scope::Metrics].into_iter().collect(),
        };
        Self { principal, scopes, credential: Credential::Configured(number), until: None }
    }

    /// Whoever sends a request where no keys are required.
    fn anyone() -> Self {
        Self { principal: Principal::Operator, scopes: Scopes::ALL, credential: Credential::None, until: None }
    }
}

/// Whether `text` is a valid tenant or model id.
#[must_use]
pub fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

/// The key that a request presents, in `X-API-Key` or else as a bearer token.
fn presented(headers: &HeaderMap) -> Option<&str> {
    headers.get(KEY_HEADER).and_then(|value| value.to_str().ok()).or_else(|| bearer(headers))
}

/// Who sends a request with these headers.
async fn authenticate(app: &AppState, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let key = presented(headers);
    if let Some(key) = key
        && let Some(caller) = app.keys.find(key).await?
    {
        return Ok(caller);
    }
    if let Some(oidc) = &app.oidc
        && let Some(token) = bearer(headers).filter(|token| key == Some(*token) && oidc::is_token(token))
    {
        return oidc.caller(token).await;
    }
    // A key that this server has made and that is no longer valid never makes its owner an operator.
    let is_ours = key.is_some_and(|key| key.starts_with(secret::BEGINNING));
    if !app.keys.are_required() && app.oidc.is_none() && !is_ours {
        return Ok(Caller::anyone());
    }
    Err(ApiError::new(Code::Unauthorized, "send a valid key as X-API-Key or Authorization: Bearer"))
}

/// Attaches the [`Caller`] and the [`Principal`] to a request. Answers 401 without a valid key, 429 when the key's rate limit is
/// exceeded, and 403 when the key lacks the scope of the route. Ends the streams of keys that become invalid.
pub async fn layer(State(app): State<AppState>, mut request: Request, next: Next) -> Result<Response, ApiError> {
    let caller = authenticate(&app, request.headers()).await?;
    let limits = app.rate_limits.as_ref().filter(|_| caller.credential != Credential::None);
    let allowance = match limits.map_or(Ok(None), |limits| limits.take(&caller.credential)) {
        Ok(allowance) => allowance,
        Err(exhausted) => return Ok(exhausted.response()),
    };
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned()).unwrap_or_default();
    let needed = scopes::needed(&route, request.method());
    let ends_here = request.extensions().get::<FromPeer>().is_none();
    request.extensions_mut().insert(caller.principal.clone());
    request.extensions_mut().insert(caller.clone());
    let refusal = match &needed {
        Err(_) => None,
        Ok(needed) => refusal(&caller, &route, needed),
    };
    let mut response = match needed {
        Err(refusal) => *refusal,
        Ok(_) if refusal.is_some() => audited(&app, &caller, request, &route, refusal, next).await,
        Ok(needed) => {
            let response = audited(&app, &caller, request, &route, None, next).await;
            match &caller.credential {
                Credential::Key(id) if ends_here && is_stream(&response) => {
                    let (keys, id) = (app.keys.clone(), id.clone());
                    ending::end_with(response, async move { keys.ended(&id, needed).await })
                }
                Credential::Token(_) if ends_here && is_stream(&response) => match caller.until {
                    Some(until) => ending::end_with(response, ending::expiry(until)),
                    None => response,
                },
                _ => response,
            }
        }
    };
    if let Some(allowance) = allowance {
        allowance.write_headers(response.headers_mut());
    }
    response.extensions_mut().insert(caller.credential);
    Ok(response)
}

/// Runs the request, or refuses it. Records it in the audit trail if its method and route are able to change more than a conversation:
/// a tenant, a model, a key, the pool or a workspace.
async fn audited(
    app: &AppState,
    caller: &Caller,
    request: Request,
    route: &str,
    refusal: Option<ApiError>,
    next: Next,
) -> Response {
    let is_audited = !request.method().is_safe() && !route.contains("/conversations");
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
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
            key: match caller.credential {
                Credential::Configured(number) => Some(number),
                _ => None,
            },
            key_id: match &caller.credential {
                Credential::Key(id) => Some(id),
                _ => None,
            },
            subject: match &caller.credential {
                Credential::Token(subject) => Some(subject),
                _ => None,
            },
            tenant: match &caller.principal {
                Principal::Operator | Principal::Metrics => None,
                Principal::Tenant(tenant) => Some(tenant),
            },
        });
    }
    response
}

/// Why a caller may not use a route: the metrics are the whole deployment's, a key for metrics is for nothing else, and every route
/// needs a scope.
fn refusal(caller: &Caller, route: &str, needed: &'static [Scope]) -> Option<ApiError> {
    match (&caller.principal, route == METRICS_PATH) {
        (Principal::Tenant(_), true) => Some(requires_operator()),
        (Principal::Metrics, false) => {
            Some(ApiError::new(Code::Forbidden, format!("this key is only for {METRICS_PATH}")))
        }
        _ if needed.iter().any(|scope| caller.scopes.contains(*scope)) => None,
        _ => Some(scopes::missing(needed)),
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

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| ApiError::internal(&"the route lacks the authentication layer"))
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
