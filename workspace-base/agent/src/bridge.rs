//! The loopback bridge: TCP on 127.0.0.1, for programs that know proxies only by address, to `proxy.sock`.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a connection waits for a proxy that comes up late.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes held per direction of a connection.
const BUFFER: usize = 64 * 1024;

/// A bound bridge.
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

    /// Carries connections until told to stop.
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
                    // The room has used up its descriptors: its own doing, and over when something closes.
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
    async fn a_late_proxy_is_waited_for_and_half_close_is_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("proxy.sock");
        let bridge = Bridge::bind("127.0.0.1:0".parse().expect("an address"), path.clone()).await.expect("binds");
        let addr = bridge.addr().expect("an address");
        let stop = CancellationToken::new();
        let running = tokio::spawn(bridge.run(stop.clone()));

        let mut client = TcpStream::connect(addr).await.expect("connects");
        client.write_all(b"early bytes").await.expect("writes");
        client.shutdown().await.expect("closes its half");
        // Only now does the proxy come up.
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
