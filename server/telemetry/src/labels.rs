//! Label values that the server itself defines. Each is a closed set, so that no scrape grows without bound.

use strum::{IntoStaticStr, VariantArray};

/// Where a conversation's workspace came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum StartSource {
    /// It was taken from the warm pool.
    Warm,
    /// It was created for the conversation.
    Cold,
}

/// Why a line of a driver's has no meaning here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum UnknownFrame {
    /// It is a request that is not known, which was answered with an error.
    Request,
    /// It is not JSON, or has too many values.
    Malformed,
    /// It reports something of the driver's own, of a kind that is not known.
    System,
    /// Its type is not known.
    Other,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray, serde::Serialize, serde::Deserialize)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    /// The driver reported success.
    Success,
    /// The driver reported an error, or the run could not be carried out.
    Error,
    /// The run reached `CONTAINER_EXECUTION_TIMEOUT`.
    Timeout,
    /// A client cancelled it.
    Cancelled,
}

/// Direction of a sync between a workspace and object storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum SyncDirection {
    /// From object storage into the workspace.
    In,
    /// From the workspace to object storage.
    Out,
}
