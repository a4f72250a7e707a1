//! Reads the body of a model request as far as the policy needs it: the models that it names, and the tools and sources that the
//! provider would execute or fetch.
//!
//! Wherever that is decided, the body must have one reading: keys are not repeated, not escaped, and not spelled like a known key in
//! another case, because some readers ignore case. Elsewhere (prompts, the inputs of tools, schemas) anything is passed.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::json::{Events, Fault, Json, Scalar, Text};
use crate::answer::Refusal;

/// Maximum numbers of keys in an object that is read, and of models and tools in a body.
const MOST_KEYS: usize = 256;
const MOST_FOUND: usize = 64;

/// Tools that the client executes, or that only search among the request's own tools.
const HARMLESS: [&str; 8] = [
    "custom",
    "bash",
    "text_editor",
    "computer",
    "memory",
    "tool_search_tool_regex",
    "tool_search_tool_bm25",
    "str_replace_based_edit_tool",
];

/// What was found in a body.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Whether the body itself names a model.
    pub(crate) has_model: bool,
    /// Every model named.
    pub(crate) models: Vec<String>,
    /// Types of tools and sources that are the provider's.
    pub(crate) tools: Vec<String>,
}

/// A tool's type without the date of its version.
pub(super) fn undated(tool: &str) -> &str {
    match tool.rsplit_once('_') {
        Some((base, date)) if date.len() == 8 && date.bytes().all(|byte| byte.is_ascii_digit()) => base,
        _ => tool,
    }
}

/// The part of a body that an object or array is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum In {
    /// The request.
    Request,
    /// Converse's `additionalModelRequestFields`: parts of the model's own request.
    Fields,
    Tools,
    Tool,
    ToolConfig,
    ConverseTools,
    ConverseTool,
    Fallbacks,
    Fallback,
    McpServers,
    Messages,
    Message,
    Content,
    Block,
    Media,
    Source,
    /// Anything that does not matter.
    Other,
}

/// What the value of a key is, or an element of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Model,
    Fallbacks,
    Tools,
    ToolType,
    McpServers,
    Messages,
    Content,
    ToolConfig,
    ConverseTools,
    Fields,
    BlockType,
    Media,
    ToolResult,
    Source,
    SourceType,
    /// Present is enough: the provider executes or fetches something.
    Server(&'static str),
    Element,
    Other,
}

impl In {
    /// The keys that matter in an object.
    fn keys(self) -> &'static [(&'static str, Slot)] {
        match self {
            Self::Request | Self::Fields => &[
                ("model", Slot::Model),
                ("fallbacks", Slot::Fallbacks),
                ("fallback", Slot::Fallbacks),
                ("fallback_model", Slot::Fallbacks),
                ("fallback_models", Slot::Fallbacks),
                ("models", Slot::Fallbacks),
                ("tools", Slot::Tools),
                ("mcp_servers", Slot::McpServers),
                ("container", Slot::Server("container")),
                ("messages", Slot::Messages),
                ("system", Slot::Content),
                ("toolConfig", Slot::ToolConfig),
                ("additionalModelRequestFields", Slot::Fields),
            ],
            Self::Tool => &[("type", Slot::ToolType), ("model", Slot::Model)],
            Self::ToolConfig => &[("tools", Slot::ConverseTools)],
            Self::ConverseTool => &[("systemTool", Slot::Server("system_tool"))],
            Self::Fallback => &[("model", Slot::Model), ("models", Slot::Fallbacks), ("fallbacks", Slot::Fallbacks)],
            Self::Message => &[("content", Slot::Content)],
            Self::Block => &[
                ("type", Slot::BlockType),
                ("source", Slot::Source),
                ("content", Slot::Content),
                ("image", Slot::Media),
                ("document", Slot::Media),
                ("video", Slot::Media),
                ("audio", Slot::Media),
                ("toolResult", Slot::ToolResult),
            ],
            Self::Media => &[("source", Slot::Source)],
            Self::Source => &[
                ("type", Slot::SourceType),
                ("url", Slot::Server("url_source")),
                ("file_id", Slot::Server("file_source")),
                ("s3Location", Slot::Server("s3_location")),
                ("content", Slot::Content),
            ],
            Self::Tools
            | Self::ConverseTools
            | Self::Fallbacks
            | Self::McpServers
            | Self::Messages
            | Self::Content
            | Self::Other => &[],
        }
    }
}

