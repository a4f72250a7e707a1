//! Forwarding: a request goes on with its own headers, less those that are between two hops, and with the credential; its
//! answer comes back as it is, piece by piece as it arrives.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::uri::PathAndQuery;
use http::{Request, StatusCode};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::answer::Refusal;
use crate::body::{Arrival, Decoder, Piece, Upload};
use crate::credentials::Credential;
use crate::ended::Ended;
use crate::head::{Framing, Head};
use crate::headers;
use crate::held::{Budget, Held, Holding};
use crate::host::Host;
use crate::meter::Meter;
use crate::pool::Destination;
use crate::proxy::Egress;
use crate::relay::{self, Relayed};
use crate::sigv4::{self, Scope};
use crate::socket;

/// Read from a client at once.
const READ: usize = 32 * 1024;
/// Pieces of a body that wait for the target to take them.
const AHEAD: usize = 1;
/// How often it is looked whether the client is still there to read the answer.
const LOOK: Duration = Duration::from_secs(1);

/// A request that may be forwarded.
pub(crate) struct Admitted<'a> {
    pub(crate) head: Head,
    pub(crate) path: PathAndQuery,
    pub(crate) to: Destination<'a>,
    /// Port to name in `Host`, where it is not the scheme's own.
    pub(crate) port: Option<u16>,
    pub(crate) credential: Option<&'a Credential>,
    /// For a body that has to be held.
    pub(crate) budget: &'a Arc<Budget>,
}

/// How a request that was answered, at least in part, ended.
pub(crate) enum Forwarded {
    /// With the end of the answer. Whether another request may follow on the connection.
    Whole { status: StatusCode, keep: bool },
    /// In the middle of the answer.
    Cut { status: StatusCode, why: Refusal },
}

/// What is sent to the target: made anew as often as it takes, which is mostly once.
struct Outgoing<'a> {
    head: &'a Head,
    path: PathAndQuery,
    host: &'a Host,
    port: Option<u16>,
    credential: Option<&'a Credential>,
    /// The body's, where it is known.
    length: Option<u64>,
}

impl Outgoing<'_> {
    fn request(&self, upload: Upload) -> Result<Request<Upload>, Refusal> {
        let mut headers = headers::outgoing(&self.head.headers, self.host, self.port)?;
        if self.credential.is_some() {
            headers::strip_credentials(&mut headers);
        }
        headers::frame(&mut headers, self.head.framing, self.length);
        // The last thing done to a request, but for a signature.
        if let Some(Credential::Header(name, secret)) = self.credential {
            headers::inject(&mut headers, name, secret)?;
        }
        let mut request = Request::new(upload);
        *request.method_mut() = self.head.method.clone();
        *request.uri_mut() = self.path.clone().into();
        *request.headers_mut() = headers;
        Ok(request)
    }
}

/// Where the body of a request comes from.
enum Source {
    /// It is here already.
    Whole(Bytes),
    /// It was held until all of it was there.
    Held(Held),
    /// It is still to come from the client.
    Stream,
}

