//! A client for a deployment's API.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;

use super::metrics::Metrics;
use super::multipart;
use super::stream::EventStream;
use crate::contract::schema;
use crate::description::{Description, Speech};
use crate::harness::exchanges::{Exchanges, clip};
use crate::harness::failure::{Failure, check};
use crate::harness::pace::patient;
use crate::harness::trust::Trust;

/// A description of the API with the contract's paths.
fn in_contract_paths(speech: &Speech, mut description: Value) -> Value {
    if !speech.routes.is_plain()
        && let Some(paths) = description.get_mut("paths").and_then(Value::as_object_mut)
    {
        *paths = std::mem::take(paths).into_iter().map(|(path, item)| (speech.routes.contract(&path), item)).collect();
    }
    description
}

fn connecting(trust: &Trust, limit: Duration) -> Result<reqwest::Client, Failure> {
    // No idle connections: they would count as descriptors of the server when a scenario looks for leaks.
    reqwest::Client::builder()
        .no_proxy()
        .tls_backend_preconfigured(trust.config().map_err(|error| Failure::harness(format!("TLS: {error}")))?)
        .connect_timeout(patient(limit))
        .pool_max_idle_per_host(0)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| Failure::harness(format!("HTTP client: {error}")))
}

/// A client of one deployment.
#[derive(Debug, Clone)]
pub struct Api {
    base: String,
    key: Option<String>,
    client: reqwest::Client,
    trust: Trust,
    /// How the deployment is asked: paths, header of the key, encoding, and how long things may take.
    pub(super) speech: Arc<Speech>,
    pub(super) exchanges: Exchanges,
    /// Whether it waits as long as a 429 asks for, and sends the request again.
    pub(super) waits: bool,
}

impl Api {
    /// A client for the deployment at `base` (`http://host:port`).
    ///
    /// # Errors
    /// The HTTP client cannot be set up.
    pub fn new(base: &str, key: Option<&str>, exchanges: Exchanges) -> Result<Self, Failure> {
        Self::trusting(&Trust::default(), base, key, exchanges)
    }

    /// A client for the deployment at `base` (`https://host:port`), whose certificate one of these authorities has issued.
    ///
    /// # Errors
    /// The HTTP client cannot be set up.
    pub fn trusting(trust: &Trust, base: &str, key: Option<&str>, exchanges: Exchanges) -> Result<Self, Failure> {
        let speech = Description::own().speech.clone();
        let client = connecting(trust, speech.connect)?;
        let (base, key) = (base.trim_end_matches('/').to_owned(), key.map(str::to_owned));
        Ok(Self { base, key, client, trust: trust.clone(), speech, exchanges, waits: false })
    }

    /// The same client for a deployment that is asked in its own way. Callers use the contract's paths all the same.
    ///
    /// # Errors
    /// The HTTP client cannot be set up.
    pub fn speaking(self, speech: &Arc<Speech>) -> Result<Self, Failure> {
        Ok(Self { client: connecting(&self.trust, speech.connect)?, speech: speech.clone(), ..self })
    }

    /// How the deployment is asked.
    #[must_use]
    pub fn speech(&self) -> &Speech {
        &self.speech
    }

    /// The same client, which waits as long as a 429 asks for, and sends the request again.
    #[must_use]
    pub fn waiting_out_limits(self) -> Self {
        Self { waits: true, ..self }
    }

    /// The base URL.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The same deployment with another key, or none.
    #[must_use]
    pub fn with_key(&self, key: Option<&str>) -> Self {
        Self { key: key.map(str::to_owned), ..self.clone() }
    }

