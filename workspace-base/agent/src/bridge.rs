//! The loopback bridge: forwards TCP connections on 127.0.0.1 to `proxy.sock`, for programs that take a proxy only as an address.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a connection waits for the proxy's socket to accept.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two attempts to connect or accept.
const PAUSE: Duration = Duration::from_millis(50);
/// Size of the copy buffer for each direction of a connection, in bytes.
const BUFFER: usize = 64 * 1024;

/// A bridge that listens on its loopback address.
#[derive(Debug)]
pub(crate) struct Bridge {
    listener: TcpListener,
    proxy: Arc<PathBuf>,
}

impl Bridge {
    pub(crate) async fn bind(addr: SocketAddr, proxy: PathBuf) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(addr).await?, proxy: Arc::new(proxy) })
    }

    #[cfg(test)]
    fn addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Forwards connections until `stop` is cancelled.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let connections = TaskTracker::new();
        while let Some(accepted) = stop.run_until_cancelled(self.listener.accept()).await {
            match accepted {
                Ok((client, _)) => {
                    let (proxy, stop) = (self.proxy.clone(), stop.clone());
                    connections.spawn(async move {
                        if let Some(Err(error)) = stop.run_until_cancelled(carry(client, &proxy)).await {
                            tracing::debug!(%error, "a connection to the proxy ended");
                        }
                    });
                }
                Err(error) => {
                    // Most likely the room has no file descriptors left; accepting works again once one is closed.
                    tracing::warn!(%error, "connection not accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        connections.close();
        connections.wait().await;
    }
}

async fn carry(mut client: TcpStream, proxy: &PathBuf) -> io::Result<()> {
    client.set_nodelay(true)?;
    let began = Instant::now();
    let mut server = loop {
        match UnixStream::connect(proxy).await {
            Ok(server) => break server,
            Err(error) if began.elapsed() > PATIENCE => return Err(error),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    };
    copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn a_connection_waits_for_a_late_proxy_and_keeps_its_half_close() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("proxy.sock");
        let bridge = Bridge::bind("127.0.0.1:0".parse().expect("an address"), path.clone()).await.expect("binds");
        let addr = bridge.addr().expect("an address");
        let stop = CancellationToken::new();
        let running = tokio::spawn(bridge.run(stop.clone()));

        let mut client = TcpStream::connect(addr).await.expect("connects");
        client.write_all(b"early bytes").await.expect("writes");
        client.shutdown().await.expect("closes its half");
        // The proxy starts only now.
        let listener = UnixListener::bind(&path).expect("binds");
        let (mut server, _) = listener.accept().await.expect("accepts");
        let mut received = Vec::new();
        server.read_to_end(&mut received).await.expect("reads to the half-close");
        assert_eq!(received, b"early bytes");
        server.write_all(b"answer").await.expect("writes");
        drop(server);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("reads");
        assert_eq!(answer, b"answer");
        stop.cancel();
        running.await.expect("ends");
    }
}
