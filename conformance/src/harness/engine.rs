//! The suite's own connection to the Docker engine, independent of the deployment.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error as DockerError;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::models::{ContainerCreateBody, ContainerInspectResponse};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, ListContainersOptionsBuilder, LogsOptionsBuilder,
    RemoveContainerOptionsBuilder,
};
use futures::StreamExt;
use serde_json::Value;

use crate::description::{Containers, Description};
use crate::harness::failure::Failure;
use crate::harness::ledger::Ledger;
use crate::harness::pace::{patient, within, within_at_least};
use crate::harness::pending;

/// How long a request to the engine may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// How long a command in a workspace may take.
const EXEC_LIMIT: Duration = Duration::from_secs(30);

/// A connection to the engine.
#[derive(Debug, Clone)]
pub struct Engine {
    docker: Docker,
    socket: PathBuf,
    containers: Arc<Containers>,
    /// Whether it runs the workspaces of a target, and may be another host's than the suite's.
    of_target: bool,
}

/// The result of a command in a container.
#[derive(Debug, Clone)]
pub struct ExecResult {
    /// Its exit status.
    pub status: i64,
    /// Its output: standard error, then standard output. The order between the two streams is unknown, and chunks of one may
    /// interrupt a line of the other.
    pub printed: String,
}

impl Engine {
    /// Connects and negotiates the API version.
    ///
    /// # Errors
    /// No engine answers there.
    pub async fn connect(socket: &str) -> anyhow::Result<Self> {
        let path = PathBuf::from(socket.strip_prefix("unix://").unwrap_or(socket));
        let text = path.to_str().context("the socket's path is not UTF-8")?;
        let docker =
            Docker::connect_with_unix(text, patient(REQUEST_LIMIT).as_secs().max(1), bollard::API_DEFAULT_VERSION)
                .with_context(|| format!("Docker at {socket}"))?;
        let docker = within_at_least(Duration::from_secs(5), docker.negotiate_version())
            .await
            .with_context(|| format!("Docker at {socket}: no answer"))?
            .with_context(|| format!("Docker at {socket}"))?;
        Ok(Self { docker, socket: path, containers: Description::own().containers.clone(), of_target: false })
    }

    /// The same engine, on which workspaces look like this. Without it they look like this project's.
    #[must_use]
    pub fn with(self, containers: &Arc<Containers>) -> Self {
        Self { containers: containers.clone(), ..self }
    }

    /// The same engine, which runs the workspaces of a target that the suite did not launch.
    #[must_use]
    pub fn of_target(self) -> Self {
        Self { of_target: true, ..self }
    }

    /// What workspaces on it look like.
    #[must_use]
    pub fn containers(&self) -> &Containers {
        &self.containers
    }

    /// The engine's socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The API itself.
    #[must_use]
    pub fn docker(&self) -> &Docker {
        &self.docker
    }

