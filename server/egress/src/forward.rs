//! Forwarding: a request is sent with its own headers, without the hop-by-hop ones, and with the credential. The response is
//! relayed unchanged, as it arrives.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_credential_types::Credentials;
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming as Answer;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::answer::Refusal;
use crate::body::{Arrival, Upload};
use crate::chain::Chain;
use crate::credentials::{Credential, Kind, SigV4};
use crate::ended::Ended;
use crate::head::{Framing, Head};
use crate::headers;
use crate::held::{Held, Holding};
use crate::meter::Meter;
use crate::model::Reader;
use crate::policy::Inspect;
use crate::pool::{Again, Pool};
use crate::proxy::Egress;
use crate::quota::Quota;
use crate::redact::Redactor;
use crate::relay::{self, Relayed, Reuse};
use crate::revocation::Revocation;
use crate::sigv4::{self, Scope};
use crate::socket;
use crate::upload::{self, Incoming};
use crate::upstream::{Destination, Lease};

/// Number of pieces of a body that are buffered ahead of the target.
const AHEAD: usize = 1;
/// How often the proxy checks that the client is still there to read the answer.
const LOOK: Duration = Duration::from_secs(1);

/// A request that may be forwarded.
pub(crate) struct Admitted<'a> {
    pub(crate) head: Head,
    pub(crate) path: PathAndQuery,
    pub(crate) to: Destination<'a>,
    /// Port in `Host`, if it is not the scheme's default.
    pub(crate) port: Option<u16>,
    pub(crate) credential: Option<&'a Credential>,
    /// What the body is read for before it is sent.
    pub(crate) inspect: Option<Inspect<'a>>,
    /// Ends the request when it is no longer allowed.
    pub(crate) revocation: Revocation<'a>,
    /// Pool of the listener that the request came from.
    pub(crate) pool: &'a Pool,
    /// Quota for a body that has to be held.
    pub(crate) quota: &'a Arc<Quota>,
}

/// How a request ended that was answered at least in part.
pub(crate) enum Forwarded {
    /// The response is complete; with whether another request may follow on the connection.
    Whole { status: StatusCode, keep: bool },
    /// The response was cut off.
    Cut { status: StatusCode, why: Refusal },
}

/// Where the body of a request comes from.
enum Source {
    /// The whole body has already been read.
    Whole(Bytes),
    /// The body was held until it was complete, in order to be signed.
    Held(Held),
    /// The body is yet to be read from the client.
    Stream,
}

/// A header that contains a secret: its name and value, and the lengths of what stands before and behind the secret.
type Secret<'a> = (&'a HeaderName, HeaderValue, (usize, usize));

/// A request with everything that is needed to send it, repeatedly if necessary; its body may still be arriving.
struct Forwarding<'a> {
    egress: &'a Egress,
    client: &'a UnixStream,
    meter: &'a Meter,
    pool: &'a Pool,
    head: &'a Head,
    path: PathAndQuery,
    to: Destination<'a>,
    port: Option<u16>,
    credential: Option<&'a Credential>,
    /// The signature that the request gets, and where its keys come from.
    signature: Option<(Scope<'a>, &'a Chain)>,
    source: Source,
    /// The client waits for `100 Continue` before it sends the body.
    must_ask: bool,
    /// Set once a part of the response may have reached the client.
    answered: OnceLock<StatusCode>,
    /// Whether the whole body has been read from the client.
    received: AtomicBool,
}

/// Forwards a request and relays the response. An error means that nothing has been answered yet.
pub(crate) async fn forward(
    egress: &Egress,
    client: &UnixStream,
    buffer: &mut BytesMut,
    admitted: Admitted<'_>,
    meter: &Meter,
) -> Result<Forwarded, Refusal> {
    let limits = &egress.limits;
    let Admitted { head, path, to, port, credential, inspect, mut revocation, pool, quota } = admitted;
    let asked_path = path.clone();
    if matches!(head.framing, Framing::Length(length) if length > limits.body) {
        return Err(Refusal::body_too_large());
    }
    let must_ask = head.expects_continue && buffer.is_empty();
    let mut body = Incoming::new(client, buffer, head.framing, meter, limits);
    let mut this = Forwarding {
        egress,
        client,
        meter,
        pool,
        head: &head,
        path,
        to,
        port,
        credential,
        signature: None,
        source: Source::Stream,
        must_ask,
        answered: OnceLock::new(),
        received: AtomicBool::new(false),
    };
    let asked = (&head.method, &asked_path, &head.headers);
    let signature = credential.and_then(Credential::signature);
    if signature.is_some() || inspect.is_some() {
        revocation.within(asked, this.hold(signature, inspect, &mut body, quota)).await??;
    } else if let Some(bytes) = body.at_hand()? {
        this.source = Source::Whole(bytes);
    }
    this.received.store(body.is_over(), Ordering::Relaxed);
    let ended = revocation.within(asked, this.converse(body)).await.and_then(|ended| ended);
    this.outcome(ended)
}

