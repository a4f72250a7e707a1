//! PostgreSQL and Redis in containers (testcontainers), for deployments that are launched as containers.

use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::PortBinding;
use testcontainers::core::{ContainerPort, IntoContainerPort as _};
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, ContainerRequest, GenericImage, ImageExt as _};
use tokio::sync::Mutex;

use super::image::LABEL_RUN;
use crate::harness::context::Context;
use crate::harness::engine::{Engine, Room};
use crate::harness::environment;
use crate::harness::failure::Failure;
use crate::harness::options::LaunchAs;
use crate::harness::pending;

/// The socket that testcontainers uses unless `DOCKER_HOST` is set.
const USUAL_ENGINE: &str = "unix:///var/run/docker.sock";
/// How long the engine may take to start a service.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Name of the database, its user and its password. The server exists for one scenario, on the loopback interface.
const DATABASE: &str = "conformance";

/// A service in a container, on a port of the loopback interface that stays the same across restarts.
#[derive(Debug, Clone)]
pub(super) struct Backing {
    room: Room,
    /// The port on the host.
    pub port: u16,
    container: Arc<Mutex<Option<ContainerAsync<GenericImage>>>>,
}

/// The image that the environment variable names, or this project's default.
fn image(variable: &str) -> String {
    let usual = if variable == environment::REDIS_IMAGE { "nagaya/redis:latest" } else { "nagaya/postgres:latest" };
    environment::named(variable).unwrap_or_else(|| usual.to_owned())
}

/// Checks that the service of this image can be started.
///
/// # Errors
/// What is missing.
pub async fn find(engine: &Engine, variable: &str) -> Result<(), String> {
    let theirs = std::env::var("DOCKER_HOST").unwrap_or_else(|_| USUAL_ENGINE.to_owned());
    let ours = format!("unix://{}", engine.socket().display());
    if theirs != ours {
        return Err(format!(
            "testcontainers uses the engine {theirs}, the workspaces are on {ours}: set DOCKER_HOST={ours}"
        ));
    }
    let image = image(variable);
    let found = engine.docker().inspect_image(&image).await;
    found.map(drop).map_err(|error| {
        format!("image {image}: {error}; scripts/service-images.sh makes it, {variable} names another")
    })
}

/// A refusal by testcontainers or the engine is no failure of the deployment.
fn harness(error: impl std::fmt::Display) -> Failure {
    Failure::harness(format!("testcontainers: {error}"))
}

impl Backing {
    async fn start(
        context: &Context,
        what: &str,
        port: ContainerPort,
        prepare: impl FnOnce(GenericImage) -> ContainerRequest<GenericImage>,
    ) -> Result<Self, Failure> {
        let variable = if what == "redis" { environment::REDIS_IMAGE } else { environment::POSTGRES_IMAGE };
        let image = image(variable);
        let (image, tag) = image.rsplit_once(':').unwrap_or((&image, "latest"));
        let name = context.new_container_name(what, context.engine()?)?;
        // The port is free now; if another process takes it first, the engine reports an error.
        let on_host = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let binding = PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(on_host.to_string()) };
        let request = prepare(GenericImage::new(image, tag).with_exposed_port(port))
            .with_container_name(&name)
            .with_label(LABEL_RUN, &context.run.id)
            .with_startup_timeout(START_LIMIT)
            // By default testcontainers publishes ports on every interface.
            .with_host_config_modifier(move |host| {
                host.publish_all_ports = Some(false);
                host.port_bindings = Some(HashMap::from([(port.to_string(), Some(vec![binding.clone()]))]));
            });
        let start = async move { request.start().await.map_err(harness) };
        let container = pending::complete(context.run.ledger(), &name, start).await?;
        let backing = Self {
            room: context.engine()?.container(&name),
            port: on_host,
            container: Arc::new(Mutex::new(Some(container))),
        };
        let to_remove = backing.clone();
        context.resources.add(format!("fixture {what} in a container"), move || async move {
            match to_remove.container.lock().await.take() {
                Some(container) => container.rm().await.map_err(harness),
                None => Ok(()),
            }
        });
        Ok(backing)
    }

    /// Redis without persistence.
    pub(super) async fn redis(context: &Context) -> Result<Self, Failure> {
        let command =
            ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--appendonly", "no"];
        Self::start(context, "redis", 6379.tcp(), |image| image.with_cmd(command)).await
    }

    /// PostgreSQL with an empty database, and the value for `DATABASE_URL`.
    pub(super) async fn postgres(context: &Context) -> Result<(Self, String), Failure> {
        let variables = ["POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB"];
        let prepare = |image: GenericImage| {
            let first = image.with_env_var(variables[0], DATABASE);
            variables[1..].iter().fold(first, |request, name| request.with_env_var(*name, DATABASE))
        };
        let backing = Self::start(context, "postgres", 5432.tcp(), prepare).await?;
        let url = format!("postgres://{DATABASE}:{DATABASE}@127.0.0.1:{}/{DATABASE}", backing.port);
        Ok((backing, url))
    }

    /// Whether PostgreSQL accepts connections. The temporary server of the image's initialisation listens on no port and does not count.
    pub(super) async fn postgres_answers(&self) -> Result<(), Failure> {
        self.exec(["pg_isready", "-q", "-h", "127.0.0.1", "-U", DATABASE]).await.map(drop)
    }

    /// Runs a command in the container, which must succeed, and returns its output.
    pub(super) async fn exec<S: Into<String>>(&self, command: impl IntoIterator<Item = S>) -> Result<String, Failure> {
        let done = self.room.exec(command).await?;
        if done.status != 0 {
            return Err(harness(format!("{}: status {}: {}", self.room.id, done.status, done.printed)));
        }
        Ok(done.printed)
    }

    /// Kills it; a stopped one is no error.
    pub(super) async fn kill(&self) -> Result<(), Failure> {
        let container = self.container.lock().await;
        self.there(container.as_ref())?.stop_with_timeout(Some(0)).await.map_err(harness)
    }

    /// Restarts it with its data.
    pub(super) async fn restart(&self) -> Result<(), Failure> {
        let container = self.container.lock().await;
        self.there(container.as_ref())?.start().await.map_err(harness)
    }

    /// Freezes all its processes.
    pub(super) async fn pause(&self) -> Result<(), Failure> {
        let container = self.container.lock().await;
        self.there(container.as_ref())?.pause().await.map_err(harness)
    }

    /// Unfreezes the processes that were frozen.
    pub(super) async fn resume(&self) -> Result<(), Failure> {
        let container = self.container.lock().await;
        self.there(container.as_ref())?.unpause().await.map_err(harness)
    }

    fn there<'c>(
        &self,
        container: Option<&'c ContainerAsync<GenericImage>>,
    ) -> Result<&'c ContainerAsync<GenericImage>, Failure> {
        container.ok_or_else(|| harness(format!("{} has been removed", self.room.id)))
    }
}

impl Context {
    /// Whether services beside a deployment run in containers too.
    pub(super) fn by_containers(&self) -> bool {
        self.run.options.launch == LaunchAs::Container
    }
}
