//! Requests that a program in a workspace sends to the proxy, byte by byte.

use serde::Deserialize;

use crate::harness::engine::Room;
use crate::harness::failure::{Failure, check_eq};
use crate::scenarios::common::outside::HOST;

const ASK: &str = include_str!("programs/ask.py");

/// A response as the program received it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Received {
    /// Status line and headers.
    pub(crate) head: String,
    /// As much of the body as arrived.
    pub(crate) body: String,
    /// Whether the response was complete when its connection ended.
    pub(crate) whole: bool,
}

impl Received {
    /// The status; none if no response arrived.
    pub(crate) fn status(&self) -> Option<u16> {
        self.head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
    }
}

/// Path of the proxy's socket in a workspace.
pub(crate) fn proxy(room: &Room) -> String {
    format!("{}/proxy.sock", room.sockets())
}

/// A shell line that asks for a host off the allow-list through the bridge, and prints the status.
pub(crate) fn refused_by_proxy(room: &Room) -> String {
    format!("curl -sS -o /dev/null -w '%{{http_code}}' -x {} http://nowhere.invalid/", room.containers().proxy())
}

/// A GET of this path at [`HOST`].
pub(crate) fn get(path: &str) -> String {
    get_at(HOST, path)
}

/// A GET of this path at a host.
pub(crate) fn get_at(host: &str, path: &str) -> String {
    format!("GET http://{host}{path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// Sends each list of requests over a connection of its own, and all that `times` times; `{n}` in a request is the repetition's number.
/// Returns the responses in order.
pub(crate) async fn ask(room: &Room, times: usize, connections: &[Vec<String>]) -> Result<Vec<Received>, Failure> {
    let connections = serde_json::to_string(connections).map_err(Failure::harness)?;
    let done = room.exec(["python3", "-c", ASK, &proxy(room), &times.to_string(), &connections]).await?;
    check_eq(format!("status of a program that asks the proxy and printed {:?}", done.printed), done.status, 0)?;
    serde_json::from_str(&done.printed).map_err(|error| Failure::mismatch(error, "responses", done.printed))
}

/// As [`ask`], for one request on one connection.
pub(crate) async fn ask_once(room: &Room, request: String) -> Result<Received, Failure> {
    let mut answers = ask(room, 1, &[vec![request]]).await?;
    answers.pop().ok_or_else(|| Failure::harness("a program printed no response"))
}
