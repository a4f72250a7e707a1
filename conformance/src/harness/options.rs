//! What the command line asks of a run.

use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use rand::RngExt;
use serde::Serialize;
use strum::{Display, IntoStaticStr, VariantArray};

use crate::description::Description;
use crate::harness::vocabulary::Capability;

/// How the suite launches deployments.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ValueEnum, Display, IntoStaticStr, VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum LaunchAs {
    /// The server is a process of this machine; so are PostgreSQL and Redis.
    Process,
    /// The server is a container of its image; PostgreSQL and Redis are containers of theirs.
    Container,
}

/// Who listens on a workspace's `agent.sock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum, Display, IntoStaticStr)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum AgentSocket {
    /// The server: the agent connects to it, and the workspace cannot write to the directory.
    Server,
    /// The agent: the server connects to it, and the workspace can write to the directory.
    Agent,
}

/// The options of a run.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the target is like, and what it calls things.
    pub description: Arc<Description>,
    /// Base URL of an existing deployment; `None`: the suite launches its own.
    pub target: Option<String>,
    /// How deployments are launched.
    pub launch: LaunchAs,
    /// The Docker socket; `None`: the usual one, where the suite launches the deployment.
    pub docker: Option<String>,
    /// Key for the API.
    pub api_key: Option<String>,
    /// A PEM file with certificate authorities that are trusted in addition to this machine's.
    pub ca: Option<PathBuf>,
    /// Value of the label with the deployment's id of the target's containers.
    pub deployment: Option<String>,
    /// The workspace image. `None`: this project's, where the deployment under test is this project's, too.
    pub image: Option<String>,
    /// Who listens on a workspace's `agent.sock`.
    pub agent_socket: AgentSocket,
    /// Whether scenarios may break or remove things in the target that they did not create.
    pub allow_destructive: bool,
    /// Whether scenarios may call the target's model.
    pub allow_model_calls: bool,
    /// Optional features that the deployment does not have, by `--without`.
    pub without: Vec<Capability>,
    /// Factor for every deadline of the suite.
    pub patience: f64,
    /// Whether the machine is loaded while scenarios run.
    pub stress: bool,
    /// Seed of every random choice.
    pub seed: u64,
}

impl Options {
    /// The usual factor for deadlines.
    pub const PATIENCE: f64 = 1.0;
}

impl Default for Options {
    fn default() -> Self {
        Self {
            description: Description::own(),
            target: None,
            launch: LaunchAs::Process,
            docker: None,
            api_key: None,
            ca: None,
            deployment: None,
            image: None,
            patience: Self::PATIENCE,
            agent_socket: AgentSocket::Server,
            allow_destructive: false,
            allow_model_calls: false,
            without: Vec::new(),
            stress: false,
            seed: rand::rng().random(),
        }
    }
}