    /// The workspaces of a deployment, or only the running ones.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn rooms(&self, deployment: &str, running_only: bool) -> Result<Vec<Room>, Failure> {
        let filters = HashMap::from([("label", vec![format!("{}={deployment}", self.containers.deployment_label)])]);
        let options = ListContainersOptionsBuilder::new().all(!running_only).filters(&filters).build();
        let list = self.docker.list_containers(Some(options)).await?;
        let room = |summary: bollard::models::ContainerSummary| Room {
            engine: self.clone(),
            id: summary.id.unwrap_or_default(),
            workspace: summary.labels.and_then(|mut labels| labels.remove(&self.containers.workspace_label)),
        };
        Ok(list.into_iter().map(room).collect())
    }

    /// All paths of the host that are mounted into a container.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn mounted(&self) -> Result<HashSet<PathBuf>, Failure> {
        let list = self.docker.list_containers(Some(ListContainersOptionsBuilder::new().all(true).build())).await?;
        let mounts = list.into_iter().flat_map(|summary| summary.mounts.unwrap_or_default());
        Ok(mounts.filter_map(|mount| mount.source).map(PathBuf::from).collect())
    }

    /// Whether users in its containers have other ids on the host (`userns-remap`).
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn remaps(&self) -> Result<bool, Failure> {
        let options = self.docker.info().await?.security_options.unwrap_or_default();
        Ok(options.iter().any(|option| option.contains("name=userns")))
    }

    /// Creates a container of the suite's own. Its removal waits until it exists.
    ///
    /// # Errors
    /// The engine refuses, or the ledger cannot be written.
    pub async fn create(&self, ledger: &Ledger, name: &str, body: ContainerCreateBody) -> Result<Room, Failure> {
        let (docker, options) = (self.docker.clone(), CreateContainerOptionsBuilder::new().name(name).build());
        let create = async move { docker.create_container(Some(options), body).await };
        pending::complete(ledger, name, create).await?;
        Ok(self.container(name))
    }

    /// A container by name or id.
    #[must_use]
    pub fn container(&self, name: &str) -> Room {
        Room { engine: self.clone(), id: name.to_owned(), workspace: None }
    }
}