impl<'a> Forwarding<'a> {
    /// Reads the whole body, because its hash is part of the signature, or because what it asks of a model is yet to be allowed.
    async fn hold(
        &mut self,
        signature: Option<&'a SigV4>,
        inspect: Option<Inspect<'_>>,
        body: &mut Incoming<'_>,
        quota: &Arc<Quota>,
    ) -> Result<(), Refusal> {
        let limits = &self.egress.limits;
        if let Some(SigV4 { service, region, chain }) = signature {
            let scope = Scope { service, region };
            sigv4::refuse_signed(self.head, &self.path, scope.service)?;
            self.path = sigv4::unambiguous(&self.path, scope.service)?;
            let chain = chain.as_ref().unwrap_or(&self.egress.signer.chain);
            self.signature = Some((scope, chain));
            // The client is not asked for a body that cannot be signed.
            chain.for_request().await?;
        }
        if inspect.is_some() && is_compressed(&self.head.headers) {
            return Err(Refusal::denied("compressed_body"));
        }
        let expected = match self.head.framing {
            Framing::Length(length) if length > limits.signed_body => return Err(Refusal::signed_body_too_large()),
            Framing::Length(length) => length,
            Framing::None | Framing::Chunked => 0,
        };
        if std::mem::take(&mut self.must_ask) {
            upload::ask_for(self.client, limits.idle).await?;
        }
        let holding = Holding::new(quota, limits.signed_body, expected).read_by(inspect.map(|_| Reader::new()));
        let (held, found) = body.hold(holding).await?;
        if let (Some(Inspect { models, api }), Some(found)) = (inspect, found) {
            models.check_body(&found, api)?;
        }
        self.source = Source::Held(held);
        Ok(())
    }

    /// Sends the request and relays the answer, while the rest of the body arrives.
    async fn converse(&self, mut body: Incoming<'_>) -> Result<Relayed, Refusal> {
        let (arrivals, uploaded) = mpsc::channel(AHEAD);
        let mut over = body.is_over();
        let (mut exchange, mut arriving) =
            (pin!(self.exchange(uploaded)), pin!(body.pass_on(arrivals, &self.received)));
        loop {
            tokio::select! {
                biased;
                relayed = &mut exchange => return relayed,
                all = &mut arriving, if !over => { all?; over = true; }
                why = self.watch() => return Err(why),
            }
        }
    }

    /// Completes when no bytes have moved for too long, or the client has left.
    async fn watch(&self) -> Refusal {
        while let Some(left) = self.meter.left(self.egress.limits.idle) {
            tokio::time::sleep(left.min(LOOK)).await;
            if socket::is_gone(self.client) {
                return Refusal::client_gone();
            }
        }
        if self.received.load(Ordering::Relaxed) {
            Refusal::timeout("response_timeout")
        } else {
            Refusal::body_timeout()
        }
    }

    async fn exchange(&self, uploaded: mpsc::Receiver<Arrival>) -> Result<Relayed, Refusal> {
        let Sent { response, mut lease, reuse, mut refused, mut redactor } = self.send(uploaded).await?;
        let chain = self.signature.map(|(_, chain)| chain);
        let mut look = |data: &[u8]| {
            if let (Some((with, ended)), Some(chain)) = (&mut refused, chain) {
                ended.look(data);
                if ended.was_said() {
                    chain.doubt(with);
                }
                if ended.refuses_credentials() {
                    chain.judged(false);
                }
            }
        };
        let terms = relay::Terms { head: self.head, received: &self.received, reuse, redacts: self.redacts() };
        let seen = relay::Seen { look: &mut look, redactor: redactor.as_mut() };
        let relayed = relay::relay(self.client, response, &mut lease, &terms, seen, &self.answered, self.meter).await?;
        if relayed.upstream == Reuse::Yes {
            self.pool.put_back(lease);
        }
        Ok(relayed)
    }

    /// Sends the request, and sends it again signed by the target's clock if the target's clock was why it rejected the signature.
    async fn send(&self, uploaded: mpsc::Receiver<Arrival>) -> Result<Sent, Refusal> {
        let clocks = &self.egress.signer.clocks;
        let first = self.attempt(uploaded).await?;
        if first.refused.is_none() || !clocks.learn_from(self.to.host, first.response.headers()) {
            return Ok(first);
        }
        // A body that is signed is held, so it can be sent again.
        let second = self.attempt(mpsc::channel(1).1).await?;
        if second.refused.is_some() {
            // The clock was not the reason.
            clocks.unlearn(self.to.host);
        }
        Ok(second)
    }

