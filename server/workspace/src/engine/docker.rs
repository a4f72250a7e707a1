//! The Docker Engine API through bollard.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use bollard::errors::Error;
use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, Mount, MountBindOptions, MountBindOptionsPropagationEnum, MountType,
    ResourcesUlimits,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
    StopContainerOptionsBuilder,
};
use futures::TryStreamExt;
use tokio::sync::OnceCell;

use super::{Condition, ContainerSpec, Engine, EngineAddress, EngineError, EngineInfo, ListedContainer, MAX_OUTPUT};

/// Time limit for a call that changes something; creating a container on a busy host is the slowest.
const CALL_DEADLINE: Duration = Duration::from_secs(60);
/// Time limit for a query for which the engine reads its state: a list or an inspection.
const QUERY_DEADLINE: Duration = Duration::from_secs(15);
/// Time limit for a query that the engine answers at once.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);

/// A Docker engine. The client is created, and its API version negotiated, at the first call that the engine answers.
#[derive(Debug)]
pub struct Docker {
    address: EngineAddress,
    client: OnceCell<bollard::Docker>,
}

impl Docker {
    /// A client for the engine at `address`, not connected yet.
    #[must_use]
    pub fn new(address: EngineAddress) -> Self {
        Self { address, client: OnceCell::new() }
    }

    async fn client(&self) -> Result<&bollard::Docker, EngineError> {
        self.client
            .get_or_try_init(|| async {
                // Long, because `stop` returns only after the grace period. The deadlines of this module are shorter.
                let timeout = 600;
                let docker = match &self.address {
                    EngineAddress::Unix(path) => bollard::Docker::connect_with_unix(
                        &path.to_string_lossy(),
                        timeout,
                        bollard::API_DEFAULT_VERSION,
                    ),
                    EngineAddress::Tcp(authority) => {
                        bollard::Docker::connect_with_http(authority, timeout, bollard::API_DEFAULT_VERSION)
                    }
                }
                .map_err(|error| self.error("connect", PROBE_DEADLINE, error))?;
                self.within(PROBE_DEADLINE, "negotiate the API version", docker.negotiate_version()).await
            })
            .await
    }

