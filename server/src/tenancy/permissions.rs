//! What the agent asks about before it does it, and what it never does.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problem::{Problems, check_list};

/// Rules about the driver's tools. Each is a name, such as `Bash`, `mcp__server` or `mcp__server__tool`, perhaps with a specifier, such as
/// `Bash(git push:*)`. They bind the model, and not code that already runs in the workspace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = ConfigurationPermissions)]
pub struct Permissions {
    /// Tools whose use somebody must approve, in addition to those of the levels above.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 100)]
    pub ask: Vec<String>,
    /// Tools that are not used, in addition to those of the levels above.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 100)]
    pub deny: Vec<String>,
    /// Whether the agent may ask the user questions; not if no level says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub questions: Option<bool>,
}

impl Permissions {
    pub(super) fn check(&self, problems: &mut Problems) {
        for (place, list) in [("permissions.ask", &self.ask), ("permissions.deny", &self.deny)] {
            check_list(problems, place, Some(list));
            for (at, rule) in list.iter().enumerate() {
                let accepted = "must be the name of a tool, such as Bash or mcp__server__tool, perhaps followed by (…)";
                problems.require(is_rule(rule), format!("{place}[{at}]"), accepted);
            }
        }
    }
}

/// Whether a text is a rule: letters, digits, '_' and '-', and perhaps a specifier in parentheses.
fn is_rule(text: &str) -> bool {
    let (name, specifier) = match text.split_once('(') {
        Some((name, rest)) => (name, rest.strip_suffix(')')),
        None => (text, Some("*")),
    };
    let named = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    named && specifier.is_some_and(|text| !text.is_empty() && !text.chars().any(char::is_control))
}

/// What `above` has, and what is added, each once.
pub(super) fn add(above: &mut Vec<String>, added: &[String]) {
    for rule in added {
        if !above.contains(rule) {
            above.push(rule.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_tools_and_perhaps_what_they_are_used_for() {
        for rule in ["Bash", "mcp__server", "mcp__my-server__tool_1", "Bash(git push:*)", "Read(/a (b)/**)", "A(長)"] {
            assert!(is_rule(rule), "{rule}");
        }
        for junk in
            ["", "(a)", "Bash()", "Bash(a", "Bash)", "Bash a", "Bash,Edit", "*", "Bash(a)b", "B\u{e4}sh", "Bash(a\nb)"]
        {
            assert!(!is_rule(junk), "{junk}");
        }
    }
}