/// An object or array that has begun.
#[derive(Debug)]
struct Open {
    part: In,
    /// What comes next in it.
    slot: Slot,
    /// Hashes of the keys so far.
    keys: Vec<u64>,
}

/// Follows a body from part to part.
#[derive(Debug, Default)]
struct Walk {
    open: Vec<Open>,
    found: Found,
}

impl Walk {
    fn slot(&self) -> (In, Slot) {
        self.open.last().map_or((In::Other, Slot::Other), |open| (open.part, open.slot))
    }

    fn model(&mut self, text: &Text) -> Result<(), Fault> {
        let name = text.plain().ok_or("a model's name is long or escaped")?;
        self.found.has_model |= self.open.len() == 1;
        note(&mut self.found.models, name)
    }

    fn tool(&mut self, text: &Text) -> Result<(), Fault> {
        let name = text.plain().ok_or("a tool's type is long or escaped")?;
        if HARMLESS.contains(&undated(name)) { Ok(()) } else { note(&mut self.found.tools, name) }
    }

    fn server(&mut self, name: &str) -> Result<(), Fault> {
        note(&mut self.found.tools, name)
    }

    /// The part that a container in this place is.
    fn part(&mut self, object: bool) -> Result<In, Fault> {
        Ok(match (self.slot(), object) {
            ((_, Slot::Model), _) => return Err("a model's name is not a text"),
            ((_, Slot::ToolType | Slot::BlockType | Slot::SourceType), _) => return Err("a type is not a text"),
            ((_, Slot::Server(name)), _) => {
                self.server(name)?;
                In::Other
            }
            ((_, Slot::McpServers), true) | ((In::McpServers, Slot::Element), _) => {
                self.server("mcp_servers")?;
                In::Other
            }
            ((_, Slot::McpServers), false) => In::McpServers,
            ((_, Slot::Fallbacks), false) => In::Fallbacks,
            ((_, Slot::Fallbacks), true) | ((In::Fallbacks, Slot::Element), true) => In::Fallback,
            ((In::Fallbacks, Slot::Element), false) => return Err("the models to fall back to are not understood"),
            ((_, Slot::Tools), false) => In::Tools,
            ((_, Slot::Tools), true) | ((In::Tools, Slot::Element), false) => {
                return Err("the tools are not a list of objects");
            }
            ((In::Tools, Slot::Element), true) => In::Tool,
            ((_, Slot::ToolConfig), true) => In::ToolConfig,
            ((_, Slot::ConverseTools), false) => In::ConverseTools,
            ((In::ConverseTools, Slot::Element), true) => In::ConverseTool,
            ((_, Slot::ToolConfig), false)
            | ((_, Slot::ConverseTools), true)
            | ((In::ConverseTools, Slot::Element), false) => {
                return Err("the tools are not a list of objects");
            }
            ((_, Slot::Fields), true) => In::Fields,
            ((_, Slot::Messages), false) => In::Messages,
            ((In::Messages, Slot::Element), true) | ((_, Slot::ToolResult), true) => In::Message,
            ((_, Slot::Content), false) => In::Content,
            ((_, Slot::Content), true) | ((In::Content, Slot::Element), true) => In::Block,
            ((_, Slot::Media), true) => In::Media,
            ((_, Slot::Source), true) => In::Source,
            ((_, Slot::Fields | Slot::Source | Slot::Media | Slot::ToolResult), false)
            | ((_, Slot::Messages), true) => {
                return Err("a part of the request has an unknown form");
            }
            ((In::Content | In::Messages, Slot::Element), false) => {
                return Err("a part of the request has an unknown form");
            }
            ((_, Slot::Element | Slot::Other), _) => In::Other,
        })
    }
}

/// Adds a name once.
fn note(names: &mut Vec<String>, name: &str) -> Result<(), Fault> {
    if !names.iter().any(|known| known == name) {
        if names.len() >= MOST_FOUND {
            return Err("it names too many models or tools");
        }
        names.push(name.to_owned());
    }
    Ok(())
}

