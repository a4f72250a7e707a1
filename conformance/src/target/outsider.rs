//! A server of the outside world in the suite's own process: it keeps every byte that it is sent, and answers what it was told to.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::failure::{Failure, check};
use crate::poll::eventually;

/// An answer that ends with its connection.
pub const PLAIN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
/// How long what was sent may take to be here.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(10);

/// One that listens on the loopback interface, as long as the scenario goes on.
#[derive(Debug, Clone)]
pub struct Outsider {
    /// Where.
    pub address: String,
    seen: Arc<Mutex<Vec<u8>>>,
    connections: Arc<AtomicUsize>,
}

impl Outsider {
    /// Everything it was sent, over all connections.
    #[must_use]
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// How often somebody connected.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Waits until it was sent this text.
    ///
    /// # Errors
    /// It was not, in time.
    pub async fn has_seen(&self, text: &str) -> Result<(), Failure> {
        eventually(ARRIVAL_LIMIT, format!("{text:?} to arrive"), async || {
            let seen = self.seen();
            check(seen.contains(text), format!("{seen:?}"))
        })
        .await
    }
}

impl Context {
    /// Listens, and answers once the end of a head has come: every one where the answer keeps the connection, else the first. With
    /// nothing, it only listens.
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
                    // A client that is gone before it was accepted is no concern of it.
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
    // One that said that it keeps its connection, and ended it, would be asked the same once more on another.
    let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    let keeps = text.contains("content-length:") && !text.contains("connection: close");
    // However a connection ends, what came over it counts.
    while let Ok(size) = stream.read(&mut buffer).await {
        if size == 0 {
            return;
        }
        seen.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..size]);
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
