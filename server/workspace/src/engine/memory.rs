//! A container engine in memory, for tests at any scale and with injected faults.
//!
//! It behaves as Docker does as far as the server observes: names are unique, a bind mount's source must exist, a stopped container
//! stays in the list, and removing a missing one succeeds. A running container's agent dials the real socket in the room's directory
//! and answers `/health`, so a room is built in the same way as with Docker.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nagaya_protocol::{AGENT_SOCKET, Health, PROTOCOL};
use parking_lot::{Mutex, MutexGuard};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::{Condition, ContainerSpec, Engine, EngineError, EngineInfo, ListedContainer};

/// The calls of [`Engine`], as this engine counts them and fails them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// A call of [`Engine::ping`].
    Ping,
    /// A call of [`Engine::has_image`].
    HasImage,
    /// A call of [`Engine::run`].
    Run,
    /// A call of [`Engine::list`].
    List,
    /// A call of [`Engine::condition`].
    Condition,
    /// A call of [`Engine::last_output`].
    LastOutput,
    /// A call of [`Engine::remove`].
    Remove,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call is refused and has no effect.
    Refuse,
    /// The call times out after this long and has no effect.
    Hang(Duration),
    /// The call is refused half-way: a container is created but not started, or stopped but not removed.
    HalfWay,
    /// The call takes effect, but reports an error.
    NoAnswer,
}

/// Exit code of every container that does not run.
pub const EXIT_CODE: i64 = 3;
/// What every container has written.
pub const LAST_OUTPUT: &str = "the last line";

/// The engine in memory.
#[derive(Debug)]
pub struct Memory {
    state: Mutex<EngineState>,
    /// Runtime of the agents; with `None`, containers have no agent and do not answer.
    agents: Option<Handle>,
    /// Whether agents take requests without answering them.
    mute: watch::Sender<bool>,
    /// The execution that every agent reports as running.
    execution: watch::Sender<Option<String>>,
}

#[derive(Debug, Default)]
struct EngineState {
    containers: BTreeMap<String, Container>,
    images_gone: bool,
    always: HashMap<Call, Fault>,
    once: HashMap<Call, VecDeque<Fault>>,
    calls: Vec<Call>,
    made: u64,
}

#[derive(Debug)]
struct Container {
    listed: ListedContainer,
    agent: Option<AbortHandle>,
}

impl Container {
    fn end(&mut self) {
        self.listed.running = false;
        if let Some(agent) = self.agent.take() {
            agent.abort();
        }
    }
}

impl Memory {
    /// Creates an engine whose agents run on the runtime `agents`, which must outlive the servers that use the engine.
    #[must_use]
    pub fn new(agents: Option<Handle>) -> Self {
        Self { state: Mutex::default(), agents, mute: watch::Sender::new(false), execution: watch::Sender::new(None) }
    }

