//! What a message has beside its text: further texts, images, documents.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nagaya_driver::Block;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

/// Blocks of one message.
pub const MOST_BLOCKS: usize = 20;
/// Size of an image, in bytes. Models take no larger ones.
pub const LARGEST_IMAGE: usize = 5 << 20;
/// Size of a document, in bytes.
pub const LARGEST_DOCUMENT: usize = 10 << 20;
/// Size of everything in one message, in bytes.
pub const LARGEST_CONTENT: usize = 10 << 20;
/// Length of a text, in bytes.
const LONGEST_TEXT: usize = 200_000;
/// Length of a document's title, in bytes.
const LONGEST_TITLE: usize = 256;

/// A part of a message, beside its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Part {
    /// A further text of the message.
    Text {
        /// The text, 1 to 200,000 bytes.
        text: String,
    },
    /// An image: PNG, JPEG, GIF or WebP, up to 5 MiB.
    Image {
        /// Where the image is.
        source: Source,
    },
    /// A document: PDF or plain text, up to 10 MiB.
    Document {
        /// Where the document is.
        source: Source,
        /// The document's title, up to 256 characters.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(max_length = 256)]
        title: Option<String>,
    },
}

/// Where an image or a document is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[schema(as = ContentSource)]
pub enum Source {
    /// In the request itself.
    Base64 {
        /// Its media type, such as `image/png` or `application/pdf`, which must be that of the data.
        media_type: String,
        /// Its bytes in base 64 (RFC 4648, section 4).
        data: String,
    },
    /// In the workspace, at the time when the run begins.
    Path {
        /// Path of the file, relative to the workspace.
        path: String,
    },
}

/// A part that is not accepted.
#[derive(Debug, PartialEq, Eq)]
pub struct BadPart {
    /// Its place in the message, such as `content[1].source`.
    pub place: String,
    /// What is wrong, and what is accepted.
    pub why: String,
}

impl BadPart {
    fn at(place: String, why: String) -> Self {
        Self { place, why }
    }
}

/// Checks the parts of a message as far as they are in the request. Paths are checked by `check_path`.
///
/// # Errors
/// The first part that is not accepted.
pub fn check(parts: &[Part], check_path: impl Fn(&str) -> Result<(), String>) -> Result<(), BadPart> {
    if parts.len() > MOST_BLOCKS {
        return Err(BadPart::at("content".into(), format!("must be at most {MOST_BLOCKS}")));
    }
    let mut sum = 0;
    for (at, part) in parts.iter().enumerate() {
        let source = match part {
            Part::Text { text } => {
                if !(1..=LONGEST_TEXT).contains(&text.len()) || text.contains('\0') || text.trim().is_empty() {
                    let why = format!("must have 1 to {LONGEST_TEXT} bytes, none of them NUL, not white space alone");
                    return Err(BadPart::at(format!("content[{at}].text"), why));
                }
                continue;
            }
            Part::Image { source } => source,
            Part::Document { source, title } => {
                if title
                    .as_ref()
                    .is_some_and(|title| title.chars().count() > LONGEST_TITLE || title.chars().any(char::is_control))
                {
                    let why = format!("must have at most {LONGEST_TITLE} characters, none of them a control character");
                    return Err(BadPart::at(format!("content[{at}].title"), why));
                }
                source
            }
        };
        match source {
            Source::Path { path } => {
                check_path(path).map_err(|why| BadPart::at(format!("content[{at}].source.path"), why))?;
            }
            Source::Base64 { media_type, data } => {
                let Ok(bytes) = STANDARD.decode(data) else {
                    return Err(BadPart::at(
                        format!("content[{at}].source.data"),
                        "must be base 64, with padding".into(),
                    ));
                };
                sum += bytes.len();
                let found = part.kind(&bytes).map_err(|why| BadPart::at(format!("content[{at}].source.data"), why))?;
                if found != media_type {
                    let why = format!("is {media_type:?}, and the data is {found}");
                    return Err(BadPart::at(format!("content[{at}].source.media_type"), why));
                }
            }
        }
    }
    if sum > LARGEST_CONTENT {
        return Err(BadPart::at("content".into(), format!("must have at most {LARGEST_CONTENT} bytes together")));
    }
    Ok(())
}

