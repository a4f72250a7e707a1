//! `Idempotency-Key`: a POST that is repeated with the same key and body is answered as the first time, without being carried out again.
//!
//! The work goes on when the client leaves, so that the answer is there when it comes back. Only hashes of keys and bodies are stored,
//! the key being a part of the body's hash: whoever reads the database cannot try out what a body with a password was.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{RawPathParams, Request, State};
use axum::http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::AppState;
use super::attempts::is_message;
use super::auth::{Principal, to_hex};
use super::error::{ApiError, Code};
use super::extract::read_body;
use super::forward::FromPeer;
use super::{form, request_id, stream};
use crate::conversation::store::{Attempt, Claim, Claimed, Earlier, KeptAnswer, Store, StoreError};

/// The request header.
pub(super) const HEADER: HeaderName = HeaderName::from_static("idempotency-key");
/// Marks an answer that is repeated.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Maximum length of a key, in characters.
const LONGEST_KEY: usize = 255;
/// Size of the longest answer that is kept, in bytes. Those of the API are much shorter.
const LONGEST_ANSWER: usize = 1 << 20;
/// Size of the longest answer that is given at all, in bytes.
const LONGEST_READ: usize = 64 << 20;
/// How often a server confirms that it is still working on a request; a claim that is not confirmed holds for a minute.
const CONFIRM: Duration = Duration::from_secs(15);
/// How often old answers are removed.
const SWEEP: Duration = Duration::from_secs(60);
/// How long work may go on at shutdown that no client waits for any more.
const DRAIN: Duration = Duration::from_secs(5);

/// Work on requests with a key, which outlives their connections.
#[derive(Debug, Default)]
pub struct Idempotency {
    tasks: TaskTracker,
    /// Owners whose answers use up their share of the database.
    full: RwLock<HashSet<String>>,
}

impl Idempotency {
    /// Removes old answers all the time, until `closing` is cancelled; then waits a while for work that goes on.
    pub async fn follow(&self, store: Store, closing: CancellationToken) {
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while closing.run_until_cancelled(sweep.tick()).await.is_some() {
            match store.sweep_answers().await {
                Ok(full) => *self.full.write() = full.into_iter().collect(),
                Err(error) => tracing::warn!(%error, "old answers to requests with Idempotency-Key were not removed"),
            }
        }
        self.tasks.close();
        if tokio::time::timeout(DRAIN, self.tasks.wait()).await.is_err() {
            tracing::warn!(requests = self.tasks.len(), "requests with Idempotency-Key are left unfinished");
        }
    }
}

/// In the extensions of a response: the body to keep instead of the one that is sent, which contains a secret.
#[derive(Debug, Clone)]
pub(super) struct KeptBody(pub(super) Bytes);

/// The work on a request, in its extensions.
#[derive(Debug, Clone)]
pub(super) struct Work {
    store: Store,
    claim: Arc<Claim>,
    key: Arc<str>,
    /// Hash of key and body, once the body was read.
    body: Arc<OnceLock<String>>,
    /// Whether a run was written down that may have begun.
    started: Arc<AtomicBool>,
}

impl Work {
    /// What earlier attempts have written down, whose servers have died: the runs that they may have begun.
    pub(super) fn earlier_runs(&self) -> Option<&str> {
        self.claim.run_id.as_deref()
    }

    /// Notes the hash of a body that was read in parts.
    pub(super) fn body_was_read(&self, digest: &[u8]) {
        let _ = self.body.set(fingerprint(&self.key, digest));
    }

    /// Writes down which run is about to start, so that it is found again if this server dies.
    ///
    /// # Errors
    /// The database failed, or another server has taken over.
    pub(super) async fn starts(&self, run_id: &str) -> Result<(), ApiError> {
        match self.store.confirm(&self.claim, self.body.get().map(String::as_str), Some(run_id)).await? {
            true => self.started.store(true, Ordering::Relaxed),
            false => return Err(in_progress()),
        }
        Ok(())
    }
}