    async fn attempt(&self, uploaded: mpsc::Receiver<Arrival>) -> Result<Sent, Refusal> {
        let body = match &self.source {
            Source::Whole(bytes) => Upload::Whole(bytes.clone()),
            Source::Held(held) => held.upload()?,
            Source::Stream => Upload::Stream(uploaded, self.length()),
        };
        let secret = self.secret().await?;
        let mut request = self.request(body, secret.as_ref())?;
        let signed_with = self.sign(request.headers_mut()).await?;
        let redactor = match (&signed_with, &secret) {
            (Some(keys), _) => Some(Redactor::of_keys(keys, request.headers())),
            (None, Some((_, value, around))) => Some(Redactor::of_header(value, *around)),
            (None, None) => None,
        };
        let reuse = relay::reuse_after(self.head, request.headers());
        let lease = self.pool.acquire(self.to).await?;
        if self.must_ask {
            upload::ask_for(self.client, self.egress.limits.idle).await?;
        }
        // An idempotent request may be sent twice (RFC 9110, section 9.2.2).
        let again = match &self.source {
            Source::Whole(bytes) if self.head.method.is_idempotent() => {
                Some(|| self.request(Upload::Whole(bytes.clone()), secret.as_ref()))
            }
            _ => None,
        };
        let again = again.as_ref().map(|again| again as Again<'_>);
        let (response, lease) = self.pool.send(self.to, lease, request, again).await?;
        if let Some((_, chain)) = self.signature.filter(|_| signed_with.is_some() && response.status().is_success()) {
            chain.judged(true);
        }
        let refused = signed_with.and_then(|with| Some((with, Ended::new(response.status(), response.headers())?)));
        Ok(Sent { response, lease, reuse, refused, redactor })
    }

    /// Length of the body in bytes, if known.
    fn length(&self) -> Option<u64> {
        match (&self.source, self.head.framing) {
            (_, Framing::None) => None,
            (Source::Held(held), _) => Some(held.length),
            (_, Framing::Length(length)) => Some(length),
            (_, Framing::Chunked) => None,
        }
    }

    /// The header that the credential adds, with its current value.
    async fn secret(&self) -> Result<Option<Secret<'a>>, Refusal> {
        match self.credential.map(|credential| &credential.kind) {
            Some(Kind::Header { name, value, around }) => Ok(Some((name, value.current().await?, *around))),
            Some(Kind::SigV4(_)) | None => Ok(None),
        }
    }

    /// The request as it is sent, except for the signature.
    fn request(&self, upload: Upload, secret: Option<&Secret<'_>>) -> Result<Request<Upload>, Refusal> {
        let mut headers = headers::outgoing(&self.head.headers, self.to.host, self.port)?;
        if self.credential.is_some() {
            headers::strip_credentials(&mut headers);
            // The credential is looked for in the answer.
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        headers::frame(&mut headers, self.head.framing, self.length());
        if let Some((name, value, _)) = secret {
            headers::inject(&mut headers, name, value)?;
        }
        let mut request = Request::new(upload);
        *request.method_mut() = self.head.method.clone();
        *request.uri_mut() = self.path.clone().into();
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// Whether an answer that cannot be read is refused. Object storage answers with what was stored, in the coding that it was stored in,
    /// and repeats no credential in it.
    fn redacts(&self) -> relay::Redacts {
        match self.signature {
            Some((Scope { service: "s3", .. }, _)) => relay::Redacts::WhatCanBeRead,
            _ => relay::Redacts::Everything,
        }
    }

    /// Signs the request if its rule requires that; nothing is changed afterwards. Returns the credentials and time used.
    async fn sign(&self, headers: &mut HeaderMap) -> Result<Option<Credentials>, Refusal> {
        let (Some((scope, chain)), Source::Held(held)) = (self.signature, &self.source) else { return Ok(None) };
        let line: (&Method, &PathAndQuery) = (&self.head.method, &self.path);
        self.egress.signer.sign((scope, chain), self.to.host, line, headers, &held.sha256).await.map(Some)
    }

    fn outcome(&self, ended: Result<Relayed, Refusal>) -> Result<Forwarded, Refusal> {
        match (ended, self.answered.get()) {
            (Ok(Relayed { keep, .. }), Some(status)) => {
                Ok(Forwarded::Whole { status: *status, keep: keep && self.received.load(Ordering::Relaxed) })
            }
            (Err(why), Some(status)) => Ok(Forwarded::Cut { status: *status, why }),
            (Err(why), None) => Err(why),
            (Ok(_), None) => Err(Refusal::internal("relay")),
        }
    }
}

/// Whether a body is not sent as it is meant.
fn is_compressed(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_ENCODING).iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// The head of a response, and how the request was signed.
struct Sent {
    response: Response<Answer>,
    lease: Lease,
    reuse: Reuse,
    /// Credentials of the signature, and the inspection of the response for an error about them.
    refused: Option<(Credentials, Ended)>,
    /// Hides the credential in the response.
    redactor: Option<Redactor>,
}
