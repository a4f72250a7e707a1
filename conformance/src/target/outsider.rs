//! A target host in the suite's own process: it records every byte it receives and sends a fixed response.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check};
use crate::harness::poll::eventually;

/// A response that ends with its connection.
pub const PLAIN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
/// How long sent bytes may take to arrive.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(10);

/// A target that listens on the loopback interface until the scenario ends.
#[derive(Debug, Clone)]
pub struct Outsider {
    /// Its address.
    pub address: String,
    seen: Arc<Mutex<Vec<u8>>>,
    connections: Arc<AtomicUsize>,
}

impl Outsider {
    /// Everything it received, over all connections.
    #[must_use]
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock()).into_owned()
    }

    /// The number of connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Waits until it has received this text.
    ///
    /// # Errors
    /// It has not, in time.
    pub async fn has_seen(&self, text: &str) -> Result<(), Failure> {
        eventually(ARRIVAL_LIMIT, format!("{text:?} to arrive"), async || {
            let seen = self.seen();
            check(seen.contains(text), format!("{seen:?}"))
        })
        .await
    }
}

impl Context {
    /// Listens, and responds to the end of a request head: to every head if the response keeps the connection, else to the first. With
    /// an empty response it only listens.
    ///
    /// # Errors
    /// No port is free.
    pub async fn outsider(&self, answer: impl Into<Vec<u8>>) -> Result<Outsider, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let outsider =
            Outsider { address: listener.local_addr()?.to_string(), seen: Arc::default(), connections: Arc::default() };
        let (answer, stop) = (Arc::new(answer.into()), CancellationToken::new());
        let (of, stopped) = (outsider.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            let accept = async {
                loop {
                    // Ignores a client that disconnects before it is accepted.
                    if let Ok((stream, _)) = listener.accept().await {
                        of.connections.fetch_add(1, Ordering::SeqCst);
                        connections.spawn(serve(stream, of.seen.clone(), answer.clone()));
                    }
                }
            };
            stopped.run_until_cancelled(accept).await;
            connections.shutdown().await;
        });
        self.resources.add(format!("origin at {}", outsider.address), move || async move {
            stop.cancel();
            task.await.map_err(Failure::harness)
        });
        Ok(outsider)
    }
}

async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Vec<u8>>>, answer: Arc<Vec<u8>>) {
    let (mut head, mut buffer, mut answered) = (Vec::new(), [0; 8192], false);
    // A client retries on a new connection if a kept connection is closed.
    let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    let keeps = text.contains("content-length:") && !text.contains("connection: close");
    // What a connection carried counts, however it ends.
    while let Ok(size) = stream.read(&mut buffer).await {
        if size == 0 {
            return;
        }
        seen.lock().extend_from_slice(&buffer[..size]);
        head.extend_from_slice(&buffer[..size]);
        let is_whole = head.windows(4).any(|window| window == b"\r\n\r\n");
        if is_whole && !answer.is_empty() && (keeps || !answered) {
            answered = true;
            head.clear();
            if stream.write_all(&answer).await.is_err() || (!keeps && stream.shutdown().await.is_err()) {
                return;
            }
        }
    }
}
