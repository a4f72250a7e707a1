//! Names of Amazon Bedrock: regions, endpoints, and the environment that leads the driver there.

use std::time::Duration;

/// How often the driver repeats a call of the model: five attempts within about ten seconds.
pub(crate) const MODEL_RETRIES: u32 = 4;

/// Every variable that [`environment`] sets, but for the region, which other programs use too.
pub const VARIABLES: [&str; 8] = [
    "ANTHROPIC_BEDROCK_BASE_URL",
    "CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS",
    "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK",
    "CLAUDE_CODE_MAX_RETRIES",
    "CLAUDE_CODE_SKIP_BEDROCK_AUTH",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_ENABLE_BYTE_WATCHDOG",
    "CLAUDE_ENABLE_BYTE_WATCHDOG_BEDROCK",
];

/// Host that serves a region's models (AWS General Reference, "Amazon Bedrock endpoints and quotas", data plane).
#[must_use]
pub fn runtime_host(region: &str) -> String {
    format!("bedrock-runtime.{region}.amazonaws.com")
}

/// Host of a region's control plane, of which the driver lists inference profiles.
#[must_use]
pub fn control_host(region: &str) -> String {
    format!("bedrock.{region}.amazonaws.com")
}

/// Whether a text can be a region's name: lower-case letters, digits and inner hyphens. It becomes part of a host name.
#[must_use]
pub fn is_region(text: &str) -> bool {
    (1..=40).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Environment of a driver that is to call the models of a region. It holds no secret: the calls leave the workspace
/// unsigned, and the egress proxy signs them.
///
/// A call that fails is repeated at most [`MODEL_RETRIES`] times, and an answer that stalls for `idle` is given up: the driver's own
/// limits are some minutes, ten attempts, and a second, unstreamed request for an answer whose beginning was shown already.
#[must_use]
pub fn environment(region: &str, idle: Duration) -> Vec<(&'static str, String)> {
    vec![
        ("AWS_REGION", region.into()),
        ("CLAUDE_CODE_USE_BEDROCK", "1".into()),
        ("CLAUDE_CODE_SKIP_BEDROCK_AUTH", "1".into()),
        // Plain HTTP on purpose: the egress proxy upgrades it to TLS.
        ("ANTHROPIC_BEDROCK_BASE_URL", format!("http://{}", runtime_host(region))),
        ("CLAUDE_CODE_MAX_RETRIES", MODEL_RETRIES.to_string()),
        ("CLAUDE_ENABLE_BYTE_WATCHDOG", "1".into()),
        ("CLAUDE_ENABLE_BYTE_WATCHDOG_BEDROCK", "1".into()),
        ("CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS", idle.as_millis().to_string()),
        ("CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK", "1".into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_that_is_set_is_listed() {
        for (name, _) in environment("us-east-1", Duration::from_secs(60)) {
            assert!(name == "AWS_REGION" || VARIABLES.contains(&name), "{name} would stay for another provider");
        }
    }
}
