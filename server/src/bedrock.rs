//! Names of Amazon Bedrock: regions and endpoints.

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
