//! Launches deployments, with a scripted model behind them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::deployment::{Deployment, Server};
use super::fixtures::{Credentials, Origin};
use super::memory::Memory;
use super::process::{Process, Program};
use super::services::Services;
use super::serving::{arguments, free_address};
use super::small_disk;
use super::storage::{BUCKET, Storage};
use super::witnesses::{Log, Metrics, Rooms};
use crate::client::http::Api;
use crate::description::Act;
use crate::harness::context::Context;
use crate::harness::engine::{Engine, Room};
use crate::harness::failure::{Failure, check};
use crate::harness::ledger::Made;
use crate::harness::tree;
use crate::harness::vocabulary::Capability;

/// The region of launched deployments.
pub const REGION: &str = "us-east-1";

/// The port of the gateway that speaks the Messages API.
pub const GATEWAY_PORT: u16 = 8443;

/// How to launch a deployment.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    pub(super) settings: BTreeMap<String, String>,
    /// `host`, `port`, and the address they resolve to.
    pub(super) pins: Vec<(String, u16, String)>,
    pub(super) ca_pem: String,
    not_ready: bool,
    no_model: bool,
    credentials: Option<Credentials>,
    key: Option<String>,
    contained: bool,
    engine: Option<Engine>,
    state_mib: Option<u32>,
    descriptors: Option<u32>,
}

impl Launch {
    /// Settings that make a scenario quick and leave nothing behind; all others keep their defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a setting, or overrides one of the suite's.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.insert(name.to_owned(), value.to_string());
        self
    }

    /// Resolves a host to an origin of the suite's.
    #[must_use]
    pub fn pin(mut self, host: &str, port: u16, origin: &Origin) -> Self {
        self = self.pin_address(host, port, &origin.address);
        if let Some(ca) = &origin.ca {
            self.ca_pem.push_str(&std::fs::read_to_string(ca).unwrap_or_default());
        }
        self
    }

    /// Resolves a host to the services; port 443 uses TLS with a certificate that the deployment trusts.
    #[must_use]
    pub fn pin_services(mut self, host: &str, port: u16, services: &Services) -> Self {
        if !self.ca_pem.contains(&services.ca_pem) {
            self.ca_pem.push_str(&services.ca_pem);
        }
        self.pin_address(host, port, if port == 443 { &services.https } else { &services.http })
    }

    /// Resolves a host to an address.
    #[must_use]
    pub fn pin_address(mut self, host: &str, port: u16, address: &str) -> Self {
        self.pins.push((host.to_owned(), port, address.to_owned()));
        self
    }

    /// Stores workspaces' files in this bucket.
    #[must_use]
    pub fn bucket(mut self, storage: &Storage) -> Self {
        self.credentials = Some(storage.credentials.clone());
        self.set("S3_BUCKET_NAME", BUCKET).set("S3_ENDPOINT_URL", format!("http://{}", storage.address))
    }

    /// The scripted model wants this key or token for the Messages API. It still has to be given to the server.
    #[must_use]
    pub fn messages_api(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }

    /// Gives the server neither credentials of AWS nor a region.
    #[must_use]
    pub fn without_aws(self) -> Self {
        let settings = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"];
        settings.into_iter().fold(self, |launch, name| launch.set(name, "")).set("AWS_EC2_METADATA_DISABLED", "true")
    }

    /// Runs its workspaces on this engine.
    #[must_use]
    pub fn on(mut self, engine: &Engine) -> Self {
        self.engine = Some(engine.clone());
        self.set("DOCKER_SOCKET_PATH", engine.socket().display())
    }

    /// Limits the state directory to so many MiB, on a file system of its own.
    #[must_use]
    pub fn state_of(mut self, mib: u32) -> Self {
        self.state_mib = Some(mib);
        self
    }

    /// Limits the file descriptors of the server's process.
    #[must_use]
    pub fn descriptors(mut self, most: u32) -> Self {
        self.descriptors = Some(most);
        self
    }

    /// Does not wait until the deployment is ready, only until it listens.
    #[must_use]
    pub fn without_waiting(mut self) -> Self {
        self.not_ready = true;
        self
    }

    /// Starts the server in a container, in which the socket directories have another path than on the host.
    #[must_use]
    pub fn in_container(mut self) -> Self {
        self.contained = true;
        self
    }

    /// Starts no model, for scenarios without a run.
    #[must_use]
    pub fn without_model(mut self) -> Self {
        self.no_model = true;
        self
    }
}

