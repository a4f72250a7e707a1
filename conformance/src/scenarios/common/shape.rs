//! The shape of JSON documents: every deviation from the contract, not only the first.

use serde_json::Value;

use crate::harness::failure::{Failure, check};

/// What a field may be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Is {
    /// A text that is not empty.
    Text,
    /// A text, or null.
    OptionalText,
    /// A whole number, not negative.
    Count,
    /// A number, not negative.
    Number,
    /// A decimal number in a text.
    Decimal,
    /// A point in time (RFC 3339).
    Time,
    /// True or false.
    Flag,
    /// A list.
    List,
    /// One of these texts.
    OneOf(&'static [&'static str]),
}

impl Is {
    fn holds(self, value: &Value) -> bool {
        let text = value.as_str().unwrap_or_default();
        match self {
            Self::Text => !text.is_empty(),
            Self::OptionalText => value.is_null() || value.is_string(),
            Self::Count => value.is_u64(),
            Self::Number => value.as_f64().is_some_and(|number| number >= 0.0),
            Self::Decimal => text.parse::<f64>().is_ok_and(f64::is_finite),
            Self::Time => text.parse::<jiff::Timestamp>().is_ok(),
            Self::Flag => value.is_boolean(),
            Self::List => value.is_array(),
            Self::OneOf(texts) => texts.contains(&text),
        }
    }
}

/// Deviations that have been found so far.
#[derive(Debug, Default)]
pub(crate) struct Deviations(Vec<String>);

impl Deviations {
    /// Looks at the fields of an object; nested ones are named `outer.inner`.
    pub(crate) fn look(&mut self, what: &str, object: &Value, fields: &[(&str, Is)]) {
        for (field, is) in fields {
            let value = field.split('.').fold(object, |value, name| &value[name]);
            if !is.holds(value) {
                self.0.push(format!("{field} of {what} is {value}, not {is:?}"));
            }
        }
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
        let object = json!({"a": "", "b": {"c": -1}, "d": "0.003", "e": "2026-01-01T00:00:00Z", "f": null, "g": "x"});
        found.look(
            "it",
            &object,
            &[("d", Is::Decimal), ("e", Is::Time), ("f", Is::OptionalText), ("g", Is::OneOf(&["x"]))],
        );
        assert!(found.0.is_empty(), "{found:?}");
        found.look(
            "it",
            &object,
            &[("a", Is::Text), ("b.c", Is::Count), ("f", Is::Flag), ("g", Is::Decimal), ("h", Is::List)],
        );
        let failure = found.end().expect_err("five");
        for says in ["5 deviations", "a of it is \"\", not Text", "b.c of it is -1", "h of it is null, not List"] {
            assert!(failure.message.contains(says), "{failure}");
        }
    }
}