impl Part {
    /// The path of the file in the workspace that it refers to, if it does.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::Image { source: Source::Path { path } } | Self::Document { source: Source::Path { path }, .. } => {
                Some(path)
            }
            _ => None,
        }
    }

    /// How large its file may be, in bytes.
    #[must_use]
    pub fn largest(&self) -> usize {
        if matches!(self, Self::Document { .. }) { LARGEST_DOCUMENT } else { LARGEST_IMAGE }
    }

    /// Media type of the content.
    fn kind(&self, bytes: &[u8]) -> Result<&'static str, String> {
        let largest = self.largest();
        if bytes.len() > largest {
            return Err(format!("must have at most {largest} bytes"));
        }
        let (found, accepted) = match self {
            Self::Document { .. } => (document_type(bytes), "a PDF or plain text in UTF-8"),
            _ => (image_type(bytes), "a PNG, JPEG, GIF or WebP image"),
        };
        found.ok_or_else(|| format!("must be {accepted}"))
    }

    /// The block for the driver. `file` is the content of the file in the workspace, for a part that refers to one.
    ///
    /// # Errors
    /// The content is too large, or of no type that is accepted.
    pub fn block(&self, file: &[u8]) -> Result<Block, String> {
        let content = |source: &Source| -> Result<(String, String), String> {
            match source {
                Source::Base64 { media_type, data } => Ok((media_type.clone(), data.clone())),
                Source::Path { .. } => Ok((self.kind(file)?.to_owned(), STANDARD.encode(file))),
            }
        };
        Ok(match self {
            Self::Text { text } => Block::Text { text: text.clone() },
            Self::Image { source } => {
                let (media_type, data) = content(source)?;
                Block::Image { media_type, data }
            }
            Self::Document { source, title } => {
                let (media_type, data) = content(source)?;
                if media_type == PLAIN {
                    let bytes = STANDARD.decode(&data).map_err(|error| error.to_string())?;
                    let text = String::from_utf8(bytes).map_err(|error| error.to_string())?;
                    return Ok(Block::TextDocument { text, title: title.clone() });
                }
                Block::Document { media_type, data, title: title.clone() }
            }
        })
    }

    /// What the conversation's messages have of it: no bytes.
    #[must_use]
    pub fn description(&self) -> Value {
        let of = |source: &Source| match source {
            Source::Base64 { media_type, data } => json!({"media_type": media_type, "bytes": data.len() / 4 * 3}),
            Source::Path { path } => json!({"path": path}),
        };
        match self {
            Self::Text { text } => json!({"type": "text", "text": text}),
            Self::Image { source } => json!({"type": "image", "source": of(source)}),
            Self::Document { source, title } => json!({"type": "document", "title": title, "source": of(source)}),
        }
    }
}

const PLAIN: &str = "text/plain";

