//! Multipart forms (RFC 7578), encoded by hand, because some are malformed on purpose.

use bytes::{Bytes, BytesMut};
use reqwest::Method;

use super::http::{Api, Reply};
use super::stream::EventStream;
use crate::harness::failure::Failure;

/// The boundary between parts; it occurs in no content.
pub const BOUNDARY: &str = "-conformance-boundary-7f3a";

/// A form.
#[derive(Debug, Clone, Default)]
pub struct Form(BytesMut);

impl Form {
    /// A form that starts a run.
    #[must_use]
    pub fn of_run(prompt: &str) -> Self {
        Self::default().field("request_data", &serde_json::json!({ "user_input": prompt }).to_string())
    }

    /// Adds a field that is not a file.
    #[must_use]
    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.head(&format!("name=\"{name}\""));
        self.0.extend_from_slice(format!("{value}\r\n").as_bytes());
        self
    }

    /// Adds a file.
    #[must_use]
    pub fn file(mut self, filename: &str, content: &[u8]) -> Self {
        self = self.file_begun(filename, content);
        self.0.extend_from_slice(b"\r\n");
        self
    }

    /// Adds a file whose content continues.
    #[must_use]
    pub fn file_begun(mut self, filename: &str, content: &[u8]) -> Self {
        self.head(&format!("name=\"files\"; filename=\"{filename}\""));
        self.0.extend_from_slice(content);
        self
    }

    fn head(&mut self, disposition: &str) {
        self.0.extend_from_slice(
            format!("--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n").as_bytes(),
        );
    }

    /// The whole form with its closing boundary.
    #[must_use]
    pub fn whole(mut self) -> Bytes {
        self.0.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
        self.0.freeze()
    }

    /// The form so far, without a closing boundary.
    #[must_use]
    pub fn unfinished(self) -> Bytes {
        self.0.freeze()
    }
}

/// The value of the Content-Type header.
#[must_use]
pub fn content_type() -> String {
    format!("multipart/form-data; boundary={BOUNDARY}")
}

impl Api {
    /// POST of a form that is answered with an event stream.
    ///
    /// # Errors
    /// As [`Api::open_stream`].
    pub async fn open_stream_of(&self, path: &str, form: Form) -> Result<EventStream, Failure> {
        let body = form.whole();
        let description = format!("a form of {} bytes", body.len());
        let request = self.request(Method::POST, path).header("Content-Type", content_type()).body(body);
        self.event_stream(format!("POST {path}"), description, request).await
    }

    /// POST of bytes with the content type of a form, which must be refused.
    ///
    /// # Errors
    /// No whole answer within the limit.
    pub async fn post_form(&self, path: &str, body: Bytes) -> Result<Reply, Failure> {
        let description = format!("a form of {} bytes", body.len());
        let request = self.request(Method::POST, path).header("Content-Type", content_type()).body(body);
        self.answer(format!("POST {path}"), Some(&description), request.timeout(self.limit())).await
    }
}
