//! Requests with other credentials and headers than the usual ones.

use serde_json::Value;

use super::http::Api;
use super::stream::EventStream;
use crate::harness::failure::Failure;

impl Api {
    /// The same deployment with a bearer token instead of a key.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        self.with_key(Some(&format!("Bearer {token}")))
    }

    /// POST with another header that is answered with an event stream.
    ///
    /// # Errors
    /// No answer within the limit, or one that is not an event stream.
    pub async fn open_stream_with(
        &self,
        path: &str,
        body: &Value,
        header: (&str, &str),
    ) -> Result<EventStream, Failure> {
        let request = self.begun(path, body.to_string()).header(header.0, header.1);
        self.event_stream(format!("POST {path} with {}", header.0), body.to_string(), request).await
    }
}