/// Forwards a request and relays the answer. An error means that nothing was answered yet.
pub(crate) async fn forward(
    egress: &Egress,
    client: &UnixStream,
    buffer: &mut BytesMut,
    admitted: Admitted<'_>,
    meter: &Meter,
) -> Result<Forwarded, Refusal> {
    let limits = &egress.limits;
    let Admitted { head, mut path, to, port, credential, budget } = admitted;
    if matches!(head.framing, Framing::Length(length) if length > limits.body) {
        return Err(Refusal::body_too_large());
    }
    let mut decoder = Decoder::new(head.framing);
    let mut must_ask = head.expects_continue && buffer.is_empty();

    // The body, as far as it has to be there for the credential.
    let mut signing = None;
    let source = match credential {
        None | Some(Credential::Header(..)) => first_of(&mut decoder, buffer, head.framing, meter)?,
        Some(Credential::SigV4 { service, region }) => {
            sigv4::refuse_signed(&head, &path, service)?;
            path = sigv4::unambiguous(&path, service)?;
            signing = Some(Scope { service, region });
            // Nothing is asked for that could not be signed anyway.
            egress.signer.chain.for_request().await?;
            if matches!(head.framing, Framing::Length(length) if length > limits.signed_body) {
                return Err(Refusal::signed_body_too_large());
            }
            if std::mem::take(&mut must_ask) {
                ask_for_body(client, limits.idle).await?;
            }
            let length = match head.framing {
                Framing::Length(length) => length,
                Framing::None | Framing::Chunked => 0,
            };
            let held = Holding::new(budget, limits.signed_body, length);
            Source::Held(hold(client, buffer, &mut decoder, held, meter, limits.idle).await?)
        }
    };
    let length = match (&source, head.framing) {
        (_, Framing::None) => None,
        (Source::Held(held), _) => Some(held.length),
        (_, Framing::Length(length)) => Some(length),
        (_, Framing::Chunked) => None,
    };
    let outgoing = Outgoing { head: &head, path, host: to.host, port, credential, length };

    let (arrivals, mut upload) = mpsc::channel(AHEAD);
    let (answered, received) = (OnceLock::new(), AtomicBool::new(decoder.is_over()));
    let exchange = async {
        let mut retried = false;
        let (response, mut lease, poolable, mut refused) = loop {
            let body = match &source {
                Source::Whole(bytes) => Upload::Whole(bytes.clone()),
                Source::Held(held) => held.upload()?,
                Source::Stream => Upload::Stream(std::mem::replace(&mut upload, mpsc::channel(1).1), length),
            };
            let mut request = outgoing.request(body)?;
            let mut signed = None;
            if let (Some(scope), Source::Held(held)) = (signing, &source) {
                let line = (&head.method, &outgoing.path);
                signed = Some(egress.signer.sign(scope, to.host, line, request.headers_mut(), &held.sha256).await?);
            }
            let poolable = headers::poolable(request.headers());
            let lease = egress.pool.acquire(to).await?;
            if must_ask && !retried {
                ask_for_body(client, limits.idle).await?;
            }
            // RFC 9110, 9.2.2: what may be done twice may be sent twice.
            let again = match &source {
                Source::Whole(bytes) if head.method.is_idempotent() => {
                    Some(|| outgoing.request(Upload::Whole(bytes.clone())))
                }
                _ => None,
            };
            let again = again.as_ref().map(|again| again as &(dyn Fn() -> Result<Request<Upload>, Refusal> + Sync));
            let (response, lease) = egress.pool.send(to, lease, request, again).await?;
            let refused = signed.and_then(|with| Some((with, Ended::new(response.status(), response.headers())?)));
            if refused.is_some() && retried {
                // So its clock was not the reason.
                egress.signer.clocks.unlearn(to.host);
            }
            if refused.is_some() && !retried && egress.signer.clocks.learn_from(to.host, response.headers()) {
                retried = true;
                continue;
            }
            break (response, lease, poolable, refused);
        };
        let mut look = |data: &[u8]| {
            if let Some((with, ended)) = &mut refused {
                ended.look(data);
                if ended.was_said() {
                    egress.signer.chain.doubt(with);
                }
            }
        };
        let terms = relay::Terms { head: &head, received: &received, poolable };
        let relayed = relay::relay(client, response, &mut lease, &terms, &mut look, &answered, meter).await?;
        if relayed.reusable {
            egress.pool.put_back(lease);
        }
        Ok(relayed)
    };
    let ended = {
        let mut over = decoder.is_over();
        let receive = receive(client, buffer, &mut decoder, arrivals, &received, meter, limits.body);
        let (mut exchange, mut receive) = (pin!(exchange), pin!(receive));
        loop {
            tokio::select! {
                biased;
                relayed = &mut exchange => break relayed,
                all = &mut receive, if !over => match all {
                    Ok(()) => over = true,
                    Err(why) => break Err(why),
                },
                why = watch(client, meter, limits.idle, &received) => break Err(why),
            }
        }
    };
    match (ended, answered.get()) {
        (Ok(Relayed { keep, .. }), Some(status)) => {
            let keep = keep && received.load(Ordering::Relaxed);
            Ok(Forwarded::Whole { status: *status, keep })
        }
        (Err(why), Some(status)) => Ok(Forwarded::Cut { status: *status, why }),
        (Err(why), None) => Err(why),
        (Ok(_), None) => Err(Refusal::internal("relay")),
    }
}