impl Events for Walk {
    fn wants_texts(&self) -> bool {
        self.open.last().is_some_and(|open| open.part != In::Other)
    }

    fn key(&mut self, text: &Text) -> Result<(), Fault> {
        let Some(open) = self.open.last_mut().filter(|open| open.part != In::Other) else { return Ok(()) };
        let key = text.plain().filter(|key| key.is_ascii()).ok_or("a key is long, escaped, or not ASCII")?;
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let hash = hasher.finish();
        if open.keys.contains(&hash) {
            return Err("a key occurs twice");
        }
        if open.keys.len() >= MOST_KEYS {
            return Err("an object has too many keys");
        }
        open.keys.push(hash);
        open.slot = Slot::Other;
        for (known, slot) in open.part.keys() {
            if *known == key {
                open.slot = *slot;
            } else if known.eq_ignore_ascii_case(key) && !open.part.keys().iter().any(|(other, _)| *other == key) {
                return Err("a key is spelled like a known one, in another case");
            }
        }
        Ok(())
    }

    fn scalar(&mut self, value: &Scalar<'_>) -> Result<(), Fault> {
        match (self.slot(), value) {
            ((_, Slot::Model), Scalar::Text(text)) => self.model(text),
            ((_, Slot::Model), _) => Err("a model's name is not a text"),
            ((_, Slot::Fallbacks) | (In::Fallbacks, Slot::Element), Scalar::Text(text)) => {
                let name = text.plain().ok_or("a model's name is long or escaped")?;
                note(&mut self.found.models, name)
            }
            ((_, Slot::ToolType), Scalar::Text(text)) => self.tool(text),
            ((_, Slot::BlockType), Scalar::Text(text)) => match text.plain() {
                Some("container_upload") => self.server("container_upload"),
                Some(_) => Ok(()),
                None => Err("a type is long or escaped"),
            },
            ((_, Slot::SourceType), Scalar::Text(text)) => match text.plain() {
                Some("base64" | "text" | "content") => Ok(()),
                Some("url") => self.server("url_source"),
                Some("file") => self.server("file_source"),
                Some(other) => self.server(other),
                None => Err("a type is long or escaped"),
            },
            ((_, Slot::ToolType | Slot::BlockType | Slot::SourceType), Scalar::Other) => Err("a type is not a text"),
            ((_, Slot::Server(_) | Slot::McpServers), Scalar::Null) => Ok(()),
            ((_, Slot::Server(name)), _) => self.server(name),
            ((_, Slot::McpServers) | (In::McpServers, Slot::Element), _) => self.server("mcp_servers"),
            ((_, Slot::Tools | Slot::ToolConfig | Slot::ConverseTools | Slot::Fields), Scalar::Null) => Ok(()),
            ((_, Slot::Tools | Slot::ToolConfig | Slot::ConverseTools | Slot::Fields), _) => {
                Err("a part of the request has an unknown form")
            }
            ((In::Tools | In::ConverseTools, Slot::Element), _) => Err("the tools are not a list of objects"),
            _ => Ok(()),
        }
    }

    fn open(&mut self, object: bool) -> Result<(), Fault> {
        let part = match (self.open.is_empty(), object) {
            (true, true) => In::Request,
            (true, false) => return Err("it is not an object"),
            (false, _) => self.part(object)?,
        };
        let slot = if object { Slot::Other } else { Slot::Element };
        self.open.push(Open { part, slot, keys: Vec::new() });
        Ok(())
    }

    fn close(&mut self) {
        self.open.pop();
    }
}

/// Reads a body while it arrives.
#[derive(Debug)]
pub(crate) struct Reader(Json<Walk>);

impl Reader {
    pub(crate) fn new() -> Self {
        Self(Json::new(Walk::default()))
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.0.feed(bytes).map_err(refused)
    }

    /// What was found, once the body is complete.
    pub(crate) fn finish(mut self) -> Result<Found, Refusal> {
        self.0.finish().map_err(refused)?;
        Ok(self.0.events.found)
    }
}

fn refused(fault: Fault) -> Refusal {
    Refusal::ambiguous_body("the body of a model request is not read in one way only").about(fault)
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
