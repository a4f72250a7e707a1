//! The audit trail.

use std::path::Path;

use serde_json::Value;

use crate::harness::failure::Failure;

/// What the trail has so far.
///
/// # Errors
/// It cannot be read, or a line is not JSON.
pub(crate) fn entries(trail: &Path) -> Result<Vec<Value>, Failure> {
    parse(&std::fs::read_to_string(trail)?)
}

/// The entries of a part of the trail. Its last line may not be whole yet.
///
/// # Errors
/// A line is not JSON.
pub(crate) fn parse(text: &str) -> Result<Vec<Value>, Failure> {
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let entry = |line: &str| {
        serde_json::from_str(line).map_err(|error| Failure::assertion(format!("a line of the trail: {error}: {line}")))
    };
    whole.lines().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_lines_are_entries_and_any_other_line_is_a_failure() {
        for (text, count) in [("", 0), ("{}", 0), ("{}\n", 1), ("{}\n{\"event\"", 1), ("{}\n{}\n", 2)] {
            assert_eq!(parse(text).map(|entries| entries.len()).ok(), Some(count), "{text:?}");
        }
        assert!(parse("{}\nnonsense\n{}\n").is_err());
    }
}
