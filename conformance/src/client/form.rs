//! Requests with a form.

use bytes::Bytes;
use reqwest::Method;

use super::http::{Api, Reply};
pub use super::multipart::{BOUNDARY, Form, content_type};
use super::stream::EventStream;
use crate::harness::failure::Failure;

impl Api {
    /// An empty form, whose fields are named as the deployment's are.
    #[must_use]
    pub fn form(&self) -> Form {
        Form::named(self.speech.form.clone())
    }

    /// A form that starts a run.
    #[must_use]
    pub fn form_of_run(&self, prompt: &str) -> Form {
        self.form().request(&serde_json::json!({ "user_input": prompt }).to_string())
    }

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
