//! New connections to targets, made under a deadline.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::answer::Refusal;
use crate::host::Host;
use crate::upstream::{Connection, Destination, Dialled, Key, Lease, Wire};

/// How long an address is tried alone before the next one is tried in parallel (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);
/// Maximum number of addresses of one host that are tried.
const MOST_ADDRESSES: usize = 8;

/// Connects to targets for all listeners of a proxy.
pub(crate) struct Dialer {
    tls: TlsConnector,
    deadline: Duration,
}

impl Dialer {
    /// A connection has `deadline` to be established, and TLS on it as long again.
    pub(crate) fn new(tls: ClientConfig, deadline: Duration) -> Self {
        Self { tls: TlsConnector::from(Arc::new(tls)), deadline }
    }

    /// Connects to the first of `addresses` that answers.
    pub(crate) async fn dial(&self, addresses: &[SocketAddr]) -> Result<TcpStream, Refusal> {
        match tokio::time::timeout(self.deadline, connect(addresses)).await {
            Ok(connected) => connected.map_err(|error| not_connected(&error)),
            Err(_) => Err(Refusal::timeout("connect_timeout")),
        }
    }

    /// Begins HTTP on a new connection to `to`.
    pub(crate) async fn begin(&self, to: Destination<'_>, dialled: Dialled) -> Result<Lease, Refusal> {
        let address = dialled.stream.peer_addr().map_err(|error| not_connected(&error))?;
        let wire = Wire::new(dialled);
        let connection =
            if to.tls { self.secure(to.host, wire).await? } else { Connection::begin(wire.clone(), wire).await? };
        Ok(Lease { key: Key::new(to, address), connection, reused: false })
    }

    async fn secure(&self, host: &Host, wire: Wire) -> Result<Connection, Refusal> {
        let name = match host {
            Host::Name(name) => {
                ServerName::try_from(name.clone()).map_err(|_| Refusal::malformed("no TLS server name"))?
            }
            Host::Address(address) => ServerName::from(*address),
        };
        match tokio::time::timeout(self.deadline, self.tls.connect(name, wire.clone())).await {
            Ok(Ok(stream)) => Connection::begin(stream, wire).await,
            Ok(Err(error)) => {
                tracing::warn!(%host, %error, "TLS handshake with a target failed");
                let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
                Err(match inner {
                    Some(rustls::Error::InvalidCertificate(_)) => {
                        Refusal::failed("tls_certificate", "the target's certificate is not trusted")
                    }
                    _ => Refusal::failed("tls", "the TLS handshake with the target failed"),
                })
            }
            Err(_) => Err(Refusal::timeout("tls_timeout")),
        }
    }
}

async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut rest = addresses.iter().take(MOST_ADDRESSES);
    let mut attempts = FuturesUnordered::new();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        match rest.next() {
            Some(address) => attempts.push(TcpStream::connect(address)),
            None if attempts.is_empty() => return Err(last),
            None => {}
        }
        tokio::select! {
            Some(attempt) = attempts.next() => match attempt {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            },
            () = tokio::time::sleep(STAGGER), if rest.len() > 0 => {}
        }
    }
}

fn not_connected(error: &io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Refusal::failed("refused", "the target refused the connection"),
        io::ErrorKind::ConnectionReset => Refusal::failed("reset", "the target reset the connection"),
        _ => Refusal::failed("unreachable", "the target cannot be reached"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn addresses() -> (TcpListener, SocketAddr, SocketAddr) {
        let open = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let closed = TcpListener::bind("127.0.0.1:0").await.expect("binds").local_addr().expect("an address");
        let address = open.local_addr().expect("an address");
        (open, address, closed)
    }

    #[tokio::test]
    async fn the_next_address_is_tried_where_one_fails_and_so_many_are() {
        let (_open, open, closed) = addresses().await;
        for before in 0..=MOST_ADDRESSES {
            let mut tried = vec![closed; before];
            tried.push(open);
            let connected = connect(&tried).await;
            assert_eq!(connected.is_ok(), before < MOST_ADDRESSES, "{before} before it: {connected:?}");
            if let Ok(stream) = connected {
                assert_eq!(stream.peer_addr().expect("an address"), open);
                assert!(stream.nodelay().expect("an option"));
            }
        }
        let why = |error: io::Error| not_connected(&error).decision.reason();
        assert_eq!(why(connect(&[closed]).await.expect_err("nobody listens")), Some("refused"));
        assert_eq!(why(connect(&[]).await.expect_err("nowhere to go")), Some("unreachable"));
        assert_eq!(why(io::ErrorKind::ConnectionReset.into()), Some("reset"));
    }
}
