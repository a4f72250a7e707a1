//! The shape of JSON documents: every deviation from the contract, not only the first.

use serde_json::Value;

use crate::contract::schema;
use crate::harness::failure::{Failure, check};

/// Deviations that have been found so far.
#[derive(Debug, Default)]
pub(crate) struct Deviations(Vec<String>);

impl Deviations {
    /// Looks at a body that should be as the contract's schema of this name says.
    pub(crate) fn look(&mut self, what: &str, body: &Value, name: &str) {
        self.0.extend(schema::of_body(name, what, body));
    }

    /// Adds deviations that were found otherwise.
    pub(crate) fn add(&mut self, found: impl IntoIterator<Item = String>) {
        self.0.extend(found);
    }

    /// All at once.
    ///
    /// # Errors
    /// There is one.
    pub(crate) fn end(self) -> Result<(), Failure> {
        let list = self.0.join("\n");
        check(self.0.is_empty(), format!("{} deviations from the contract's shapes:\n{list}", self.0.len()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_deviation_is_named() {
        let mut found = Deviations::default();
        found.look("it", &json!({"name": "n", "version": "1", "docs_url": "/docs"}), "About");
        assert!(found.0.is_empty(), "{found:?}");
        found.look("it", &json!({"name": "", "version": 1}), "About");
        found.add(["another".to_owned()]);
        let failure = found.end().expect_err("four");
        for says in ["4 deviations", "name of it is \"\"", "version of it is 1", "docs_url of it is missing", "another"]
        {
            assert!(failure.message.contains(says), "{failure}");
        }
    }
}
