//! What begins a turn.

/// What the user says at the beginning of a turn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prompt {
    /// The user's text. It is plain text unless it is a command.
    pub text: String,
    /// What comes before the text.
    pub blocks: Vec<Block>,
    /// Whether the text is a command of the driver's own, such as `/compact`.
    pub command: bool,
}

/// A part of what the user says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    /// A further text.
    Text {
        /// The text.
        text: String,
    },
    /// An image.
    Image {
        /// Its media type.
        media_type: String,
        /// Its bytes in base 64.
        data: String,
    },
    /// A document.
    Document {
        /// Its media type.
        media_type: String,
        /// Its bytes in base 64.
        data: String,
        /// Its title.
        title: Option<String>,
    },
    /// A document that is plain text.
    TextDocument {
        /// The text.
        text: String,
        /// Its title.
        title: Option<String>,
    },
}