/// What of the body is here: all of it, if it is short and came with the head.
fn first_of(decoder: &mut Decoder, buffer: &mut BytesMut, framing: Framing, meter: &Meter) -> Result<Source, Refusal> {
    match framing {
        Framing::None | Framing::Length(0) => Ok(Source::Whole(Bytes::new())),
        Framing::Length(length) if buffer.len() as u64 >= length => match decoder.next(buffer)? {
            Piece::Data(bytes) => {
                meter.count_up(bytes.len());
                Ok(Source::Whole(bytes))
            }
            Piece::More | Piece::End => Ok(Source::Stream),
        },
        Framing::Length(_) | Framing::Chunked => Ok(Source::Stream),
    }
}

/// RFC 9110, 10.1.1. The proxy answers for itself, when it is ready to take the body.
async fn ask_for_body(client: &UnixStream, patience: Duration) -> Result<(), Refusal> {
    let asked = socket::write(client, &[b"HTTP/1.1 100 Continue\r\n\r\n"]);
    match tokio::time::timeout(patience, asked).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Refusal::client_gone()),
    }
}

/// Reads a whole body, and holds it.
async fn hold(
    client: &UnixStream,
    buffer: &mut BytesMut,
    decoder: &mut Decoder,
    mut holding: Holding,
    meter: &Meter,
    idle: Duration,
) -> Result<Held, Refusal> {
    let whole = async {
        loop {
            match decoder.next(buffer)? {
                Piece::Data(data) => {
                    meter.count_up(data.len());
                    holding.add(&data)?;
                }
                Piece::More => match holding.room(decoder.plain()) {
                    // Straight to where it stays.
                    Some(mut room) => {
                        let read = socket::read_into(client, &mut room).await;
                        let read = read.ok().filter(|read| *read > 0).ok_or_else(Refusal::client_gone)?;
                        decoder.pass(read);
                        meter.count_up(read);
                        holding.read(read)?;
                    }
                    None => more(client, buffer).await?,
                },
                Piece::End => return Ok::<_, Refusal>(()),
            }
        }
    };
    // All of it within one limit, however it trickles: what is held is taken from others.
    tokio::time::timeout(idle, whole).await.unwrap_or(Err(Refusal::body_timeout()))?;
    Ok(holding.finish())
}

/// Reads a body and passes it on as it comes; `received` says that all of it was read, as the target may answer before all
/// of it was passed on.
async fn receive(
    client: &UnixStream,
    buffer: &mut BytesMut,
    decoder: &mut Decoder,
    arrivals: mpsc::Sender<Arrival>,
    received: &AtomicBool,
    meter: &Meter,
    most: u64,
) -> Result<(), Refusal> {
    let mut total = 0;
    loop {
        let arrival = match decoder.next(buffer)? {
            Piece::Data(data) => {
                total += data.len() as u64;
                if total > most {
                    return Err(Refusal::body_too_large());
                }
                meter.count_up(data.len());
                Arrival::Data(data)
            }
            Piece::More => {
                more(client, buffer).await?;
                continue;
            }
            Piece::End => Arrival::End,
        };
        let over = matches!(arrival, Arrival::End);
        received.store(decoder.is_over(), Ordering::Relaxed);
        if arrivals.send(arrival).await.is_err() {
            // Who counts bytes needs no word of the end.
            if decoder.is_over() {
                return Ok(());
            }
            // The target takes no more of it. What it says instead is the exchange's to tell.
            return std::future::pending().await;
        }
        if over {
            return Ok(());
        }
    }
}

async fn more(client: &UnixStream, buffer: &mut BytesMut) -> Result<(), Refusal> {
    match socket::read(client, buffer, READ).await {
        Ok(0) | Err(_) => Err(Refusal::client_gone()),
        Ok(_) => Ok(()),
    }
}

/// Ends when nothing has moved for too long, or nobody is left to read the answer.
async fn watch(client: &UnixStream, meter: &Meter, idle: Duration, received: &AtomicBool) -> Refusal {
    while let Some(left) = meter.left(idle) {
        tokio::time::sleep(left.min(LOOK)).await;
        if socket::is_gone(client) {
            return Refusal::client_gone();
        }
    }
    if received.load(Ordering::Relaxed) { Refusal::timeout("response_timeout") } else { Refusal::body_timeout() }
}