fn hex(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    to_hex(&hash.finalize())
}

fn fingerprint(key: &str, digest: &[u8]) -> String {
    hex(&[key.as_bytes(), digest])
}

/// The key of a request.
fn key(headers: &HeaderMap) -> Result<Option<Arc<str>>, ApiError> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let accepted =
        || ApiError::invalid("Idempotency-Key", format!("must be 1 to {LONGEST_KEY} visible ASCII characters, once"));
    let text = value.to_str().map_err(|_| accepted())?;
    let valid = (1..=LONGEST_KEY).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !valid || values.next().is_some() {
        return Err(accepted());
    }
    Ok(Some(text.into()))
}

fn in_progress() -> ApiError {
    ApiError::new(Code::ResourceLocked, "a request with this Idempotency-Key is being answered; repeat it in a moment")
        .retry_after(Duration::from_secs(1))
}

fn used_otherwise() -> ApiError {
    ApiError::invalid("Idempotency-Key", "was used for another request: use a new one for another route or body")
}

fn gone() -> ApiError {
    let why = "the run of this Idempotency-Key has ended, and its events are not kept any more; read the messages";
    ApiError::new(Code::Conflict, why)
}

/// Answers a repeated request as the first time, and keeps the answers of others.
pub(super) async fn layer(
    State(app): State<AppState>,
    params: RawPathParams,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    // What another server forwards has passed this layer there.
    if request.method() != Method::POST || request.extensions().get::<FromPeer>().is_some() {
        return Ok(next.run(request).await);
    }
    let Some(key) = key(request.headers())? else { return Ok(next.run(request).await) };
    let tenant_id = match request.extensions().get::<Principal>() {
        Some(Principal::Tenant(tenant)) => Some(tenant.clone()),
        _ => None,
    };
    let owner = tenant_id.as_deref().unwrap_or_default();
    if app.idempotency.full.read().contains(owner) {
        let why = "too many answers are kept for Idempotency-Keys of the last 24 hours; repeat later, or without a key";
        return Err(ApiError::new(Code::RateLimitExceeded, why).retry_after(SWEEP));
    }
    let target = request.uri().path_and_query().map(|target| target.as_str().to_owned()).unwrap_or_default();
    let (slot, route) = (hex(&[owner.as_bytes(), key.as_bytes()]), hex(&[target.as_bytes()]));
    let (request, digest) = read_ahead(request).await?;
    let body = digest.map(|digest| fingerprint(&key, &digest));
    let attempt = Attempt { slot, tenant_id, route, body };
    let claim = match app.store.claim(&attempt).await {
        Ok(Claimed::Yes(claim)) => claim,
        Ok(Claimed::No(earlier)) => return replay(&app, &params, &attempt, &key, *earlier, request).await,
        // The key of a tenant that does not exist: whatever it asks for does not exist either.
        Err(StoreError::NotFound(_)) => return Ok(next.run(request).await),
        Err(error) => return Err(error.into()),
    };
    if let Some(run) = claim.run_id.as_ref().filter(|_| !is_message(&request)) {
        let asked = (request.uri().clone(), request.headers().clone());
        let found = follow(&app, &params, run, asked).await?;
        if found.is_some() || app.store.has_run(run).await? {
            let answer = KeptAnswer { status: 200, headers: "{}".into(), body: None };
            finish(&app.store, &claim, attempt.body.as_deref(), &answer).await;
            return found.ok_or_else(gone);
        }
    }
    let body = Arc::new(attempt.body.map_or_else(OnceLock::new, OnceLock::from));
    let work = Work { store: app.store.clone(), claim: Arc::new(claim), key, body, started: Arc::default() };
    let task = app.idempotency.tasks.spawn(request_id::keep(carry_out(work, request, next)));
    task.await.unwrap_or_else(|error| Err(ApiError::internal(&error)))
}

