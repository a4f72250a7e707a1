//! Multipart forms (RFC 7578), encoded by hand, because some are malformed on purpose.

use bytes::{Bytes, BytesMut};

use crate::description::FormFields;

/// The boundary between parts; it occurs in no content.
pub const BOUNDARY: &str = "-conformance-boundary-7f3a";

/// A form.
#[derive(Debug, Clone, Default)]
pub struct Form {
    fields: FormFields,
    content: BytesMut,
}

impl Form {
    /// An empty form with these names of fields.
    pub(super) fn named(fields: FormFields) -> Self {
        Self { fields, content: BytesMut::new() }
    }

    /// Adds a run's request.
    #[must_use]
    pub fn request(self, json: &str) -> Self {
        let name = self.fields.request.clone();
        self.field(&name, json)
    }

    /// Adds the files' metadata.
    #[must_use]
    pub fn metadata(self, json: &str) -> Self {
        let name = self.fields.metadata.clone();
        self.field(&name, json)
    }

    /// Adds a field that is not a file.
    #[must_use]
    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.head(&format!("name=\"{name}\""));
        self.content.extend_from_slice(format!("{value}\r\n").as_bytes());
        self
    }

    /// Adds a file.
    #[must_use]
    pub fn file(mut self, filename: &str, content: &[u8]) -> Self {
        self = self.file_begun(filename, content);
        self.content.extend_from_slice(b"\r\n");
        self
    }

    /// Adds a file whose content continues.
    #[must_use]
    pub fn file_begun(mut self, filename: &str, content: &[u8]) -> Self {
        self.head(&format!("name=\"{}\"; filename=\"{filename}\"", self.fields.files));
        self.content.extend_from_slice(content);
        self
    }

    fn head(&mut self, disposition: &str) {
        self.content.extend_from_slice(
            format!("--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n").as_bytes(),
        );
    }

    /// The whole form with its closing boundary.
    #[must_use]
    pub fn whole(mut self) -> Bytes {
        self.content.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
        self.content.freeze()
    }

    /// The form so far, without a closing boundary.
    #[must_use]
    pub fn unfinished(self) -> Bytes {
        self.content.freeze()
    }
}

/// The value of the Content-Type header.
#[must_use]
pub fn content_type() -> String {
    format!("multipart/form-data; boundary={BOUNDARY}")
}