    pub(super) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{}", self.base, self.speech.routes.target(path)));
        match self.key_header() {
            Some((name, value)) => request.header(name, value),
            None => request,
        }
    }

    /// The header with the key, if there is one.
    pub(super) fn key_header(&self) -> Option<(&str, String)> {
        let key = self.key.as_ref()?;
        Some(match key.starts_with("Bearer ") {
            true => ("Authorization", key.clone()),
            false => (&self.speech.key_header, format!("{}{key}", self.speech.key_scheme)),
        })
    }

    /// A request that begins a run.
    pub(super) fn begun(&self, path: &str, body: String) -> reqwest::RequestBuilder {
        self.with_body(&Method::POST, path, body, self.request(Method::POST, path))
    }

    /// How long a request that is not a stream may take.
    pub(super) fn limit(&self) -> Duration {
        patient(self.speech.request)
    }

    /// Adds a body to a request of this method and path: JSON, or a form where the deployment takes runs as forms.
    fn with_body(
        &self,
        method: &Method,
        path: &str,
        body: String,
        request: reqwest::RequestBuilder,
    ) -> reqwest::RequestBuilder {
        let is_run = *method == Method::POST && path.split('?').next().is_some_and(|path| path.ends_with("/stream"));
        if is_run && self.speech.runs_are_forms {
            request.header("Content-Type", multipart::content_type()).body(self.form().request(&body).whole())
        } else {
            request.header("Content-Type", "application/json").body(body)
        }
    }

    /// GET.
    ///
    /// # Errors
    /// No whole response within the limit.
    pub async fn get(&self, path: &str) -> Result<Reply, Failure> {
        self.send(Method::GET, path, None, &[]).await
    }

    /// DELETE.
    ///
    /// # Errors
    /// No whole response within the limit.
    pub async fn delete(&self, path: &str) -> Result<Reply, Failure> {
        self.send(Method::DELETE, path, None, &[]).await
    }

    /// POST with a JSON body.
    ///
    /// # Errors
    /// No whole response within the limit.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Reply, Failure> {
        self.send(Method::POST, path, Some(&body.to_string()), &[]).await
    }

    /// PUT with a JSON body.
    ///
    /// # Errors
    /// No whole response within the limit.
    pub async fn put(&self, path: &str, body: &Value) -> Result<Reply, Failure> {
        self.send(Method::PUT, path, Some(&body.to_string()), &[]).await
    }

    /// POST of bytes with the content type of JSON.
    ///
    /// # Errors
    /// No whole answer within four times the usual limit.
    pub async fn post_bytes(&self, path: &str, content: Bytes) -> Result<Reply, Failure> {
        let asked = format!("POST {path}");
        let description = format!("{} bytes", content.len());
        let request = self.request(Method::POST, path).timeout(4 * self.limit());
        self.answer(asked, Some(&description), request.header("Content-Type", "application/json").body(content)).await
    }

    /// PUT of raw bytes.
    ///
    /// # Errors
    /// No whole answer within four times the usual limit.
    pub async fn upload(&self, path: &str, content: Bytes) -> Result<Reply, Failure> {
        self.upload_as(path, "application/octet-stream", content).await
    }

    /// PUT of bytes with this content type.
    ///
    /// # Errors
    /// No whole answer within four times the usual limit.
    pub async fn upload_as(&self, path: &str, kind: &str, content: Bytes) -> Result<Reply, Failure> {
        let asked = format!("PUT {path}");
        let description = format!("{} bytes", content.len());
        let request = self.request(Method::PUT, path).timeout(4 * self.limit());
        self.answer(asked, Some(&description), request.header("Content-Type", kind).body(content)).await
    }

    /// Any request; a body is sent with the content type of JSON.
    ///
    /// # Errors
    /// No whole response within the limit.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&str>,
        headers: &[(&str, &str)],
    ) -> Result<Reply, Failure> {
        let asked = format!("{method} {path}");
        let mut request = self.request(method.clone(), path).timeout(self.limit());
        if let Some(body) = body {
            request = self.with_body(&method, path, body.to_owned(), request);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.answer(asked, body, request).await
    }

    /// POST that is answered with an event stream.
    ///
    /// # Errors
    /// No answer within the limit, or one that is not an event stream.
    pub async fn open_stream(&self, path: &str, body: &Value) -> Result<EventStream, Failure> {
        let request = self.begun(path, body.to_string());
        self.event_stream(format!("POST {path}"), body.to_string(), request).await
    }

    /// The status of a POST that may be answered with an event stream, which is not read.
    ///
    /// # Errors
    /// No head of a response within the limit.
    pub async fn status_of_stream(&self, path: &str, body: &Value) -> Result<StatusCode, Failure> {
        let (asked, body) = (format!("POST {path}"), body.to_string());
        let request = self.begun(path, body.clone());
        let response = self.head_of_stream(&asked, request).await?;
        self.exchanges.keep(&asked, Some(&body), &format!("{}, and the connection was closed", response.status()));
        Ok(response.status())
    }

    /// GET that is answered with an event stream, from after an event.
    ///
    /// # Errors
    /// No answer within the limit, or one that is not an event stream.
    pub async fn follow_stream(&self, path: &str, last_event_id: &str) -> Result<EventStream, Failure> {
        let request = self.request(Method::GET, path).header("Last-Event-ID", last_event_id);
        self.event_stream(format!("GET {path} after {last_event_id}"), String::new(), request).await
    }

    /// The metrics page.
    ///
    /// # Errors
    /// No page, or one that is not in the text format.
    pub async fn metrics(&self) -> Result<Metrics, Failure> {
        let reply = self.get("/metrics").await?.expect(200)?;
        Metrics::parse(&reply.text()).map_err(Failure::assertion)
    }
}

