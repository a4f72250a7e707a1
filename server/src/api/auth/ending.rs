//! Streams of events end when the caller's key or token does.

use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use jiff::Timestamp;

use super::keys::Ending;

/// How events end (WHATWG HTML, "Server-sent events").
const BLANK_LINE: &[u8] = b"\n\n";

type Ended = Pin<Box<dyn Future<Output = Ending> + Send>>;

/// Longest sleep until a key's or token's end: the host's clock may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// Sleeps until the end of a key or token, or for a while; `false` if the end has come.
pub(super) async fn sleep_until(end: Option<Timestamp>) -> bool {
    let left = end.map(|end| Duration::try_from(end.duration_since(Timestamp::now())).unwrap_or_default());
    if left == Some(Duration::ZERO) {
        return false;
    }
    tokio::time::sleep(left.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP)).await;
    true
}

/// Waits for the end of a token.
pub(super) async fn expiry(end: Timestamp) -> Ending {
    while sleep_until(Some(end)).await {}
    Ending::Expired
}

/// A stream that is cut between two events.
struct Cut {
    pieces: BodyDataStream,
    /// `None` once the key has ended.
    ended: Option<Ended>,
    why: Ending,
    /// The last bytes that were passed on, by which the end of an event is recognised.
    last: [u8; 2],
    over: bool,
}

/// Whether a response is a stream of events.
pub(in crate::api) fn is_stream(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("text/event-stream"))
}

/// The same stream, which ends with the event `closed` as soon as `ended` does.
pub(super) fn end_with(response: Response, ended: impl Future<Output = Ending> + Send + 'static) -> Response {
    response.map(|body| {
        let cut = Cut {
            pieces: body.into_data_stream(),
            ended: Some(Box::pin(ended)),
            why: Ending::Revoked,
            last: [b'\n'; 2],
            over: false,
        };
        Body::from_stream(futures::stream::unfold(cut, Cut::next))
    })
}

impl Cut {
    async fn next(mut self) -> Option<(Result<Bytes, axum::Error>, Self)> {
        if self.over {
            return None;
        }
        if let Some(ended) = &mut self.ended {
            tokio::select! {
                biased;
                why = ended => (self.ended, self.why) = (None, why),
                piece = self.pieces.next() => {
                    let piece = piece?;
                    if let Ok(piece) = &piece {
                        self.note(piece);
                    }
                    return Some((piece, self));
                }
            }
        }
        // The event that was begun is passed on to its end: all of it is in the journal.
        if self.last == BLANK_LINE {
            self.over = true;
            return Some((Ok(closed(self.why)), self));
        }
        let piece = match self.pieces.next().await? {
            Ok(piece) => piece,
            error => return Some((error, self)),
        };
        let piece = match self.end_of_event(&piece) {
            Some(end) => piece.slice(..end),
            None => piece,
        };
        self.note(&piece);
        Some((Ok(piece), self))
    }

    fn note(&mut self, piece: &Bytes) {
        match piece.as_ref() {
            [.., one, other] => self.last = [*one, *other],
            [one] => self.last = [self.last[1], *one],
            [] => {}
        }
    }

    /// Length of the part of a piece that ends the current event.
    fn end_of_event(&self, piece: &[u8]) -> Option<usize> {
        if self.last[1] == b'\n' && piece.first() == Some(&b'\n') {
            return Some(1);
        }
        piece.windows(BLANK_LINE.len()).position(|bytes| bytes == BLANK_LINE).map(|at| at + BLANK_LINE.len())
    }
}

/// The last event of a stream that is cut. It has no id, so that a client that comes back with another key continues where it was.
fn closed(why: Ending) -> Bytes {
    let (reason, message) = match why {
        Ending::Revoked => ("key_revoked", "the key of this stream was revoked; the run goes on"),
        Ending::Expired => ("key_expired", "the key or token of this stream has expired; the run goes on"),
    };
    let data = serde_json::json!({"reason": reason, "message": message, "timestamp": jiff::Timestamp::now()});
    format!("event: closed\ndata: {data}\n\n").into()
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use tokio::sync::oneshot;

    use super::*;

    async fn text(pieces: &'static [&'static str], read_before: usize) -> String {
        let (end, ended) = oneshot::channel();
        let body = Body::from_stream(stream::iter(pieces).map(|piece| Ok::<_, std::io::Error>(Bytes::from(*piece))));
        let cut = end_with(Response::new(body), async { ended.await.unwrap_or(Ending::Expired) });
        let mut pieces = cut.into_body().into_data_stream();
        let mut text = String::new();
        let mut end = Some(end);
        for at in 0.. {
            if at == read_before {
                end.take().expect("once").send(Ending::Revoked).expect("sent");
            }
            let Some(piece) = pieces.next().await else { break };
            text.push_str(std::str::from_utf8(&piece.expect("a piece")).expect("text"));
        }
        text
    }

    #[tokio::test]
    async fn a_stream_ends_after_the_event_that_was_begun() {
        for (pieces, read_before, expected) in [
            (&["a: 1\n\n", "b: 2\n\n"][..], 1, "a: 1\n\n"),
            (&["a: 1\n\nb:", " 2\n\nc: 3\n\n"], 1, "a: 1\n\nb: 2\n\n"),
            (&["a: 1\n", "\nb: 2\n\n"], 1, "a: 1\n\n"),
            (&["a: 1", "\n", "\n", "b: 2\n\n"], 1, "a: 1\n\n"),
            (&["a: 1\n\n"], 0, ""),
        ] {
            let text = text(pieces, read_before).await;
            let rest = text.strip_prefix(expected).unwrap_or_else(|| panic!("{text:?} after {pieces:?}"));
            assert!(rest.starts_with("event: closed\ndata: {") && rest.ends_with("}\n\n"), "{text:?}");
            assert!(rest.contains("key_revoked") && !rest.contains("id:"), "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_stream_that_ends_first_is_unchanged() {
        assert_eq!(text(&["a: 1\n\n", "b: 2\n\n"], 3).await, "a: 1\n\nb: 2\n\n");
    }
}
