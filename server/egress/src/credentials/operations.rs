//! Operations: what may be asked with a credential, as a list of methods and paths.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, LazyLock};

use percent_encoding::percent_decode_str;

use crate::policy::{PolicyError, cut, plain_path};

/// What may be asked with a credential: an exact list of methods and paths, or anything.
#[derive(Clone)]
pub struct Operations(Option<Arc<[Operation]>>);

/// A method and a path that may be asked.
#[derive(Debug)]
pub(crate) struct Operation {
    /// The operation's name in records.
    pub(crate) name: Arc<str>,
    method: Box<str>,
    parts: Box<[Part]>,
    /// How the operation asks a model, if it does.
    pub(crate) api: Option<Api>,
}

#[derive(Debug)]
enum Part {
    /// A segment, exactly as it is sent.
    Fixed(Box<str>),
    /// One segment, whatever it is.
    One,
    /// All segments that are left, at least one.
    Rest,
}

/// How a request says which model it asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    /// In the path; the body is the provider's own or Converse's.
    Bedrock,
    /// In the path; the body holds a request to be counted.
    BedrockCount,
    /// In the body (the Messages API).
    Messages,
}

impl fmt::Debug for Operations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str("any"),
            Some(list) => f.debug_list().entries(list.iter().map(|operation| &operation.name)).finish(),
        }
    }
}

/// Names, methods and paths of Bedrock's runtime that are signed (AWS, "Amazon Bedrock Runtime", and two reads of inference profiles
/// that Claude Code makes). Not among them: bidirectional streams, asynchronous invocations, guardrails, and the control plane.
const BEDROCK: [(&str, &str, &str, Option<Api>); 7] = [
    ("InvokeModel", "POST", "/model/{id}/invoke", Some(Api::Bedrock)),
    ("InvokeModelWithResponseStream", "POST", "/model/{id}/invoke-with-response-stream", Some(Api::Bedrock)),
    ("Converse", "POST", "/model/{id}/converse", Some(Api::Bedrock)),
    ("ConverseStream", "POST", "/model/{id}/converse-stream", Some(Api::Bedrock)),
    ("CountTokens", "POST", "/model/{id}/count-tokens", Some(Api::BedrockCount)),
    ("ListInferenceProfiles", "GET", "/inference-profiles", None),
    ("GetInferenceProfile", "GET", "/inference-profiles/{id}", None),
];

/// Those of the Messages API. Not among them: batches, files, skills, and the administration.
const MESSAGES: [(&str, &str, &str, Option<Api>); 4] = [
    ("CreateMessage", "POST", "/v1/messages", Some(Api::Messages)),
    ("CountMessageTokens", "POST", "/v1/messages/count_tokens", Some(Api::Messages)),
    ("ListModels", "GET", "/v1/models", None),
    ("GetModel", "GET", "/v1/models/{id}", None),
];

fn known(list: &[(&str, &str, &str, Option<Api>)], base: &str) -> Arc<[Operation]> {
    let operation = |(name, method, path, api): &(&str, &str, &str, Option<Api>)| Operation {
        name: (*name).into(),
        method: (*method).into(),
        parts: parts(&format!("{base}{path}")),
        api: *api,
    };
    list.iter().map(operation).collect()
}

fn parts(path: &str) -> Box<[Part]> {
    let part = |segment: &str| match segment {
        rest if rest.starts_with("{+") && rest.ends_with('}') => Part::Rest,
        one if one.starts_with('{') && one.ends_with('}') => Part::One,
        fixed => Part::Fixed(fixed.into()),
    };
    path.split('/').skip(1).map(part).collect()
}

impl Operations {
    /// Anything. For credentials of a tenant's own that have no list.
    #[must_use]
    pub fn any() -> Self {
        Self(None)
    }

    /// The model operations of Amazon Bedrock's runtime, and the reads of inference profiles.
    #[must_use]
    pub fn bedrock() -> Self {
        static LIST: LazyLock<Arc<[Operation]>> = LazyLock::new(|| known(&BEDROCK, ""));
        Self(Some(LIST.clone()))
    }

    /// The operations of the Messages API: messages, the count of their tokens, and the reads of models.
    #[must_use]
    pub fn messages() -> Self {
        static LIST: LazyLock<Arc<[Operation]>> = LazyLock::new(|| known(&MESSAGES, ""));
        Self(Some(LIST.clone()))
    }