/// Reads the body of a request, unless it is a form with files, and returns the hash of what it has read.
async fn read_ahead(request: Request) -> Result<(Request, Option<Vec<u8>>), ApiError> {
    if form::is_form(request.headers()) {
        return Ok((request, None));
    }
    let (head, body) = request.into_parts();
    let body = read_body(body).await?;
    let digest = Sha256::digest(&body).to_vec();
    Ok((Request::from_parts(head, Body::from(body)), Some(digest)))
}

/// Does the work, while the claim is confirmed again and again, and keeps the answer.
async fn carry_out(work: Work, mut request: Request, next: Next) -> Result<Response, ApiError> {
    request.extensions_mut().insert(work.clone());
    let response = {
        let running = next.run(request);
        tokio::pin!(running);
        let mut confirm = interval(CONFIRM);
        confirm.set_missed_tick_behavior(MissedTickBehavior::Delay);
        confirm.tick().await;
        loop {
            tokio::select! {
                response = &mut running => break response,
                _ = confirm.tick() => {
                    if let Err(error) = work.store.confirm(&work.claim, None, None).await {
                        tracing::warn!(%error, "a claim of an Idempotency-Key was not confirmed");
                    }
                }
            }
        }
    };
    let body = work.body.get().map(String::as_str);
    if !is_kept(&response) || body.is_none() {
        // The server to which it was forwarded may have begun the run and died: the next attempt asks for it.
        let begun = work.started.load(Ordering::Relaxed) && response.status().is_server_error();
        let uncertain = begun || work.earlier_runs().is_some();
        let released =
            if uncertain { work.store.release(&work.claim).await } else { work.store.forget(&work.claim).await };
        if let Err(error) = released {
            tracing::warn!(%error, "an Idempotency-Key without an answer holds for a minute");
        }
        return Ok(response);
    }
    let (response, answer) = copy(response).await?;
    finish(&work.store, &work.claim, body, &answer).await;
    Ok(response)
}

/// Whether an answer is kept: not if the same request may be answered otherwise in a moment.
fn is_kept(response: &Response) -> bool {
    let status = response.status();
    let busy = response.extensions().get::<Code>() == Some(&Code::ResourceLocked);
    !status.is_server_error()
        && status != StatusCode::TOO_MANY_REQUESTS
        && !busy
        && !response.headers().contains_key(RETRY_AFTER)
}

/// The answer as it is kept, and the response as before. Of a run, only that it has begun: its journal has the events.
async fn copy(response: Response) -> Result<(Response, KeptAnswer), ApiError> {
    let status = response.status().as_u16();
    if super::auth::is_stream(&response) {
        return Ok((response, KeptAnswer { status, headers: "{}".into(), body: None }));
    }
    let (head, body) = response.into_parts();
    let body = to_bytes(body, LONGEST_READ).await.map_err(|error| ApiError::internal(&error))?;
    let kept = head.extensions.get::<KeptBody>().map_or_else(|| body.clone(), |kept| kept.0.clone());
    let kept = String::from_utf8(kept.to_vec()).ok().filter(|kept| kept.len() <= LONGEST_ANSWER);
    let headers = [CONTENT_TYPE, LOCATION].into_iter().filter_map(|name| {
        let value = head.headers.get(&name)?.to_str().ok()?.to_owned();
        Some((name.as_str().to_owned(), value))
    });
    let headers: BTreeMap<String, String> = headers.collect();
    let headers = serde_json::to_string(&headers).map_err(|error| ApiError::internal(&error))?;
    Ok((Response::from_parts(head, Body::from(body)), KeptAnswer { status, headers, body: kept }))
}

async fn finish(store: &Store, claim: &Claim, body: Option<&str>, answer: &KeptAnswer) {
    match store.keep_answer(claim, body, answer).await {
        Ok(true) => {}
        Ok(false) => tracing::warn!("another server has taken over a request with Idempotency-Key"),
        Err(error) => tracing::warn!(%error, "the answer to a request with Idempotency-Key is not kept"),
    }
}

