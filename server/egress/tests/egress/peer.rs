//! A target that answers with given bytes and records the bytes it receives; and a name server.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use nagaya_fixtures::listen::Listening;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::support::{any, eventually};

/// A target that answers every request with the same bytes, once it has the request's head.
pub(crate) struct Peer {
    listening: Listening,
    seen: Arc<Mutex<Vec<u8>>>,
    connections: Arc<AtomicUsize>,
}

impl Peer {
    /// Starts a target that sends `answer` for each head, or never answers if that is empty.
    pub(crate) async fn answering(answer: &'static str) -> Self {
        let (seen, connections) = (Arc::<Mutex<Vec<u8>>>::default(), Arc::<AtomicUsize>::default());
        let (keeps, counts) = (seen.clone(), connections.clone());
        let listening = Listening::start(any(), move |mut stream| {
            let keeps = keeps.clone();
            counts.fetch_add(1, Ordering::Relaxed);
            async move {
                let (mut head, mut chunk) = (Vec::new(), [0; 4096]);
                while let Ok(read @ 1..) = stream.read(&mut chunk).await {
                    keeps.lock().expect("a lock").extend_from_slice(&chunk[..read]);
                    head.extend_from_slice(&chunk[..read]);
                    while let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
                        head.drain(..end + 4);
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            }
        });
        Self { listening: listening.await.expect("listens"), seen, connections }
    }

    /// Starts a target that answers every request with success.
    pub(crate) async fn content() -> Self {
        Self::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.listening.addr()
    }

    /// All bytes received so far, over all connections.
    pub(crate) fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().expect("a lock")).into_owned()
    }

    /// Waits until `wanted` is among the bytes received, and returns all of them.
    pub(crate) async fn has_seen(&self, wanted: &str) -> String {
        eventually(wanted, || self.seen().contains(wanted)).await;
        self.seen()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// A name server that answers each query for an IPv4 address with the next of its answers, whatever the name.
pub(crate) struct NameServer {
    addr: SocketAddr,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl NameServer {
    pub(crate) async fn start(answers: Vec<Vec<Ipv4Addr>>) -> Self {
        let socket = UdpSocket::bind(any()).await.expect("binds");
        let (addr, asked) = (socket.local_addr().expect("an address"), Arc::<AtomicUsize>::default());
        let counts = asked.clone();
        let task = tokio::spawn(async move {
            let mut question = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut question).await {
                let question = &question[..length];
                // Type A is 1: the last two bytes but two of the first question (RFC 1035, 4.1.2).
                let name = question[12..].iter().position(|byte| *byte == 0).map_or(length, |end| 12 + end + 1);
                let addresses = if question[name..name + 2] == [0, 1] {
                    let turn = counts.fetch_add(1, Ordering::Relaxed);
                    answers[turn.min(answers.len() - 1)].clone()
                } else {
                    Vec::new()
                };
                let _ = socket.send_to(&answer(question, name, &addresses), from).await;
            }
        });
        Self { addr, asked, task }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Number of queries for an IPv4 address.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// RFC 1035, 4: the question comes back, and each address with no time to live.
fn answer(question: &[u8], name: usize, addresses: &[Ipv4Addr]) -> Vec<u8> {
    let count = u8::try_from(addresses.len()).expect("few");
    let mut answer = question[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0]);
    answer.extend(&question[12..name + 4]);
    for address in addresses {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}