    async fn within<T>(
        &self,
        limit: Duration,
        what: &'static str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, EngineError> {
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => answer.map_err(|error| self.error(what, limit, error)),
            Err(_) => Err(EngineError::Timeout { what, limit }),
        }
    }

    fn error(&self, what: &'static str, limit: Duration, error: Error) -> EngineError {
        match error {
            Error::DockerResponseServerError { status_code: 404, message } => EngineError::NotFound(message),
            // The API has no error codes for these two, only messages (moby: `volume/mounts/validate.go`, `daemon/delete.go`).
            Error::DockerResponseServerError { status_code: 400, message }
                if message.contains("bind source path does not exist") =>
            {
                EngineError::NoSuchHostPath(message)
            }
            Error::DockerResponseServerError { status_code: 409, message }
                if message.contains("already in progress") =>
            {
                EngineError::RemovalInProgress
            }
            Error::DockerResponseServerError { message, .. } => EngineError::Refused { what, why: message },
            Error::RequestTimeoutError => EngineError::Timeout { what, limit },
            other => EngineError::Unreachable {
                address: self.address.to_string(),
                why: root_cause(&other),
                io_error: io_error_kind(&other),
            },
        }
    }

    async fn await_gone(&self, name: &str) -> Result<(), EngineError> {
        let client = self.client().await?;
        let what = "finish removing a container";
        let gone = async {
            loop {
                match client.inspect_container(name, None).await {
                    Err(Error::DockerResponseServerError { status_code: 404, .. }) => return Ok(()),
                    Err(error) => return Err(error),
                    Ok(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        self.within(CALL_DEADLINE, what, gone).await
    }
}

#[async_trait]
impl Engine for Docker {
    async fn ping(&self) -> Result<(), EngineError> {
        let client = self.client().await?;
        self.within(PROBE_DEADLINE, "answer a ping", client.ping()).await.map(|_| ())
    }

    async fn info(&self) -> Result<EngineInfo, EngineError> {
        let client = self.client().await?;
        let info = self.within(QUERY_DEADLINE, "describe itself", client.info()).await?;
        let lacks = |has: Option<bool>, name| (has != Some(true)).then_some(name);
        let seccomp = info.security_options.iter().flatten().any(|option| option.contains("seccomp"));
        let missing_limits = [
            lacks(info.memory_limit, "memory"),
            lacks(info.swap_limit, "swap"),
            lacks(info.cpu_cfs_quota, "cpu"),
            lacks(info.pids_limit, "pids"),
            lacks(Some(seccomp), "seccomp"),
        ];
        Ok(EngineInfo {
            version: info.server_version.unwrap_or_default(),
            api_version: client.client_version().to_string(),
            missing_limits: missing_limits.into_iter().flatten().collect(),
        })
    }

    async fn has_image(&self, image: &str) -> Result<bool, EngineError> {
        let client = self.client().await?;
        match self.within(PROBE_DEADLINE, "inspect the image", client.inspect_image(image)).await {
            Ok(_) => Ok(true),
            Err(EngineError::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn run(&self, spec: ContainerSpec) -> Result<String, EngineError> {
        let client = self.client().await?;
        let options = CreateContainerOptionsBuilder::default().name(&spec.name).build();
        let body = create_request(spec);
        let create = client.create_container(Some(options), body);
        let created = self.within(CALL_DEADLINE, "create a container", create).await?;
        self.within(CALL_DEADLINE, "start a container", client.start_container(&created.id, None)).await?;
        Ok(created.id)
    }

    async fn list(&self, label: &str, value: &str) -> Result<Vec<ListedContainer>, EngineError> {
        let client = self.client().await?;
        let filters = HashMap::from([("label", vec![format!("{label}={value}")])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let listed = self.within(QUERY_DEADLINE, "list containers", client.list_containers(Some(options))).await?;
        Ok(listed
            .into_iter()
            .map(|container| {
                let state = container.state.map(|state| state.to_string()).unwrap_or_default();
                ListedContainer {
                    id: container.id.unwrap_or_default(),
                    labels: container.labels.unwrap_or_default(),
                    running: state == "running",
                    paused: state == "paused",
                    created: container.created.unwrap_or_default(),
                }
            })
            .collect())
    }

    async fn condition(&self, name: &str) -> Result<Condition, EngineError> {
        let client = self.client().await?;
        match self.within(QUERY_DEADLINE, "inspect a container", client.inspect_container(name, None)).await {
            Ok(container) => Ok(container.state.map_or(Condition::Stopped(0), |state| {
                // The engine says of a paused container that it runs, too.
                match (state.paused, state.running) {
                    (Some(true), _) => Condition::Paused,
                    (_, Some(true)) => Condition::Running,
                    _ => Condition::Stopped(state.exit_code.unwrap_or_default()),
                }
            })),
            Err(EngineError::NotFound(_)) => Ok(Condition::Missing),
            Err(error) => Err(error),
        }
    }

    async fn last_output(&self, name: &str) -> Result<String, EngineError> {
        let client = self.client().await?;
        let options = LogsOptionsBuilder::default().stdout(true).stderr(true).tail("20").build();
        let lines = client.logs(name, Some(options)).try_fold(Vec::new(), async |mut text, line| {
            text.extend_from_slice(&line.into_bytes());
            // A line can have any length; only the end is wanted.
            let excess = text.len().saturating_sub(MAX_OUTPUT);
            text.drain(..excess);
            Ok(text)
        });
        let text = self.within(QUERY_DEADLINE, "read a container's output", lines).await?;
        Ok(String::from_utf8_lossy(&text).trim().to_owned())
    }

    async fn remove(&self, name: &str, grace: Duration) -> Result<(), EngineError> {
        let client = self.client().await?;
        let seconds = i32::try_from(grace.as_secs().max(1)).unwrap_or(i32::MAX);
        let stop = StopContainerOptionsBuilder::default().t(seconds).build();
        let gone = |result: Result<(), EngineError>| match result {
            Err(EngineError::NotFound(_)) => Ok(()),
            other => other,
        };
        if !grace.is_zero() {
            gone(
                self.within(grace + CALL_DEADLINE, "stop a container", client.stop_container(name, Some(stop))).await,
            )?;
        }
        let remove = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        let removed =
            self.within(CALL_DEADLINE, "remove a container", client.remove_container(name, Some(remove))).await;
        match gone(removed) {
            // Another client removes the container; wait until that removal has completed.
            Err(EngineError::RemovalInProgress) => self.await_gone(name).await,
            other => other,
        }
    }
}

/// The body of `POST /containers/create` (Docker Engine API 1.41).
pub(crate) fn create_request(spec: ContainerSpec) -> ContainerCreateBody {
    let (source, target) = spec.mount;
    let bind = Mount {
        typ: Some(MountType::BIND),
        source: Some(source.to_string_lossy().into_owned()),
        target: Some(target),
        read_only: Some(true),
        // With a mount, a missing source is an error. A bind (`-v`) would create it and hide a wrong host path.
        bind_options: Some(MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
            ..Default::default()
        }),
        ..Default::default()
    };
    let ulimit = |name: &str, value| ResourcesUlimits { name: Some(name.into()), soft: Some(value), hard: Some(value) };
    ContainerCreateBody {
        image: Some(spec.image),
        user: Some(spec.user),
        env: Some(spec.env),
        labels: Some(spec.labels),
        // The agent is connected to the server, which notices when it is gone. The image's check starts a process each time.
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".into()]), ..Default::default() }),
        host_config: Some(HostConfig {
            network_mode: Some("none".into()),
            readonly_rootfs: Some(true),
            mounts: Some(vec![bind]),
            tmpfs: Some(spec.tmpfs),
            cap_drop: Some(vec!["ALL".into()]),
            security_opt: Some(vec!["no-new-privileges:true".into(), format!("seccomp={}", spec.seccomp)]),
            nano_cpus: Some(spec.nano_cpus),
            memory: Some(spec.memory),
            memory_swap: Some(spec.memory),
            pids_limit: Some(spec.pids),
            ulimits: Some(vec![ulimit("nofile", spec.open_files), ulimit("core", 0), ulimit("msgqueue", 0)]),
            ipc_mode: Some("private".into()),
            log_config: Some(bollard::models::HostConfigLogConfig {
                typ: Some("json-file".into()),
                config: Some(HashMap::from([("max-size".into(), "1m".into()), ("max-file".into(), "1".into())])),
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The message of the innermost error; the outer ones say only that a request failed.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// The kind of the first I/O error among an error and its causes.
fn io_error_kind(error: &(dyn std::error::Error + 'static)) -> Option<std::io::ErrorKind> {
    std::iter::successors(Some(error), |error| error.source())
        .find_map(|error| error.downcast_ref::<std::io::Error>())
        .map(std::io::Error::kind)
}