/// A whole response.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The request: method and path.
    pub asked: String,
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The log that has it, and deviations of shape that are found in it.
    pub(super) exchanges: Exchanges,
    pub(super) speech: Arc<Speech>,
}

impl Reply {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as JSON. That of a successful answer is compared with the contract's schema: what differs is recorded.
    ///
    /// # Errors
    /// It is not JSON, or its content type is not.
    pub fn json(&self) -> Result<Value, Failure> {
        let content_type = self.header("content-type").unwrap_or("none");
        check(
            content_type.starts_with("application/json"),
            format!("{}: the content type is {content_type}, not application/json", self.asked),
        )?;
        let body: Value = serde_json::from_slice(&self.body)
            .map_err(|error| Failure::mismatch(format!("{}: {error}", self.asked), "JSON", clip(&self.text())))?;
        let body = if self.asked == "GET /openapi.json" { in_contract_paths(&self.speech, body) } else { body };
        if self.status.is_success() {
            self.exchanges.deviate(schema::of_answer(&self.asked, &body));
        }
        Ok(body)
    }

    /// Checks that the status is `status`.
    ///
    /// # Errors
    /// It is another.
    pub fn expect(self, status: u16) -> Result<Self, Failure> {
        if self.status == status {
            return Ok(self);
        }
        let actual = format!("{}, {}", self.status.as_u16(), clip(&self.text()));
        Err(Failure::mismatch(format!("status of {}", self.asked), status, actual))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::harness::exchanges::Secrets;

    /// A server that sends these bytes to one connection and closes it.
    async fn answering(answer: &str) -> Api {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let answer = answer.replace('\n', "\r\n");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let _ = stream.read(&mut [0; 4096]).await;
            stream.write_all(answer.as_bytes()).await.expect("written");
        });
        Api::new(&base, Some("k"), Exchanges::new(Secrets::default())).expect("a client")
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_the_deployments_fault() {
        for answer in ["", "HTTP/1.1 200 OK\nContent-Length: 10\n\nabc", "no HTTP\n\n"] {
            let failure = answering(answer).await.get("/x").await.expect_err(answer);
            assert_eq!(failure.kind, crate::harness::failure::Kind::Assertion);
        }
    }

    const STREAM: &str = "HTTP/1.1 200 OK\nContent-Type: text/event-stream\nConnection: close\n\n";

    async fn run(events: &str) -> Result<usize, Failure> {
        let stream = answering(&format!("{STREAM}{events}")).await.open_stream("/s", &Value::Null).await?;
        stream.finish().await.map(|events| events.len())
    }

    #[tokio::test]
    async fn incomplete_streams_are_distinguished_from_complete_ones() {
        let event = |seq: u64, name: &str| {
            format!("id: r:{seq}\nevent: {name}\ndata: {{\"seq\":{seq},\"timestamp\":\"2026-01-01T00:00:00Z\"}}\n\n")
        };
        let (first, done) = (event(1, "init"), event(2, "done"));
        assert_eq!(run(&format!("{first}: a remark\n\n{done}")).await.expect("whole"), 2);
        assert!(run(&first).await.is_err(), "no done");
        assert!(run(&format!("{first}{}", &done[..done.len() - 4])).await.is_err(), "half an event");
        assert!(run("id: r:1\nevent: done\ndata: not JSON\n\n").await.is_err());
        assert!(
            answering("HTTP/1.1 200 OK\nContent-Length: 0\n\n").await.open_stream("/s", &Value::Null).await.is_err()
        );
    }
}
