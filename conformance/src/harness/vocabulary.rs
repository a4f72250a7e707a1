//! Enumerations whose values have one spelling each: on the command line, in filters and in reports.

use clap::ValueEnum;
use serde::Serialize;
use strum::{Display, IntoStaticStr, VariantArray};

/// How bad a broken promise is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ValueEnum, Display, IntoStaticStr, VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Severity {
    /// The deployment does not start, a core function does not work, or a workspace is not isolated.
    Critical,
    /// Something leaks or is lost, or the behaviour is wrong for some users.
    High,
    /// A client or an operator is misled.
    Medium,
    /// A blemish.
    Low,
}

/// How much of a deployment the suite may touch; each profile includes the ones before it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ValueEnum, Display, IntoStaticStr, VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Profile {
    /// HTTP only.
    Core,
    /// Also the Docker socket and the socket directories on the host.
    Host,
    /// Also starts, breaks and stops deployments.
    Full,
}

/// Something the suite needs in order to run a scenario.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ValueEnum, Display, IntoStaticStr, VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Capability {
    /// Access to the Docker engine that runs the workspaces, and to the host's file system.
    Docker,
    /// Deployments of the suite's own, with settings of its own.
    Launch,
    /// The deployment's model is the scripted one: a prompt decides what it answers.
    Model,
    /// Origin servers of the suite's own that a workspace may be allowed to reach.
    Origin,
    /// A Redis server of the suite's own, from the machine's package.
    Redis,
    /// A PostgreSQL server of the suite's own, from the machine's package.
    Postgres,
    /// A Prometheus server of the suite's own, from the machine's package.
    Prometheus,
    /// Schemathesis, which generates requests from an OpenAPI description.
    Schemathesis,
    /// The server's image is on the engine and Docker's command line is installed, so that a server can run in a container.
    ServerImage,
    /// Compose, this project's Compose file, and the images that it names.
    Compose,
    /// The suite runs as root, so that it can mount file systems.
    Mount,
    /// The suite runs as root and finds `dockerd`, so that it can run an engine of its own to stop and start.
    OwnEngine,
    /// The workspace image is on the engine, so that containers and images can be made from it.
    Image,
    /// The Dockerfile of the workspace image and Docker's command line, so that images can be built from it.
    Build,
    /// The deployment has the operator's routes, below `/api/admin`.
    Admin,
    /// A run can be followed, and read again later, by `GET …/stream`.
    Resume,
    /// A conversation's files can be listed, read and written.
    Files,
}
