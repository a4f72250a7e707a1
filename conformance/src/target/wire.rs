//! How a relay forwards bytes: unchanged, or as a broken deployment might.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::far_side::{Duplex, To};
use super::memory::Memory;
use super::tamper::{self, Tamper};

/// How a relay forwards bytes.
#[derive(Debug, Clone)]
pub enum Wire {
    /// Bytes are forwarded unchanged.
    Plain,
    /// HTTP/1.1 with a defect.
    Http(Tamper, Memory),
    /// Bytes are forwarded unchanged; after the far side's last byte, this is added.
    Trailing(&'static [u8]),
    /// Bytes are forwarded, except this many of the far side's first ones.
    Swallowing(usize),
    /// The far side's bytes are forwarded only once it has sent all of them.
    Holding,
    /// Bytes are forwarded unchanged; after the near side's last byte, zeros follow until the far side closes.
    Padding,
    /// Where the near side sends the first text in one piece, the far side receives the second.
    Replacing(&'static str, &'static str),
    /// Bytes are forwarded unchanged; those of the near side with this text wait until the token is cancelled.
    Waiting(&'static str, CancellationToken),
    /// Bytes are forwarded, except this many of the far side's last ones.
    Losing(usize),
    /// After the far side's last byte, the near side's connection stays open.
    Keeping,
    /// Requests of all near sides share the connections to the far side, as a careless pool does: each uses one that is free. Bodies
    /// are delimited by Content-Length.
    Sharing,
}

impl Wire {
    /// Forwards between one near side and the far side; `free` are connections to the far side that no near side uses.
    pub(super) async fn relay(self, client: Box<dyn Duplex>, to: &To, free: &Free) -> io::Result<()> {
        match self {
            Self::Sharing => sharing(client, to, free).await,
            other => other.join(client, to.connect().await?).await,
        }
    }

    async fn join(self, mut client: Box<dyn Duplex>, mut server: Box<dyn Duplex>) -> io::Result<()> {
        match self {
            Self::Plain | Self::Sharing => tokio::io::copy_bidirectional(&mut client, &mut server).await.map(|_| ()),
            Self::Http(tamper, memory) => tamper::http(client, server, tamper, memory).await,
            Self::Trailing(bytes) => one_way(client, server, 0, bytes).await,
            Self::Swallowing(count) => one_way(client, server, count, b"").await,
            Self::Holding => holding(client, server).await,
            Self::Losing(count) => losing(client, server, count).await,
            Self::Keeping => keeping(client, server).await,
            Self::Padding => padding(client, server).await,
            Self::Replacing(text, with) => replacing(client, server, text, with).await,
            Self::Waiting(text, until) => waiting(client, server, text, until).await,
        }
    }
}

/// Copies both ways, without the far side's first `swallowed` bytes, and with `trailing` after its last.
async fn one_way(
    client: Box<dyn Duplex>,
    server: Box<dyn Duplex>,
    swallowed: usize,
    trailing: &[u8],
) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let up = async {
        tokio::io::copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    let down = async {
        let mut left = swallowed;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = from_server.read(&mut buffer).await?;
            if read == 0 {
                break;
            }
            let skipped = left.min(read);
            left -= skipped;
            to_client.write_all(&buffer[skipped..read]).await?;
        }
        to_client.write_all(trailing).await?;
        to_client.shutdown().await
    };
    tokio::try_join!(up, down).map(|_| ())
}

/// Copies both ways, the far side's bytes all at once.
async fn holding(client: Box<dyn Duplex>, server: Box<dyn Duplex>) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let up = async {
        tokio::io::copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    let down = async {
        let mut all = Vec::new();
        from_server.read_to_end(&mut all).await?;
        to_client.write_all(&all).await?;
        to_client.shutdown().await
    };
    tokio::try_join!(up, down).map(|_| ())
}

/// Copies both ways, without the far side's last `count` bytes.
async fn losing(client: Box<dyn Duplex>, server: Box<dyn Duplex>, count: usize) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let up = async {
        tokio::io::copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    let down = async {
        let (mut held, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
        loop {
            let read = from_server.read(&mut buffer).await?;
            if read == 0 {
                return to_client.shutdown().await;
            }
            held.extend_from_slice(&buffer[..read]);
            let passed: Vec<u8> = held.drain(..held.len().saturating_sub(count)).collect();
            to_client.write_all(&passed).await?;
        }
    };
    // The near side may keep its direction open.
    tokio::select! {
        ended = down => ended,
        Err(error) = up => Err(error),
    }
}

/// Copies both ways; of the far side's end, the near side learns nothing.
async fn keeping(client: Box<dyn Duplex>, server: Box<dyn Duplex>) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let up = async {
        // A far side that reads no more is no end for the near side.
        if tokio::io::copy(&mut from_client, &mut to_server).await.is_err() {
            tokio::io::copy(&mut from_client, &mut tokio::io::sink()).await?;
        }
        to_server.shutdown().await
    };
    let down = async {
        // The far side may end by a reset.
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = up => ended,
        () = down => Ok(()),
    }
}

/// Connections to a relay's far side that no near side uses.
pub(super) type Free = parking_lot::Mutex<Vec<Box<dyn Duplex>>>;

/// Sends each request on a connection that is free, and keeps the connection for any other.
async fn sharing(mut client: Box<dyn Duplex>, to: &To, free: &Free) -> io::Result<()> {
    while let Some(request) = message(&mut client).await? {
        let kept = free.lock().pop();
        let mut far = match kept {
            Some(far) => far,
            None => to.connect().await?,
        };
        far.write_all(&request).await?;
        let Some(answer) = message(&mut far).await? else { break };
        client.write_all(&answer).await?;
        free.lock().push(far);
    }
    client.shutdown().await
}

/// Reads a head, and a body as long as its Content-Length says, and no byte more. None at the end of the stream.
async fn message(from: &mut Box<dyn Duplex>) -> io::Result<Option<Vec<u8>>> {
    let mut message = Vec::new();
    while !message.ends_with(b"\r\n\r\n") {
        match from.read_u8().await {
            Ok(byte) => message.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    let head = String::from_utf8_lossy(&message).to_ascii_lowercase();
    let length = head.split("content-length:").nth(1).and_then(|rest| rest.lines().next()?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    from.read_exact(&mut body).await?;
    message.extend_from_slice(&body);
    Ok(Some(message))
}

/// Copies both ways, and continues for a near side that has ended.
async fn padding(client: Box<dyn Duplex>, server: Box<dyn Duplex>) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let up = async {
        // It may read no more; what it sends is still forwarded.
        let copied = tokio::io::copy(&mut from_client, &mut to_server).await;
        while copied.is_ok() && to_server.write_all(&[0; 1 << 12]).await.is_ok() {}
        std::future::pending::<()>().await;
    };
    let down = async {
        tokio::io::copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::select! {
        ended = down => ended,
        () = up => Ok(()),
    }
}

/// Copies both ways, replacing `text` by `with` in the near side's bytes.
async fn replacing(client: Box<dyn Duplex>, server: Box<dyn Duplex>, text: &str, with: &str) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let up = async {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = from_client.read(&mut buffer).await?;
            if read == 0 {
                return to_server.shutdown().await;
            }
            // Only text is changed; anything else is forwarded as it is.
            match std::str::from_utf8(&buffer[..read]) {
                Ok(said) => to_server.write_all(said.replace(text, with).as_bytes()).await?,
                Err(_) => to_server.write_all(&buffer[..read]).await?,
            }
        }
    };
    let down = async {
        tokio::io::copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::try_join!(up, down).map(|_| ())
}

/// Copies both ways; bytes of the near side with `text` wait for the token.
async fn waiting(
    client: Box<dyn Duplex>,
    server: Box<dyn Duplex>,
    text: &str,
    until: CancellationToken,
) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let up = async {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = from_client.read(&mut buffer).await?;
            if read == 0 {
                return to_server.shutdown().await;
            }
            if buffer[..read].windows(text.len()).any(|window| window == text.as_bytes()) {
                until.cancelled().await;
            }
            to_server.write_all(&buffer[..read]).await?;
        }
    };
    let down = async {
        tokio::io::copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::try_join!(up, down).map(|_| ())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncRead, AsyncWrite};

    use super::*;
    use crate::target::tamper::{Answer, event_text};

    /// Sends the same response to every connection, and closes it.
    fn answering(answer: &'static str) -> Box<dyn Duplex> {
        let (near, far) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(far);
            let mut head = vec![0; 1 << 16];
            let _ = read.read(&mut head).await;
            let _ = write.write_all(answer.replace('\n', "\r\n").replace('|', "\n").as_bytes()).await;
            let _ = write.shutdown().await;
        });
        Box::new(near)
    }

    async fn read_all(mut from: impl AsyncRead + AsyncWrite + Unpin) -> String {
        let mut text = Vec::new();
        // These exchanges end when the far side closes.
        let _ = from.read_to_end(&mut text).await;
        String::from_utf8_lossy(&text).into_owned()
    }

    async fn ask(answer: &'static str, wire: Wire) -> String {
        let (near, far) = tokio::io::duplex(1 << 16);
        let joined = tokio::spawn(wire.join(Box::new(far), answering(answer)));
        let (read, mut write) = tokio::io::split(near);
        write.write_all(b"GET /x?a=1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.expect("asked");
        let text = read_all(tokio::io::join(read, write)).await;
        let _ = joined.await.expect("joined");
        text
    }

    #[tokio::test]
    async fn answers_are_changed_and_requests_answered() {
        let tamper = Tamper {
            answer: Some(|asked, answer, memory| {
                answer.status = 503;
                answer.edit(|value| value["path"] = asked.path.clone().into());
                memory.set("seen", "yes");
            }),
            ..Tamper::default()
        };
        let memory = Memory::default();
        let plain = "HTTP/1.1 200 OK\nContent-Type: application/json\nContent-Length: 7\n\n{\"a\":1}";
        let text = ask(plain, Wire::Http(tamper, memory.clone())).await;
        assert!(text.starts_with("HTTP/1.1 503") && text.contains(r#""path":"/x?a=1""#), "{text}");
        assert_eq!(memory.get("seen").as_deref(), Some("yes"));

        let instead =
            Tamper { ask: Some(|_, _| Some(Answer::json(418, &serde_json::Value::Null))), ..Tamper::default() };
        assert!(ask(plain, Wire::Http(instead, Memory::default())).await.starts_with("HTTP/1.1 418"));
        let untouched = ask(plain, Wire::Http(Tamper::default(), Memory::default())).await;
        assert!(untouched.starts_with("HTTP/1.1 200") && untouched.ends_with("{\"a\":1}"), "{untouched}");
    }

    #[tokio::test]
    async fn events_are_changed_one_by_one() {
        let head = "HTTP/1.1 200 OK\nContent-Type: text/event-stream\n\nid: 1|event: a|data: {}||id: 2|event: b|data: {}||id: 3|event: c|data: {}||";
        let tamper = Tamper {
            event: Some(|event, _| match event.name.as_str() {
                "a" => Some(event_text(&event).repeat(2)),
                "b" => Some(String::new()),
                _ => None,
            }),
            ..Tamper::default()
        };
        let text = ask(head, Wire::Http(tamper, Memory::default())).await;
        assert_eq!((text.matches("event: a").count(), text.matches("event: b").count()), (2, 0), "{text}");
        assert!(!text.contains("event: c"), "{text}");
    }

    #[tokio::test]
    async fn bytes_are_added_and_taken_away() {
        let text = ask("0123456789", Wire::Trailing(b"more")).await;
        assert_eq!(text, "0123456789more");
        assert_eq!(ask("0123456789", Wire::Swallowing(4)).await, "456789");
        assert_eq!(ask("0123456789", Wire::Plain).await, "0123456789");
        assert_eq!(ask("0123456789", Wire::Holding).await, "0123456789");
        assert_eq!(ask("0123456789", Wire::Padding).await, "0123456789");
        assert_eq!(ask("0123456789", Wire::Replacing("/x", "/y")).await, "0123456789");
        assert_eq!(ask("0123456789", Wire::Losing(3)).await, "0123456");
    }
}