    fn state(&self) -> MutexGuard<'_, EngineState> {
        self.state.lock()
    }

    /// Makes every call of this kind fail from now on.
    pub fn fail_always(&self, call: Call, fault: Fault) {
        self.state().always.insert(call, fault);
    }

    /// Makes the next call of this kind fail.
    pub fn fail_once(&self, call: Call, fault: Fault) {
        self.state().once.entry(call).or_default().push_back(fault);
    }

    /// Clears all injected faults.
    pub fn clear_faults(&self) {
        let mut state = self.state();
        state.always.clear();
        state.once.clear();
        state.images_gone = false;
    }

    /// Removes all images. Running containers keep running.
    pub fn lose_images(&self) {
        self.state().images_gone = true;
    }

    /// From now on agents answer no request until [`Memory::unmute_agents`].
    pub fn mute_agents(&self) {
        self.mute.send_replace(true);
    }

    /// From now on every agent reports this execution as running, or none.
    pub fn report_execution(&self, execution: Option<&str>) {
        self.execution.send_replace(execution.map(str::to_owned));
    }

    /// Agents answer again, requests that have arrived meanwhile first.
    pub fn unmute_agents(&self) {
        self.mute.send_replace(false);
    }

    /// Takes all calls recorded since the last call of this function.
    #[must_use]
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.state().calls)
    }

    /// The names of all containers, each with whether it runs.
    #[must_use]
    pub fn containers(&self) -> Vec<(String, bool)> {
        self.state().containers.iter().map(|(name, container)| (name.clone(), container.listed.running)).collect()
    }

    /// Ends a container's first process.
    pub fn crash(&self, name: &str) {
        if let Some(container) = self.state().containers.get_mut(name) {
            container.end();
        }
    }

    /// Freezes a container: the engine no longer lists it as running, and its agent is silent.
    pub fn pause(&self, name: &str) {
        if let Some(container) = self.state().containers.get_mut(name) {
            container.end();
            container.listed.paused = true;
        }
    }

    /// Ends a container's agent; the container keeps running.
    pub fn silence(&self, name: &str) {
        if let Some(agent) = self.state().containers.get_mut(name).and_then(|container| container.agent.take()) {
            agent.abort();
        }
    }

    /// Removes a container, as another client of the engine would.
    pub fn vanish(&self, name: &str) {
        if let Some(mut container) = self.state().containers.remove(name) {
            container.end();
        }
    }

    /// Records a call and returns the fault to inject, if any.
    fn enter(&self, call: Call) -> Option<Fault> {
        let mut state = self.state();
        state.calls.push(call);
        let once = state.once.get_mut(&call).and_then(VecDeque::pop_front);
        once.or_else(|| state.always.get(&call).copied())
    }

    /// As [`Memory::enter`], for a query: every fault but a timeout is a refusal.
    async fn query(&self, call: Call, what: &'static str) -> Result<(), EngineError> {
        // A real engine never answers before its caller has yielded.
        tokio::task::yield_now().await;
        match self.enter(call) {
            None => Ok(()),
            Some(Fault::Hang(limit)) => Err(hang(what, limit).await),
            Some(_) => Err(refused(what)),
        }
    }

    fn create(&self, spec: ContainerSpec) -> Result<String, EngineError> {
        let mut state = self.state();
        if state.images_gone {
            return Err(EngineError::NotFound(format!("No such image: {}", spec.image)));
        }
        if !spec.mount.0.is_dir() {
            let why = format!("invalid mount config: bind source path does not exist: {}", spec.mount.0.display());
            return Err(EngineError::NoSuchHostPath(why));
        }
        if state.containers.contains_key(&spec.name) {
            let why = format!("Conflict. The container name {:?} is already in use", spec.name);
            return Err(EngineError::Refused { what: "create a container", why });
        }
        state.made += 1;
        let id = format!("{:064x}", state.made);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let created = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let listed = ListedContainer { id: id.clone(), labels: spec.labels, running: false, paused: false, created };
        state.containers.insert(spec.name, Container { listed, agent: None });
        Ok(id)
    }

    fn start(&self, name: &str, sockets: &Path) {
        let agent = self.agents.as_ref().map(|agents| {
            let socket = sockets.join(AGENT_SOCKET);
            let (mute, execution) = (self.mute.subscribe(), self.execution.subscribe());
            agents.spawn(async move { agent(&socket, mute, execution).await }).abort_handle()
        });
        match self.state().containers.get_mut(name) {
            Some(container) => {
                container.listed.running = true;
                container.agent = agent;
            }
            None => agent.iter().for_each(AbortHandle::abort),
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.state().containers.values_mut().for_each(Container::end);
    }
}

async fn hang(what: &'static str, limit: Duration) -> EngineError {
    tokio::time::sleep(limit).await;
    EngineError::Timeout { what, limit }
}

fn refused(what: &'static str) -> EngineError {
    EngineError::Refused { what, why: "injected fault".into() }
}

#[async_trait]
impl Engine for Memory {
    async fn ping(&self) -> Result<(), EngineError> {
        self.query(Call::Ping, "answer a ping").await
    }

    async fn info(&self) -> Result<EngineInfo, EngineError> {
        Ok(EngineInfo { version: "memory".into(), api_version: "none".into(), missing_limits: Vec::new() })
    }

    async fn has_image(&self, _: &str) -> Result<bool, EngineError> {
        self.query(Call::HasImage, "inspect the image").await?;
        Ok(!self.state().images_gone)
    }

