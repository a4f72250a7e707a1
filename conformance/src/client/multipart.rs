//! Multipart forms (RFC 7578), encoded by hand, because some are malformed on purpose.

use bytes::{Bytes, BytesMut};

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