/// By the first bytes (WHATWG, "MIME Sniffing", section 6.1).
fn image_type(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

fn document_type(bytes: &[u8]) -> Option<&'static str> {
    if bytes.starts_with(b"%PDF-") {
        return Some("application/pdf");
    }
    let text = std::str::from_utf8(bytes).ok()?;
    (!text.is_empty() && !text.contains('\0')).then_some(PLAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n...";

    fn inline(kind: &str, media_type: &str, bytes: &[u8]) -> Part {
        let source = json!({"type": "base64", "media_type": media_type, "data": STANDARD.encode(bytes)});
        serde_json::from_value(json!({"type": kind, "source": source})).expect("a part")
    }

    fn place(parts: &[Part]) -> Option<String> {
        check(parts, |path| if path == "ok" { Ok(()) } else { Err("no".into()) }).err().map(|bad| bad.place)
    }

    #[test]
    fn parts_are_checked_by_their_bytes() {
        let text = |text: &str| Part::Text { text: text.into() };
        let file = |path: &str| Part::Image { source: Source::Path { path: path.into() } };
        let good = [inline("image", "image/png", PNG), inline("document", "text/plain", b"hi"), text("a"), file("ok")];
        assert_eq!(place(&good), None);
        assert_eq!(place(&[text(" ")]).as_deref(), Some("content[0].text"));
        assert_eq!(place(&[text("a"), file("../a")]).as_deref(), Some("content[1].source.path"));
        assert_eq!(place(&[inline("image", "image/jpeg", PNG)]).as_deref(), Some("content[0].source.media_type"));
        assert_eq!(place(&[inline("image", "image/svg+xml", b"<svg/>")]).as_deref(), Some("content[0].source.data"));
        assert_eq!(place(&[inline("document", "text/plain", b"\0")]).as_deref(), Some("content[0].source.data"));
        let large = [PNG, &vec![0; LARGEST_IMAGE]].concat();
        assert_eq!(place(&[inline("image", "image/png", &large)]).as_deref(), Some("content[0].source.data"));
        let junk = Part::Image { source: Source::Base64 { media_type: "image/png".into(), data: "?".into() } };
        assert_eq!(place(&[junk]).as_deref(), Some("content[0].source.data"));
        assert_eq!(place(&vec![text("a"); MOST_BLOCKS + 1]).as_deref(), Some("content"));
    }

    #[test]
    fn limits_are_exact() {
        let text = |length: usize| vec![Part::Text { text: "x".repeat(length) }];
        let titled =
            |title: String| vec![Part::Document { source: Source::Path { path: "ok".into() }, title: Some(title) }];
        let image = |bytes: usize| inline("image", "image/png", &[PNG, &vec![0; bytes - PNG.len()]].concat());
        let document = |bytes: usize| inline("document", "text/plain", &vec![b'x'; bytes]);
        let two = |bytes: usize| vec![image(LARGEST_IMAGE), document(bytes)];
        for (fits, exceeds, at) in [
            (vec![text(1)[0].clone(); MOST_BLOCKS], vec![text(1)[0].clone(); MOST_BLOCKS + 1], "content"),
            (text(LONGEST_TEXT), text(LONGEST_TEXT + 1), "content[0].text"),
            (text(1), text(0), "content[0].text"),
            (titled("t".repeat(LONGEST_TITLE)), titled("t".repeat(LONGEST_TITLE + 1)), "content[0].title"),
            (titled("t".into()), titled("a\nb".into()), "content[0].title"),
            (vec![image(LARGEST_IMAGE)], vec![image(LARGEST_IMAGE + 1)], "content[0].source.data"),
            (vec![document(LARGEST_DOCUMENT)], vec![document(LARGEST_DOCUMENT + 1)], "content[0].source.data"),
            (two(LARGEST_CONTENT - LARGEST_IMAGE), two(LARGEST_CONTENT - LARGEST_IMAGE + 1), "content"),
        ] {
            assert_eq!(place(&fits), None, "{at}");
            assert_eq!(place(&exceeds).as_deref(), Some(at));
        }
    }

    #[test]
    fn files_become_blocks_and_messages_have_no_bytes() {
        let document =
            |path: &str| Part::Document { source: Source::Path { path: path.into() }, title: Some("T".into()) };
        let block = document("a").block(b"plain words").expect("a block");
        assert_eq!(block, Block::TextDocument { text: "plain words".into(), title: Some("T".into()) });
        assert!(
            matches!(document("a").block(b"%PDF-1.7"), Ok(Block::Document { media_type, .. }) if media_type == "application/pdf")
        );
        assert!(document("a").block(b"\xff\xfe\0").is_err());
        let described = inline("image", "image/png", PNG).description();
        assert_eq!(described["source"]["media_type"], "image/png");
        assert!(described["source"]["bytes"].is_u64() && described["source"]["data"].is_null());
    }

    #[test]
    fn unknown_fields_are_refused() {
        for junk in [
            json!({"type": "video"}),
            json!({"type": "text", "text": "a", "more": 1}),
            json!({"type": "image", "source": {"type": "url", "url": "http://a.example"}}),
            json!({"type": "image", "source": {"type": "path", "path": "a", "data": ""}}),
        ] {
            assert!(serde_json::from_value::<Part>(junk.clone()).is_err(), "{junk}");
        }
    }
}