    /// As [`Self::messages`], of a gateway whose paths begin with `base`, for example `/anthropic`.
    ///
    /// # Errors
    /// `base` is no path.
    pub fn messages_below(base: &str) -> Result<Self, PolicyError> {
        let base = base.strip_suffix('/').unwrap_or(base);
        if base.is_empty() {
            return Ok(Self::messages());
        }
        if plain_path(base).as_deref() != Some(base) || base.contains(['{', '}']) {
            return Err(PolicyError::new("base", format!("{:?}: accepted: a path, for example /anthropic", cut(base))));
        }
        Ok(Self(Some(known(&MESSAGES, base))))
    }

    /// A list: the name, method and path of each operation. `{…}` stands for one segment of the path, `{+rest}` at the end for all
    /// that are left; everything else is compared exactly as it is sent.
    ///
    /// # Errors
    /// A method that is not in upper case, or a path that cannot be read in one way.
    pub fn list<'a>(operations: impl IntoIterator<Item = (&'a str, &'a str, &'a str)>) -> Result<Self, PolicyError> {
        let mut list = Vec::new();
        for (index, (name, method, path)) in operations.into_iter().enumerate() {
            let error =
                |field: &str, message: String| Err(PolicyError::new(format!("operations[{index}].{field}"), message));
            if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase() || b"-_".contains(&byte)) {
                return error("method", format!("{:?}: accepted: a method in upper case", cut(method)));
            }
            let parts = parts(path);
            let rest_inside = parts.iter().rev().skip(1).any(|part| matches!(part, Part::Rest));
            let braces = parts.iter().any(|part| matches!(part, Part::Fixed(fixed) if fixed.contains(['{', '}'])));
            if plain_path(path).is_none() || rest_inside || braces {
                let accepted = "accepted: a path, for example /repos/{owner}/issues, with {+rest} at the end only";
                return error("path", format!("{:?}: {accepted}", cut(path)));
            }
            list.push(Operation { name: name.into(), method: method.into(), parts, api: None });
        }
        if list.is_empty() {
            return Err(PolicyError::new("operations", "an empty list allows nothing; name an operation"));
        }
        Ok(Self(Some(list.into())))
    }

    pub(crate) fn are_any(&self) -> bool {
        self.0.is_none()
    }

    /// The operation that a request asks for, with what stands for its first `{…}`; `None` if it is not in the list.
    pub(crate) fn find<'o, 'p>(&'o self, method: &str, path: &'p str) -> Option<(&'o Operation, Option<&'p str>)> {
        let list = self.0.as_deref().unwrap_or_default();
        list.iter().filter(|operation| *operation.method == *method).find_map(|operation| {
            let captured = operation.matches(path)?;
            Some((operation, captured))
        })
    }
}

impl Operation {
    /// Compares a path as it is sent, segment by segment; returns the first variable one.
    #[expect(clippy::option_option, reason = "whether it matches, and whether there is a variable segment")]
    fn matches<'p>(&self, path: &'p str) -> Option<Option<&'p str>> {
        let mut rest = path.strip_prefix('/')?;
        let mut captured = None;
        let mut ended = false;
        for part in &self.parts {
            if ended {
                return None;
            }
            if matches!(part, Part::Rest) {
                return (!rest.is_empty() && plain_path(path).is_some()).then_some(captured);
            }
            let (segment, next) = rest.split_once('/').map_or((rest, None), |(segment, next)| (segment, Some(next)));
            match part {
                Part::Fixed(fixed) if **fixed == *segment => {}
                Part::One if segment_text(segment).is_some() => captured = captured.or(Some(segment)),
                Part::Fixed(_) | Part::One | Part::Rest => return None,
            }
            ended = next.is_none();
            rest = next.unwrap_or_default();
        }
        ended.then_some(captured)
    }
}

/// The text of a variable segment. An encoded slash is a part of it, as in an ARN; what a server could read as another path is
/// refused: dot segments and empty ones, backslashes, `;`, `?`, `#`, another escape, control characters.
pub(crate) fn segment_text(segment: &str) -> Option<Cow<'_, str>> {
    let text = percent_decode_str(segment).decode_utf8().ok()?;
    let misread = |c: char| c.is_control() || "\\;?#%".contains(c);
    let dotted = text.split('/').any(|part| part.is_empty() || part.chars().all(|c| c == '.'));
    (!dotted && !text.contains(misread)).then_some(text)
}
