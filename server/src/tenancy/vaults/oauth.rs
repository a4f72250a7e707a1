//! OAuth 2.0 clients (RFC 6749): access tokens by the client's own credentials (4.4) or by a refresh token (6). The token endpoint is an
//! address that a tenant has given, so it is asked under the tenant's own rules for workspaces.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use nagaya_egress::{Outgoing, Policy, SecretText, TokenSource};
use serde::Deserialize;
use tokio::sync::Mutex;
use url::Url;

use super::credential::{Auth, Secret};
use crate::tenancy::{Tenancy, TenancyError};

/// How long before its end a token is replaced.
const MARGIN: Duration = Duration::from_secs(60);
/// Lifetime of a token whose endpoint names none.
const UNKNOWN_LIFE: Duration = Duration::from_secs(300);
/// Longest lifetime that is relied upon.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long after a failure the endpoint is not asked again.
const PAUSE: Duration = Duration::from_secs(2);
/// Longest wait for the tenant's rules.
const POLICY_DEADLINE: Duration = Duration::from_secs(3);
/// Size of an answer of a token endpoint, in bytes, at most.
const LONGEST_ANSWER: usize = 64 * 1024;

/// A client, with its present token.
pub(super) struct Client {
    url: Url,
    id: String,
    secret: Option<Secret>,
    scope: Option<String>,
    tenant: String,
    /// Has the proxy, and what the tenant may reach at the time of a request.
    tenancy: Weak<Tenancy>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The refresh token, which an endpoint may replace. A replaced one is lost with the process: RFC 6749, 6, leaves it to the endpoint
    /// whether the old one still works.
    refresh: Option<Secret>,
    token: Option<(Secret, Instant)>,
    failed: Option<Instant>,
    /// Under which the last token was fetched. It holds while the database does not answer.
    policy: Option<Arc<Policy>>,
}

/// A token endpoint's answer (RFC 6749, 5.1).
#[derive(Deserialize)]
struct Granted {
    access_token: Secret,
    token_type: String,
    expires_in: Option<u64>,
    refresh_token: Option<Secret>,
}

impl Client {
    /// The client that a tenant's credential describes; `None` for another kind.
    pub(super) fn new(auth: &Auth, tenant: &str, tenancy: Weak<Tenancy>) -> Option<Self> {
        let Auth::Oauth { token_url, client_id, client_secret, refresh_token, scope } = auth else { return None };
        let state = State { refresh: refresh_token.clone(), ..State::default() };
        Some(Self {
            url: Url::parse(token_url).ok()?,
            id: client_id.clone(),
            secret: client_secret.clone(),
            scope: scope.clone(),
            tenant: tenant.to_owned(),
            tenancy,
            state: Mutex::new(state),
        })
    }

    /// The body of a request for a token.
    fn form(&self, refresh: Option<&Secret>) -> String {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        match refresh {
            Some(token) => form.append_pair("grant_type", "refresh_token").append_pair("refresh_token", token.reveal()),
            None => form.append_pair("grant_type", "client_credentials"),
        };
        if let Some(scope) = &self.scope {
            form.append_pair("scope", scope);
        }
        if self.secret.is_none() {
            // A public client names itself in the body (RFC 6749, 3.2.1).
            form.append_pair("client_id", &self.id);
        }
        form.finish()
    }

    /// What the tenant may reach now, or could when that was known last.
    async fn policy(&self, tenancy: &Tenancy, known: &mut Option<Arc<Policy>>) -> Result<Arc<Policy>, String> {
        let asked = tokio::time::timeout(POLICY_DEADLINE, tenancy.policy_without_credentials(&self.tenant)).await;
        match (asked, known.clone()) {
            (Ok(Ok(policy)), _) => {
                *known = Some(policy.clone());
                Ok(policy)
            }
            (Err(_), Some(known)) => Ok(known),
            (Ok(Err(TenancyError::Store(error))), Some(known)) if error.is_unavailable() => Ok(known),
            (Ok(Err(error)), _) => Err(error.to_string()),
            (Err(_), None) => Err(format!("the database did not answer within {POLICY_DEADLINE:?}")),
        }
    }

    async fn fetch(&self, refresh: Option<&Secret>, known: &mut Option<Arc<Policy>>) -> Result<Granted, String> {
        let mut headers = vec![
            ("content-type", "application/x-www-form-urlencoded".to_owned()),
            ("accept", "application/json".to_owned()),
        ];
        if let Some(secret) = &self.secret {
            headers.push(("authorization", basic(&self.id, secret.reveal())));
        }
        let request =
            Outgoing { url: self.url.as_str(), headers, body: self.form(refresh).into_bytes(), most: LONGEST_ANSWER };
        let tenancy = self.tenancy.upgrade().ok_or("the server is stopping")?;
        let policy = self.policy(&tenancy, known).await?;
        let (status, body) = tenancy.egress.post(&policy, request).await.map_err(|error| error.to_string())?;
        if !status.is_success() {
            return Err(format!("the token endpoint answered {}", status.as_u16()));
        }
        // The parser's message could repeat a part of the answer.
        let granted: Granted = serde_json::from_slice(&body).map_err(|_| "the token endpoint's answer is no token")?;
        if !granted.token_type.eq_ignore_ascii_case("bearer") {
            return Err("the token endpoint's token is no bearer token".into());
        }
        Ok(granted)
    }
}

/// `Basic` of a client (RFC 6749, 2.3.1): both parts are form-encoded first.
fn basic(id: &str, secret: &str) -> String {
    use base64::Engine;
    let encoded = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let both = format!("{}:{}", encoded(id), encoded(secret));
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(both))
}

#[async_trait]
impl TokenSource for Client {
    async fn value(&self) -> Option<SecretText> {
        // Requests that come meanwhile wait for the same token.
        let mut state = self.state.lock().await;
        let bearer = |token: &Secret| SecretText::new(format!("Bearer {}", token.reveal()));
        if let Some((token, until)) = &state.token
            && Instant::now() < *until
        {
            return Some(bearer(token));
        }
        if state.failed.is_some_and(|failed| failed.elapsed() < PAUSE) {
            return None;
        }
        let State { refresh, policy, .. } = &mut *state;
        match self.fetch(refresh.as_ref(), policy).await {
            Ok(granted) => {
                let life = granted.expires_in.map_or(UNKNOWN_LIFE, Duration::from_secs).min(LONGEST_LIFE);
                let margin = MARGIN.min(life / 2);
                let value = bearer(&granted.access_token);
                state.token = Some((granted.access_token, Instant::now() + life.saturating_sub(margin)));
                state.refresh = granted.refresh_token.or_else(|| state.refresh.take());
                state.failed = None;
                Some(value)
            }
            Err(why) => {
                state.failed = Some(Instant::now());
                tracing::warn!(host = self.url.host_str(), why, "no access token for a vault's credential");
                None
            }
        }
    }
}