    async fn run(&self, spec: ContainerSpec) -> Result<String, EngineError> {
        tokio::task::yield_now().await;
        let fault = self.enter(Call::Run);
        match fault {
            Some(Fault::Refuse) => return Err(refused("create a container")),
            Some(Fault::Hang(limit)) => return Err(hang("create a container", limit).await),
            Some(Fault::HalfWay | Fault::NoAnswer) | None => {}
        }
        let (name, sockets) = (spec.name.clone(), spec.mount.0.clone());
        let id = self.create(spec)?;
        // A client can be dropped between creating and starting.
        tokio::task::yield_now().await;
        if fault == Some(Fault::HalfWay) {
            return Err(refused("start a container"));
        }
        self.start(&name, &sockets);
        tokio::task::yield_now().await;
        if fault == Some(Fault::NoAnswer) { Err(refused("start a container")) } else { Ok(id) }
    }

    async fn list(&self, label: &str, value: &str) -> Result<Vec<ListedContainer>, EngineError> {
        self.query(Call::List, "list containers").await?;
        let state = self.state();
        let listed = state.containers.values().map(|container| &container.listed);
        Ok(listed.filter(|listed| listed.labels.get(label).is_some_and(|is| is == value)).cloned().collect())
    }

    async fn condition(&self, name: &str) -> Result<Condition, EngineError> {
        self.query(Call::Condition, "inspect a container").await?;
        Ok(match self.state().containers.get(name).map(|container| &container.listed) {
            None => Condition::Missing,
            Some(listed) if listed.paused => Condition::Paused,
            Some(listed) if listed.running => Condition::Running,
            Some(_) => Condition::Stopped(EXIT_CODE),
        })
    }

    async fn last_output(&self, name: &str) -> Result<String, EngineError> {
        self.query(Call::LastOutput, "read a container's output").await?;
        let known = self.state().containers.contains_key(name);
        known.then(|| LAST_OUTPUT.to_owned()).ok_or_else(|| EngineError::NotFound(name.to_owned()))
    }

    async fn remove(&self, name: &str, _grace: Duration) -> Result<(), EngineError> {
        tokio::task::yield_now().await;
        let fault = self.enter(Call::Remove);
        match fault {
            Some(Fault::Refuse) => return Err(refused("stop a container")),
            Some(Fault::Hang(limit)) => return Err(hang("stop a container", limit).await),
            Some(Fault::HalfWay | Fault::NoAnswer) | None => {}
        }
        self.crash(name);
        tokio::task::yield_now().await;
        if fault == Some(Fault::HalfWay) {
            return Err(refused("remove a container"));
        }
        self.vanish(name);
        tokio::task::yield_now().await;
        if fault == Some(Fault::NoAnswer) { Err(refused("remove a container")) } else { Ok(()) }
    }
}

/// Pause between two attempts of an agent to dial its server.
const REDIAL: Duration = Duration::from_millis(10);

/// An agent that serves nothing but `/health`, to whichever server listens on `socket`.
async fn agent(socket: &Path, mute: watch::Receiver<bool>, execution: watch::Receiver<Option<String>>) {
    loop {
        if let Ok(stream) = UnixStream::connect(socket).await {
            let service = service_fn(|_| {
                let (mut mute, execution) = (mute.clone(), execution.borrow().clone());
                async move {
                    mute.wait_for(|mute| !mute).await.map_err(std::io::Error::other)?;
                    let health = Health {
                        status: "ok".into(),
                        version: "0".into(),
                        driver: "none".into(),
                        cli_version: None,
                        protocol: PROTOCOL,
                        execution,
                        parked: None,
                    };
                    let body = serde_json::to_vec(&health).unwrap_or_default();
                    let mut response = Response::new(Full::new(Bytes::from(body)));
                    *response.status_mut() = StatusCode::OK;
                    Ok::<_, std::io::Error>(response)
                }
            });
            let served = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
            if let Err(error) = served.await {
                tracing::trace!(%error, "the connection of the agent in memory ended");
            }
        }
        tokio::time::sleep(REDIAL).await;
    }
}