/// A server that is about to be started.
struct NewServer {
    /// The name of its files in the scenario's directory.
    name: String,
    program: Program,
    /// Whether it runs in a container.
    contained: bool,
    /// The limit of its file descriptors.
    descriptors: Option<u32>,
    sockets: PathBuf,
    credentials: Credentials,
    memory: Memory,
    /// Its address, if the suite has chosen it.
    chosen: Option<String>,
}

impl Context {
    /// The deployment under test: the target, or one launched with the suite's own settings.
    ///
    /// # Errors
    /// It does not start.
    pub async fn deployment(&self) -> Result<Deployment, Failure> {
        let options = &self.run.options;
        let Some(target) = &options.target else {
            let launch = Launch::new();
            let needs_model = self.requires.contains(&Capability::Model);
            return self.launch(if needs_model { launch } else { launch.without_model().without_waiting() }).await;
        };
        let trust = &self.run.capabilities.trust;
        let api = Api::trusting(trust, target, options.api_key.as_deref(), self.exchanges().clone())?;
        let api = api.speaking(&options.description.speech)?.waiting_out_limits();
        let engine = self.run.capabilities.engine.clone();
        Ok(Deployment { api, id: options.deployment.clone(), engine, server: None, model: None })
    }

    /// Launches a deployment for this scenario.
    ///
    /// # Errors
    /// It does not start.
    pub async fn launch(&self, launch: Launch) -> Result<Deployment, Failure> {
        self.check_settings(&launch)?;
        let id = self.unique("d");
        let credentials = launch.credentials.clone().unwrap_or_else(|| self.credentials());
        let key = launch.key.as_deref();
        let model = if launch.no_model { None } else { Some(self.start_model(&id, &credentials, key).await?) };
        let sockets = self.socket_dir()?;
        let memory = self.defect_memory(&id, &credentials);
        let launch = self.relay_to_pins(launch).await?;
        let mut program = self.server_program(&id, &launch, &credentials, model.as_ref(), &sockets)?;
        let engine = launch.engine.clone().or_else(|| self.run.capabilities.engine.clone());
        self.register_rooms(&id, engine.as_ref())?;
        // A scenario that sets the path itself is about the path.
        let is_about_the_path = launch.engine.is_none() && launch.settings.contains_key("DOCKER_SOCKET_PATH");
        if !is_about_the_path && let Some(address) = self.relay_to_engine(&id, engine.as_ref(), &memory)? {
            program.env.insert("DOCKER_SOCKET_PATH".to_owned(), address);
        }
        self.beside(&sockets, &memory);
        if let Some(mib) = launch.state_mib {
            program = small_disk::with_state_of(mib, program)?;
        }
        let contained = launch.contained || self.by_containers();
        let chosen =
            (!self.description().launch.writes_address()).then(|| program.env.get("BIND_ADDR").cloned()).flatten();
        let descriptors = launch.descriptors;
        let new = NewServer { name: id.clone(), program, contained, descriptors, sockets, credentials, memory, chosen };
        let (api, server) = self.start_server(new).await?;
        self.check_offers(&api).await?;

        let before = api.get("/metrics").await.map_or_else(|failure| failure.to_string(), |reply| reply.text());
        self.add_witness(Metrics { api: api.clone(), before });
        if let Some(model) = &model {
            self.add_witness(model.clone());
        }
        let deployment = Deployment { api, id: Some(id), engine, server: Some(server), model };
        if !launch.not_ready {
            deployment.ready(self.run.options.description.limits.ready).await?;
        }
        Ok(deployment)
    }

