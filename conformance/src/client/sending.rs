//! How a client sends a request: it waits out rate limits where the deployment has some, and records every exchange.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::time::Instant;

use super::http::{Api, Reply};
use super::stream::EventStream;
use crate::harness::exchanges::clip;
use crate::harness::failure::{Failure, check};
use crate::harness::pace::{patient, pause, within};

/// How long one request may wait for a rate limit altogether.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// The shortest pause: a `Retry-After` of 0 must not become a busy loop.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

/// The time that a response with 429 asks to wait (RFC 9110, 10.2.3), if it gives one in seconds.
fn asked_to_wait(response: &reqwest::Response) -> Option<Duration> {
    let limited = response.status() == StatusCode::TOO_MANY_REQUESTS;
    let header = response.headers().get("retry-after").filter(|_| limited)?;
    let seconds: u64 = header.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).max(SHORTEST_PAUSE))
}

impl Api {
    /// The head of a response, whose body is still to be read. A client that waits out rate limits sends the request again after the time
    /// that a 429 names, as long as that is no more than [`LONGEST_WAIT`] altogether.
    async fn head(&self, request: reqwest::RequestBuilder) -> reqwest::Result<reqwest::Response> {
        let mut waited = Duration::ZERO;
        let mut next = request;
        loop {
            let again = if self.waits { next.try_clone() } else { None };
            let response = next.send().await?;
            match (again, asked_to_wait(&response)) {
                (Some(again), Some(time)) if waited + time <= patient(LONGEST_WAIT) => {
                    let asked = response.url().path().to_owned();
                    self.exchanges.keep(&asked, None, &format!("429, waiting {time:?} as Retry-After says"));
                    pause(time).await;
                    waited += time;
                    next = again;
                }
                _ => return Ok(response),
            }
        }
    }

    pub(super) async fn answer(
        &self,
        asked: String,
        body: Option<&str>,
        request: reqwest::RequestBuilder,
    ) -> Result<Reply, Failure> {
        let answer = async {
            let response = self.head(request).await?;
            let (status, headers) = (response.status(), self.in_contract_links(response.headers().clone()));
            let (asked, body, exchanges) = (asked.clone(), response.bytes().await?, self.exchanges.clone());
            Ok::<_, reqwest::Error>(Reply { asked, status, headers, body, exchanges, speech: self.speech.clone() })
        };
        match answer.await {
            Ok(reply) => {
                self.exchanges.keep(&asked, body, &format!("{} {}", reply.status, reply.text()));
                Ok(reply)
            }
            Err(error) => {
                let error = chain(&error);
                self.exchanges.keep(&asked, body, &format!("no answer: {error}"));
                Err(Failure::mismatch(asked, "an answer", error))
            }
        }
    }

    /// As [`Api::head`], within the usual limit; of a response that may be a stream.
    pub(super) async fn head_of_stream(
        &self,
        asked: &str,
        request: reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, Failure> {
        let begun = Instant::now();
        within(self.speech.request, self.head(request.header("Accept", "text/event-stream")))
            .await
            .map_err(|_| {
                Failure::mismatch(asked, "the head of an answer", format!("nothing in {:?}", begun.elapsed()))
            })?
            .map_err(|error| Failure::mismatch(asked, "an answer", chain(&error)))
    }

    pub(super) async fn event_stream(
        &self,
        asked: String,
        body: String,
        request: reqwest::RequestBuilder,
    ) -> Result<EventStream, Failure> {
        let response = self.head_of_stream(&asked, request).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        if status != StatusCode::OK {
            let answer = response.text().await.unwrap_or_default();
            self.exchanges.keep(&asked, Some(&body), &format!("{status} {answer}"));
            return Err(Failure::mismatch(asked, "200 and an event stream", format!("{status} {}", clip(&answer))));
        }
        let content_type = headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or("none");
        check(content_type.starts_with("text/event-stream"), format!("{asked}: the content type is {content_type}"))?;
        Ok(EventStream::new(asked, body, headers, response, self.exchanges.clone(), self.speech.silence))
    }
}

impl Api {
    /// Headers with the contract's path in `Link` (RFC 8288), which names the target's.
    fn in_contract_links(&self, mut headers: HeaderMap) -> HeaderMap {
        let routes = &self.speech.routes;
        let link = headers.get("link").and_then(|value| value.to_str().ok()).filter(|_| !routes.is_plain());
        let ours = link.and_then(|link| {
            let (path, rest) = link.strip_prefix('<')?.split_once('>')?;
            HeaderValue::from_str(&format!("<{}>{rest}", routes.contract(path))).ok()
        });
        if let Some(ours) = ours {
            headers.insert("link", ours);
        }
        headers
    }
}

/// An error with its causes: reqwest keeps the details in the innermost one.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::harness::exchanges::{Exchanges, Secrets};
    use crate::harness::pace::{at_pace, paused};

    /// A server that refuses all requests but those from this one on, and counts them.
    async fn limited(from: usize, header: &'static str) -> (Api, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let count = Arc::new(AtomicUsize::new(0));
        let shared = count.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                let number = shared.fetch_add(1, Ordering::SeqCst) + 1;
                let (status, header) = if number < from { ("429 Too Many Requests", header) } else { ("200 OK", "") };
                let answer = format!("HTTP/1.1 {status}\r\n{header}Content-Length: 0\r\nConnection: close\r\n\r\n");
                // A client may disconnect at any time.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (Api::new(&base, None, Exchanges::new(Secrets::default())).expect("a client"), count)
    }

    #[tokio::test]
    async fn a_patient_client_waits_out_rate_limits_and_the_time_does_not_count() {
        let (api, count) = limited(3, "Retry-After: 0\r\n").await;
        let patient = api.clone().waiting_out_limits();
        let asked = async { (patient.get("/x").await.expect("an answer").status.as_u16(), paused()) };
        let (status, waited) = at_pace(1.0, asked).await;
        assert_eq!((status, count.load(Ordering::SeqCst)), (200, 3));
        assert!(waited >= 2 * SHORTEST_PAUSE, "{waited:?}");
    }

    #[tokio::test]
    async fn other_clients_and_other_answers_are_not_repeated() {
        for (waits, header) in [
            (false, "Retry-After: 0\r\n"),
            (true, ""),
            (true, "Retry-After: 4000\r\n"),
            (true, "Retry-After: soon\r\n"),
        ] {
            let (api, count) = limited(9, header).await;
            let api = if waits { api.waiting_out_limits() } else { api };
            assert_eq!(api.get("/x").await.expect("an answer").status.as_u16(), 429, "{header}");
            assert_eq!(count.load(Ordering::SeqCst), 1, "{header}");
        }
    }
}
