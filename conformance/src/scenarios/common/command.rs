//! Runs commands of the server's program that end by themselves.

use std::time::Duration;

use serde_json::Value;

use crate::description::Act;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};

/// How long a command other than `serve` may take.
pub(crate) const COMMAND_LIMIT: Duration = Duration::from_secs(10);

/// Exit status for an invalid configuration.
pub(crate) const EX_USAGE: i32 = 64;

/// The value of a setting in the output of `config --json`, in any layout: under its name, or in an object with its name.
pub(crate) fn setting<'v>(config: &'v Value, name: &str) -> Option<&'v Value> {
    match config {
        Value::Object(fields) if fields.get("name").and_then(Value::as_str) == Some(name) => fields.get("value"),
        Value::Object(fields) => fields.iter().find_map(|(key, value)| {
            if key == name { Some(value.get("value").unwrap_or(value)) } else { setting(value, name) }
        }),
        Value::Array(items) => items.iter().find_map(|item| setting(item, name)),
        _ => None,
    }
}

/// A setting's value as text, numbers included.
pub(crate) fn setting_text(config: &Value, name: &str) -> Result<String, Failure> {
    match setting(config, name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Ok(other.to_string()),
        None => Err(Failure::assertion(format!("`config --json` does not show {name}: {config}"))),
    }
}

/// The output of the server's `config --json` with only these variables.
pub(crate) async fn effective(context: &Context, env: &[(&str, &str)]) -> Result<Value, Failure> {
    let mut program = context.program(Act::ConfigJson)?;
    program.env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let output = program.output(&context.run.id, COMMAND_LIMIT).await?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    check_eq(format!("status of `config --json` ({stderr})"), output.status.code(), Some(0))?;
    let config = serde_json::from_slice(&output.stdout)
        .map_err(|error| Failure::mismatch("`config --json`", "JSON", format!("{error}: {:?}", output.stdout)))?;
    Ok(context.description().settings.in_contract_names(config))
}

/// Checks that `serve` with an invalid value for one variable exits with status 64 and names the variable and its value.
pub(crate) async fn is_refused(context: &Context, name: &str, value: &str) -> Result<(), Failure> {
    let mut program = context.program(Act::Serve)?;
    // A server that is not refused must not leave anything behind.
    for (name, value) in [("BIND_ADDR", "127.0.0.1:0"), ("WARM_POOL_MIN_SIZE", "0"), (name, value)] {
        program.env.insert(name.to_owned(), value.to_owned());
    }
    let output = program.output(&context.run.id, COMMAND_LIMIT).await?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stderr = context.description().settings.in_contract_words(&stderr);
    check_eq(format!("status of `serve` with {name}={value} ({stderr})"), output.status.code(), Some(EX_USAGE))?;
    let named = stderr.lines().any(|line| line.contains(name) && line.contains(value));
    check(named, format!("with {name}={value} no line names the variable and its value: {stderr}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_setting_is_found_in_any_reasonable_print() {
        for print in [
            json!({"settings": [{"name": "X", "value": "1"}, {"name": "A", "value": "60", "source": "default"}]}),
            json!({"A": "60"}),
            json!({"A": {"value": "60", "source": "default"}}),
            json!([{"name": "A", "value": 60}]),
        ] {
            assert_eq!(setting_text(&print, "A").expect("found"), "60", "{print}");
        }
        assert!(setting_text(&json!({"B": 1}), "A").is_err());
    }
}