    /// Starts a server as a process or in a container, registers it with the scenario, and waits until it listens.
    async fn start_server(&self, new: NewServer) -> Result<(Api, Server), Failure> {
        let NewServer { name, program, contained, descriptors, sockets, credentials, memory, chosen } = new;
        let description = self.run.options.description.clone();
        let (program, bare, container) = self.place(program, &sockets, contained, descriptors)?;
        let (addr_file, log) = (self.dir().join(format!("{name}.addr")), self.dir().join(format!("{name}.log")));
        let process = Process::start(&program, &self.run.id, &log)?;
        let process = process.stopping(description.launch.stop_signal, description.limits.stop);
        self.register_server(&process);
        self.add_witness(Log(process.clone()));
        let (pid, run) = (process.pid(), self.run.id.clone());
        let mut server = Server {
            program,
            bare,
            container,
            pid,
            process,
            sockets,
            credentials,
            addr_file,
            log,
            run,
            memory,
            description,
            chosen,
        };
        let api = server.listening(self).await?;
        Ok((api, server))
    }

    /// Launches another server of the same deployment. The two share everything except the state directory.
    ///
    /// # Errors
    /// It does not start.
    pub async fn launch_beside(&self, first: &Deployment) -> Result<Deployment, Failure> {
        let (other, name) = (first.server()?, self.unique("d"));
        let (addr_file, description) = (self.dir().join(format!("{name}.addr")), self.description());
        let chosen = (!description.launch.writes_address()).then(free_address).transpose()?;
        let arguments = arguments(description, Act::Serve, Some(&addr_file), chosen.as_deref().unwrap_or_default())?;
        let mut program = other.with_arguments(arguments);
        program.env.extend(chosen.iter().map(|address| ("BIND_ADDR".to_owned(), address.clone())));
        program.env.insert("STATE_DIR".to_owned(), self.dir().join(format!("{name}-state")).display().to_string());
        let new = NewServer {
            name,
            program,
            contained: other.container.is_some(),
            descriptors: None,
            sockets: other.sockets.clone(),
            credentials: other.credentials.clone(),
            memory: other.memory.clone(),
            chosen,
        };
        let (api, server) = self.start_server(new).await?;
        let Deployment { id, engine, model, .. } = first;
        let (id, engine, model) = (id.clone(), engine.clone(), model.clone());
        let deployment = Deployment { api, id, engine, server: Some(server), model };
        deployment.ready(self.run.options.description.limits.ready).await?;
        Ok(deployment)
    }

    /// The program to start: itself, or what starts it (a shell that limits its descriptors, `docker run`) together with itself.
    fn place(
        &self,
        program: Program,
        sockets: &std::path::Path,
        contained: bool,
        descriptors: Option<u32>,
    ) -> Result<(Program, Option<Program>, Option<Room>), Failure> {
        if !contained {
            return Ok(match descriptors {
                Some(most) => (program.clone().limited_to(most), Some(program), None),
                None => (program, None, None),
            });
        }
        let (starter, container) = self.contain(program.clone(), sockets, descriptors)?;
        Ok((starter, Some(program), Some(container)))
    }

    /// Registers the containers labelled `deployment` with the scenario: none may be left once its server has exited.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub fn register_rooms(&self, deployment: &str, engine: Option<&Engine>) -> Result<(), Failure> {
        let Some(engine) = engine.cloned() else {
            return Ok(());
        };
        self.run.will_make(&Made::Deployment(deployment.to_owned()))?;
        self.add_witness(Rooms { engine: engine.clone(), deployment: deployment.to_owned() });
        let deployment = deployment.to_owned();
        self.resources.add(format!("containers of {deployment}"), move || async move {
            let left = remove_rooms(&engine, &deployment).await?;
            check(left.is_empty(), format!("not removed: {}", left.join(", ")))
        });
        Ok(())
    }
}

/// Removes all containers of a deployment with their socket directories, and returns their names.
///
/// # Errors
/// The engine refuses.
pub async fn remove_rooms(engine: &Engine, deployment: &str) -> Result<Vec<String>, Failure> {
    let mut removed = Vec::new();
    for room in engine.rooms(deployment, false).await? {
        let dir: Option<PathBuf> = room.socket_dir().await.ok();
        // Only the workspace's own directory: if a deployment mounts something else, the suite must not remove it.
        let dir = dir.filter(|dir| dir.file_name().and_then(|name| name.to_str()) == room.workspace.as_deref());
        let running = room.is_running().await?;
        room.remove().await?;
        if let Some(dir) = dir.filter(|dir| dir.exists()) {
            tree::remove(&dir).await?;
        }
        removed.push(format!("{} ({})", room.id, if running { "running" } else { "stopped" }));
    }
    Ok(removed)
}
