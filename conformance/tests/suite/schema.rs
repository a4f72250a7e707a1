//! The published schema describes exactly the fields of the report.

use serde_json::Value;

use crate::fixture::{Manner, judged};

/// Validates the part of JSON Schema (2020-12) that the published schema uses. An unknown keyword fails, because it would not be checked.
fn check(schema: &Value, value: &Value, place: &str) {
    for (word, wanted) in schema.as_object().expect("a schema is an object") {
        match word.as_str() {
            "$schema" | "$id" | "title" | "description" => {}
            "const" => assert_eq!(value, wanted, "{place}"),
            "enum" => assert!(wanted.as_array().expect("a list").contains(value), "{place}: {value}"),
            "type" => {
                let types = wanted.as_array().cloned().unwrap_or_else(|| vec![wanted.clone()]);
                assert!(
                    types.iter().any(|one| is(one.as_str().unwrap_or_default(), value)),
                    "{place}: {value} is not {wanted}"
                );
            }
            "required" => wanted.as_array().expect("a list").iter().for_each(|name| {
                assert!(value.get(name.as_str().unwrap_or_default()).is_some(), "{place}: {name} is missing");
            }),
            "properties" => {
                for (name, one) in value.as_object().into_iter().flatten() {
                    let schema = wanted.get(name).unwrap_or_else(|| panic!("{place}.{name} is not in the schema"));
                    check(schema, one, &format!("{place}.{name}"));
                }
            }
            "additionalProperties" => {
                value
                    .as_object()
                    .into_iter()
                    .flatten()
                    .for_each(|(name, one)| check(wanted, one, &format!("{place}.{name}")));
            }
            "items" => value.as_array().into_iter().flatten().for_each(|one| check(wanted, one, &format!("{place}[]"))),
            other => panic!("{place}: the schema uses {other:?}, which this test does not know"),
        }
    }
}

fn is(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.is_u64() || value.is_i64(),
        other => panic!("an unknown type: {other}"),
    }
}

#[test]
fn reports_are_as_the_schema_says() {
    let schema: Value = serde_json::from_str(include_str!("../../schema/report-1.schema.json")).expect("JSON");
    for (manner, more) in [
        (Manner::Good, &["--profile", "core", "--strict"][..]),
        (Manner::Fails, &[]),
        (Manner::Good, &["--filter", "id(=HLTH-001) or family(SEC)"]),
    ] {
        let (_, _, report) = judged(manner, more);
        check(&schema, &report, "report");
        assert_eq!(schema["$id"], report["schema"]);
    }
}

#[test]
#[should_panic(expected = "report.scenarios[].outcome")]
fn a_report_that_is_not_is_seen() {
    let schema: Value = serde_json::from_str(include_str!("../../schema/report-1.schema.json")).expect("JSON");
    let (_, _, mut report) = judged(Manner::Good, &[]);
    report["scenarios"][0]["outcome"] = "splendid".into();
    check(&schema, &report, "report");
}
