//! Raw bytes to a proxy's Unix socket, for requests that no HTTP client would send.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::harness::pace::within;

/// How long an exchange may take.
const LIMIT: Duration = Duration::from_secs(15);

/// The response up to the end of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The whole text, with replacement characters for invalid UTF-8.
    pub text: String,
}

impl Answer {
    /// The status of the first response, if there is one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.text.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
    }

    /// The number of responses.
    #[must_use]
    pub fn answers(&self) -> usize {
        self.text.matches("HTTP/1.1 ").count()
    }

    /// Whether the head of the first response has this line, in any case.
    #[must_use]
    pub fn has_line(&self, line: &str) -> bool {
        let head = self.text.split("\r\n\r\n").next().unwrap_or_default();
        head.lines().any(|given| given.eq_ignore_ascii_case(line))
    }
}

/// Sends `bytes` and reads until the connection ends.
///
/// # Errors
/// What went wrong, as a text: no connection, no end in time.
pub async fn talk(proxy: &Path, bytes: &[u8]) -> Result<Answer, String> {
    talk_in_pieces(proxy, &[bytes]).await
}

/// As [`talk`], sending each piece separately.
///
/// # Errors
/// As [`talk`].
pub async fn talk_in_pieces(proxy: &Path, pieces: &[&[u8]]) -> Result<Answer, String> {
    let mut received = Vec::new();
    let exchange = async {
        let stream = UnixStream::connect(proxy).await.map_err(|error| format!("connect: {error}"))?;
        let (mut from, mut to) = stream.into_split();
        // A server that refuses early may not read the rest, which is no error.
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
            // Closing a connection with unread data resets it.
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => Err(format!("reading: {error}")),
            _ => Ok(()),
        }
    };
    let ended = within(LIMIT, exchange).await;
    let text = String::from_utf8_lossy(&received).into_owned();
    match ended {
        Ok(Ok(())) => Ok(Answer { text }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(format!("did not end within {LIMIT:?}; received so far: {text:?}")),
    }
}