/// Answers a request whose key was used before.
async fn replay(
    app: &AppState,
    params: &RawPathParams,
    attempt: &Attempt,
    key: &str,
    earlier: Earlier,
    request: Request,
) -> Result<Response, ApiError> {
    if earlier.route != attempt.route {
        return Err(used_otherwise());
    }
    // Files are still on their way.
    let Some(first) = &earlier.body else { return Err(in_progress()) };
    let is_message = is_message(&request);
    let (head, body) = request.into_parts();
    let again = match &attempt.body {
        Some(body) => body.clone(),
        None => fingerprint(key, &form::digest(&head.headers, body).await?),
    };
    if again != *first {
        return Err(used_otherwise());
    }
    // A message is answered at once, a stream by the events of its run.
    if let Some(run) = earlier.run_id.as_ref().filter(|_| !is_message) {
        if let Some(response) = follow(app, params, run, (head.uri, head.headers)).await? {
            return Ok(response);
        }
        if app.store.has_run(run).await? {
            let why =
                "the run of this Idempotency-Key has ended, and its events are not kept any more; read the messages";
            return Err(ApiError::new(Code::Conflict, why));
        }
        return Err(match earlier.answer {
            // The conversation was deleted, or the server that has the run does not answer.
            Some(_) => ApiError::unavailable("no server of this deployment has the run of this Idempotency-Key"),
            None => in_progress(),
        });
    }
    let Some(answer) = earlier.answer else { return Err(in_progress()) };
    let Some(body) = answer.body else {
        let why = "the request of this Idempotency-Key was carried out, and its answer is not kept any more";
        return Err(ApiError::new(Code::Conflict, why));
    };
    let headers: BTreeMap<String, String> =
        serde_json::from_str(&answer.headers).map_err(|error| ApiError::internal(&error))?;
    let status = StatusCode::from_u16(answer.status).map_err(|error| ApiError::internal(&error))?;
    let mut response = (status, body).into_response();
    response.headers_mut().remove(CONTENT_TYPE);
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(marked(response))
}

/// The events of a run from its beginning, whichever server has it; `None` if none has it.
async fn follow(
    app: &AppState,
    params: &RawPathParams,
    run: &str,
    asked: (Uri, HeaderMap),
) -> Result<Option<Response>, ApiError> {
    let conversation = params.iter().find(|(name, _)| *name == "conversation_id").map(|(_, id)| id);
    let Some(conversation) = conversation else { return Ok(None) };
    let found = match stream::own_events(app, conversation, run).await? {
        Some(response) => Some(response),
        None => super::forward::events_of(app, conversation, run, asked).await?,
    };
    Ok(found.map(marked))
}

fn marked(mut response: Response) -> Response {
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_visible_ascii_and_given_once() {
        let headers = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(HEADER, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
            }
            headers
        };
        assert_eq!(key(&headers(&[])).expect("valid"), None);
        for valid in ["a", "8e03978e-40d5-43dd-bc93-6894a57f9324", &"x".repeat(255)] {
            assert_eq!(key(&headers(&[valid])).expect("valid").as_deref(), Some(valid));
        }
        for invalid in [&[""][..], &["a b"], &["é"], &["a", "a"], &[&"x".repeat(256)]] {
            assert!(key(&headers(invalid)).is_err(), "{invalid:?}");
        }
    }

    #[test]
    fn hashes_tell_apart_what_is_joined_otherwise() {
        assert_ne!(hex(&[b"ab", b"c"]), hex(&[b"a", b"bc"]));
        assert_ne!(fingerprint("one", b"body"), fingerprint("other", b"body"));
    }

    #[test]
    fn answers_that_may_differ_in_a_moment_are_not_kept() {
        let kept = |code| is_kept(&ApiError::new(code, "why").into_response());
        for code in [Code::NotFound, Code::Conflict, Code::ValidationError, Code::Forbidden] {
            assert!(kept(code), "{code:?}");
        }
        for code in [Code::ResourceLocked, Code::RateLimitExceeded, Code::ServiceUnavailable, Code::InternalError] {
            assert!(!kept(code), "{code:?}");
        }
    }
}
