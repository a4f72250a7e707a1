//! Requests of the server's own user, or root, on `agent.sock`: each is passed on to the agent. Operators look into a room so, for
//! example with `curl --unix-socket …/agent.sock http://localhost/health`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nagaya_protocol::AgentFault;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::link::{Shared, addressed};
use super::{AgentError, Body};

/// How long a visitor may take to send a request's head.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// How long the agent may take to begin its response. Cancelling an execution takes longest.
const RESPONSE_DEADLINE: Duration = Duration::from_secs(30);

/// Serves one connection until it ends or `stop` is cancelled.
pub(super) async fn serve(stream: UnixStream, agent: Arc<Shared>, stop: &CancellationToken) {
    let service = service_fn(move |request| {
        let agent = agent.clone();
        async move { Ok::<_, Infallible>(pass_on(&agent, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .serve_connection(TokioIo::new(stream), service);
    if let Some(Err(error)) = stop.run_until_cancelled(connection).await {
        tracing::debug!(%error, "the connection of a visitor ended");
    }
}

async fn pass_on(agent: &Shared, request: Request<Incoming>) -> Response<Body> {
    let mut request = addressed(request.map(|body| body.map_err(std::io::Error::other).boxed_unsync()));
    strip(request.headers_mut());
    match tokio::time::timeout(RESPONSE_DEADLINE, agent.send(request)).await {
        Ok(Ok(mut response)) => {
            strip(response.headers_mut());
            response.map(|body| body.map_err(std::io::Error::other).boxed_unsync())
        }
        Ok(Err(error)) => fault(StatusCode::BAD_GATEWAY, &error),
        Err(_) => fault(StatusCode::GATEWAY_TIMEOUT, &AgentError::Timeout(RESPONSE_DEADLINE)),
    }
}

/// Removes the headers that concern one connection (RFC 9110 section 7.6.1).
fn strip(headers: &mut HeaderMap) {
    for name in [
        header::CONNECTION,
        header::HOST,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::EXPECT,
        header::HeaderName::from_static("keep-alive"),
        header::HeaderName::from_static("proxy-connection"),
    ] {
        headers.remove(name);
    }
}

fn fault(status: StatusCode, error: &AgentError) -> Response<UnsyncBoxBody<Bytes, std::io::Error>> {
    let body = serde_json::to_vec(&AgentFault { error: error.to_string() }).unwrap_or_default();
    let mut response = Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
