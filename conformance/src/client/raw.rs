//! Bytes on a proxy's Unix socket, and what comes back: for requests that no client would send.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// How long an exchange may take.
const LIMIT: Duration = Duration::from_secs(15);

/// What came back, to the end of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// All of it; what is no UTF-8 is replaced.
    pub text: String,
}

impl Answer {
    /// The status of the first answer; none where what came back is no answer.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.text.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
    }

    /// How many answers there are.
    #[must_use]
    pub fn answers(&self) -> usize {
        self.text.matches("HTTP/1.1 ").count()
    }

    /// Whether the first answer has this line in its head, in whatever case.
    #[must_use]
    pub fn has_line(&self, line: &str) -> bool {
        let head = self.text.split("\r\n\r\n").next().unwrap_or_default();
        head.lines().any(|given| given.eq_ignore_ascii_case(line))
    }
}

/// Sends `bytes` and reads to the end.
///
/// # Errors
/// What went wrong, as a text: no connection, no end in time.
pub async fn talk(proxy: &Path, bytes: &[u8]) -> Result<Answer, String> {
    talk_in_pieces(proxy, &[bytes]).await
}

/// The same, where each piece is sent by itself.
///
/// # Errors
/// As [`talk`].
pub async fn talk_in_pieces(proxy: &Path, pieces: &[&[u8]]) -> Result<Answer, String> {
    let mut received = Vec::new();
    let exchange = async {
        let stream = UnixStream::connect(proxy).await.map_err(|error| format!("connect: {error}"))?;
        let (mut from, mut to) = stream.into_split();
        // One that is refused early may not read the rest: that is no error of the exchange.
        let send = async {
            for piece in pieces {
                if to.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        };
        let ((), read) = tokio::join!(send, from.read_to_end(&mut received));
        match read {
            // What was not read when the connection was closed makes a reset of it.
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => Err(format!("reading: {error}")),
            _ => Ok(()),
        }
    };
    let ended = tokio::time::timeout(LIMIT, exchange).await;
    let text = String::from_utf8_lossy(&received).into_owned();
    match ended {
        Ok(Ok(())) => Ok(Answer { text }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(format!("no end after {LIMIT:?}; until then: {text:?}")),
    }
}
