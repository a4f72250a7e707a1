//! Where a driver calls its model.

use std::time::Duration;

/// Where a driver calls its model. It speaks plain HTTP there, which the egress proxy upgrades to TLS, and has no credential, which the
/// proxy adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The endpoint.
    pub place: Place,
    /// How long nothing of an answer may arrive.
    pub idle: Duration,
}

/// An endpoint of models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Amazon Bedrock.
    Bedrock {
        /// The region.
        region: String,
        /// The endpoint's base URL, `http://…`.
        url: String,
    },
    /// The Messages API.
    Messages {
        /// The endpoint's base URL, `http://…`.
        url: String,
        /// Whether it is Anthropic's own, and not a gateway's.
        is_anthropics: bool,
    },
}