/// `None` for a container that does not exist, or is being removed.
fn unless_gone<T>(result: Result<T, DockerError>) -> Result<Option<T>, Failure> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(DockerError::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// One container.
#[derive(Debug, Clone)]
pub struct Room {
    engine: Engine,
    /// Docker's id or name.
    pub id: String,
    /// The workspace's id, from the label.
    pub workspace: Option<String>,
}

impl Room {
    /// What workspaces look like.
    #[must_use]
    pub fn containers(&self) -> &Containers {
        &self.engine.containers
    }

    /// Path of the socket directory inside it.
    #[must_use]
    pub fn sockets(&self) -> &str {
        &self.engine.containers.sockets
    }

    /// Docker's description of it.
    ///
    /// # Errors
    /// It is not there, or the engine does not answer.
    pub async fn inspect(&self) -> Result<ContainerInspectResponse, Failure> {
        Ok(self.engine.docker.inspect_container(&self.id, None).await?)
    }

    /// Docker's description as JSON, as `docker inspect` shows it.
    ///
    /// # Errors
    /// As [`Room::inspect`].
    pub async fn inspect_json(&self) -> Result<Value, Failure> {
        serde_json::to_value(self.inspect().await?).map_err(Failure::harness)
    }

    /// Whether it is running; a missing one is not.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn is_running(&self) -> Result<bool, Failure> {
        let found = unless_gone(self.engine.docker.inspect_container(&self.id, None).await)?;
        Ok(found.and_then(|it| it.state).and_then(|state| state.running).unwrap_or(false))
    }

    /// The result of the image's health check: `healthy`, `unhealthy`, `starting`, `none`.
    ///
    /// # Errors
    /// As [`Room::inspect`].
    pub async fn health(&self) -> Result<String, Failure> {
        let state = self.inspect().await?.state;
        let status = state.and_then(|state| state.health).and_then(|health| health.status);
        Ok(status.map_or_else(|| "none".to_owned(), |status| status.to_string()))
    }

    /// The directory on the host that holds its sockets.
    ///
    /// # Errors
    /// It has none, or as [`Room::inspect`]. Could not run: it is the engine's of a target, and not to be seen from here.
    pub async fn socket_dir(&self) -> Result<PathBuf, Failure> {
        let mounts = self.inspect().await?.mounts.unwrap_or_default();
        let sockets = mounts.into_iter().find(|mount| mount.destination.as_deref() == Some(self.sockets()));
        let dir = sockets.and_then(|mount| mount.source).map(PathBuf::from).ok_or_else(|| {
            Failure::assertion(format!("container {} has nothing mounted at {}", self.id, self.sockets()))
        })?;
        // What is on the engine's host only, the suite cannot judge.
        match std::fs::symlink_metadata(&dir) {
            Err(error) if self.engine.of_target => Err(Failure::could_not_run(format!(
                "{} of the engine's host cannot be seen from here ({error}): run the suite on that host as a user who may, or in a \
                 container with the directory above it mounted at the same path",
                dir.display()
            ))),
            _ => Ok(dir),
        }
    }

    /// Runs a command in it, as its own user.
    ///
    /// # Errors
    /// It cannot be run, or does not end.
    pub async fn exec<S: Into<String>>(&self, command: impl IntoIterator<Item = S>) -> Result<ExecResult, Failure> {
        let command: Vec<String> = command.into_iter().map(Into::into).collect();
        let run = async {
            let options = CreateExecOptions {
                cmd: Some(command.clone()),
                attach_stdout: Some(true),
                attach_stderr: Some(true),
                ..CreateExecOptions::default()
            };
            let exec = self.engine.docker.create_exec(&self.id, options).await?;
            let (mut errors, mut rest) = (Vec::new(), Vec::new());
            if let StartExecResults::Attached { mut output, .. } = self.engine.docker.start_exec(&exec.id, None).await?
            {
                while let Some(chunk) = output.next().await {
                    match chunk? {
                        LogOutput::StdErr { message } => errors.extend_from_slice(&message),
                        other => rest.extend_from_slice(&other.into_bytes()),
                    }
                }
            }
            let status = self.engine.docker.inspect_exec(&exec.id).await?.exit_code.unwrap_or(-1);
            let printed = [errors, rest].concat();
            Ok::<_, DockerError>(ExecResult { status, printed: String::from_utf8_lossy(&printed).into_owned() })
        };
        match within(EXEC_LIMIT, run).await {
            // A missing container is a failure of the deployment, not of Docker: the scenario has seen it before.
            Ok(Err(DockerError::DockerResponseServerError { status_code: 404 | 409, message })) => {
                Err(Failure::mismatch(
                    format!("exec of {command:?} in workspace {}", self.id),
                    "a workspace that runs",
                    message,
                ))
            }
            Ok(result) => result.map_err(|error| Failure::from(error).during(format!("exec of {command:?}"))),
            Err(_) => {
                Err(Failure::mismatch(format!("exec of {command:?}"), format!("an end in {EXEC_LIMIT:?}"), "none"))
            }
        }
    }

    /// As [`Room::exec`], for a shell line.
    ///
    /// # Errors
    /// As [`Room::exec`].
    pub async fn shell(&self, line: &str) -> Result<ExecResult, Failure> {
        self.exec(["sh", "-c", line]).await
    }

    /// Sends a signal to its first process.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn kill(&self, signal: &str) -> Result<(), Failure> {
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        Ok(self.engine.docker.kill_container(&self.id, Some(options)).await?)
    }

    /// Freezes all its processes.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn pause(&self) -> Result<(), Failure> {
        Ok(self.engine.docker.pause_container(&self.id).await?)
    }

    /// Unfreezes the processes that were frozen.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn unpause(&self) -> Result<(), Failure> {
        Ok(self.engine.docker.unpause_container(&self.id).await?)
    }

    /// The last lines of its output.
    ///
    /// # Errors
    /// It is not there, or the engine does not answer.
    pub async fn logs(&self) -> Result<String, Failure> {
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail("60").build();
        let mut stream = std::pin::pin!(self.engine.docker.logs(&self.id, Some(options)));
        let mut text = String::new();
        while let Some(chunk) = stream.next().await {
            text.push_str(&String::from_utf8_lossy(&LogOutput::into_bytes(chunk?)));
        }
        Ok(text)
    }

    /// Removes it by force once the engine has created it; a missing one is no error.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn remove(&self) -> Result<(), Failure> {
        pending::completed(&self.id).await;
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        unless_gone(self.engine.docker.remove_container(&self.id, Some(options)).await).map(|_| ())
    }
}
