//! A container engine that is a table: for tests of what the server does with an engine, at any scale and with any fault.
//!
//! It is as strict as Docker where the server could tell: names are unique, a bind mount's source must exist, a stopped
//! container is still listed, one that is gone can be removed again. A running container's agent answers `/health` on the
//! real socket in the room's real directory, so that a room is made here as it is made there.

use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use nagaya_protocol::{AGENT_SOCKET, Health};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::{ContainerSpec, Engine, EngineError, EngineInfo, ListedContainer};

/// A question or a request, as the engine keeps count of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// [`Engine::ping`]
    Ping,
    /// [`Engine::has_image`]
    HasImage,
    /// [`Engine::run`]
    Run,
    /// [`Engine::list`]
    List,
    /// [`Engine::is_running`]
    IsRunning,
    /// [`Engine::remove`]
    Remove,
}

/// How a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Refused, and nothing happened.
    Refuse,
    /// No answer until the caller's patience, this long, is over; nothing happened.
    Hang(Duration),
    /// Half of it happened, then it was refused: a container that was created and not started, or stopped and not removed.
    HalfWay,
    /// It was done, but the answer got lost.
    NoAnswer,
}

/// The engine.
#[derive(Debug)]
pub struct Memory {
    world: Mutex<World>,
    /// Where agents run; `None`: containers have none, and nothing in them answers.
    agents: Option<Handle>,
    /// Whether agents let whoever asks wait.
    mute: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct World {
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
    /// An engine whose containers' agents run on `agents`. An engine outlives its clients: so should that runtime.
    #[must_use]
    pub fn new(agents: Option<Handle>) -> Self {
        Self { world: Mutex::default(), agents, mute: watch::Sender::new(false) }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock()
    }

    /// From here on every such call goes wrong.
    pub fn fail_always(&self, call: Call, fault: Fault) {
        self.world().always.insert(call, fault);
    }

    /// The next such call goes wrong.
    pub fn fail_once(&self, call: Call, fault: Fault) {
        self.world().once.entry(call).or_default().push_back(fault);
    }

    /// Nothing goes wrong any more.
    pub fn clear_faults(&self) {
        let mut world = self.world();
        world.always.clear();
        world.once.clear();
        world.images_gone = false;
    }

    /// No image is there any more; what runs goes on.
    pub fn lose_images(&self) {
        self.world().images_gone = true;
    }

    /// From now on agents accept connections and answer none until [`Memory::unmute_agents`].
    pub fn mute_agents(&self) {
        self.mute.send_replace(true);
    }

    /// Agents answer again, connections that are already open first.
    pub fn unmute_agents(&self) {
        self.mute.send_replace(false);
    }

    /// Every call since the last look.
    #[must_use]
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.world().calls)
    }

    /// Names of all containers, and whether they run.
    #[must_use]
    pub fn containers(&self) -> Vec<(String, bool)> {
        self.world().containers.iter().map(|(name, container)| (name.clone(), container.listed.running)).collect()
    }

    /// A container's first process ends by itself.
    pub fn crash(&self, name: &str) {
        if let Some(container) = self.world().containers.get_mut(name) {
            container.end();
        }
    }

    /// A container's agent falls silent; its first process lives on.
    pub fn silence(&self, name: &str) {
        if let Some(agent) = self.world().containers.get_mut(name).and_then(|container| container.agent.take()) {
            agent.abort();
        }
    }

    /// Somebody else removes a container.
    pub fn vanish(&self, name: &str) {
        if let Some(mut container) = self.world().containers.remove(name) {
            container.end();
        }
    }

    /// Counts a call; what it is to do wrong, if anything.
    fn enter(&self, call: Call) -> Option<Fault> {
        let mut world = self.world();
        world.calls.push(call);
        let once = world.once.get_mut(&call).and_then(VecDeque::pop_front);
        once.or_else(|| world.always.get(&call).copied())
    }

    /// As [`Memory::enter`], for a question: it cannot be half answered.
    async fn ask(&self, call: Call, what: &'static str) -> Result<(), EngineError> {
        // A real engine is never quicker than its caller.
        tokio::task::yield_now().await;
        match self.enter(call) {
            None => Ok(()),
            Some(Fault::Hang(limit)) => Err(hang(what, limit).await),
            Some(_) => Err(refused(what)),
        }
    }

    fn create(&self, spec: ContainerSpec) -> Result<String, EngineError> {
        let mut world = self.world();
        if world.images_gone {
            return Err(EngineError::NotFound(format!("No such image: {}", spec.image)));
        }
        if !spec.mount.0.is_dir() {
            let why = format!("invalid mount config: bind source path does not exist: {}", spec.mount.0.display());
            return Err(EngineError::NoSuchHostPath(why));
        }
        if world.containers.contains_key(&spec.name) {
            let why = format!("Conflict. The container name {:?} is already in use", spec.name);
            return Err(EngineError::Refused { what: "create a container", why });
        }
        world.made += 1;
        let id = format!("{:064x}", world.made);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let created = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let listed = ListedContainer { id: id.clone(), labels: spec.labels, running: false, created };
        world.containers.insert(spec.name, Container { listed, agent: None });
        Ok(id)
    }

    fn start(&self, name: &str, sockets: &Path) {
        let agent = self.agents.as_ref().map(|agents| {
            let socket = sockets.join(AGENT_SOCKET);
            let mute = self.mute.subscribe();
            agents.spawn(async move { agent(&socket, mute).await }).abort_handle()
        });
        match self.world().containers.get_mut(name) {
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
        self.world().containers.values_mut().for_each(Container::end);
    }
}

async fn hang(what: &'static str, limit: Duration) -> EngineError {
    tokio::time::sleep(limit).await;
    EngineError::Timeout { what, limit }
}

fn refused(what: &'static str) -> EngineError {
    EngineError::Refused { what, why: "a fault was asked for".into() }
}

#[async_trait]
impl Engine for Memory {
    async fn ping(&self) -> Result<(), EngineError> {
        self.ask(Call::Ping, "answer a ping").await
    }

    async fn info(&self) -> Result<EngineInfo, EngineError> {
        Ok(EngineInfo { version: "memory".into(), api_version: "none".into(), missing_limits: Vec::new() })
    }

    async fn has_image(&self, _: &str) -> Result<bool, EngineError> {
        self.ask(Call::HasImage, "inspect the image").await?;
        Ok(!self.world().images_gone)
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
        // Between the two calls a client can die.
        tokio::task::yield_now().await;
        if fault == Some(Fault::HalfWay) {
            return Err(refused("start a container"));
        }
        self.start(&name, &sockets);
        tokio::task::yield_now().await;
        if fault == Some(Fault::NoAnswer) { Err(refused("start a container")) } else { Ok(id) }
    }

    async fn list(&self, label: &str, value: &str) -> Result<Vec<ListedContainer>, EngineError> {
        self.ask(Call::List, "list containers").await?;
        let world = self.world();
        let listed = world.containers.values().map(|container| &container.listed);
        Ok(listed.filter(|listed| listed.labels.get(label).is_some_and(|is| is == value)).cloned().collect())
    }

    async fn is_running(&self, name: &str) -> Result<bool, EngineError> {
        self.ask(Call::IsRunning, "inspect a container").await?;
        Ok(self.world().containers.get(name).is_some_and(|container| container.listed.running))
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

/// The part of an agent that says it is ready.
async fn agent(socket: &Path, mut mute: watch::Receiver<bool>) {
    let listener = match UnixListener::bind(socket) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%error, socket = %socket.display(), "an agent has no socket");
            return;
        }
    };
    let health = Health { status: "ok".into(), version: "0".into(), driver: "none".into(), cli_version: None };
    let body = serde_json::to_string(&health).unwrap_or_default();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    while let Ok((mut client, _)) = listener.accept().await {
        if mute.wait_for(|mute| !mute).await.is_err() {
            return;
        }
        if let Err(error) = say(&mut client, &answer).await {
            tracing::trace!(%error, "a client of an agent left");
        }
    }
}

async fn say(client: &mut UnixStream, answer: &str) -> std::io::Result<()> {
    let mut head = [0; 1024];
    if client.read(&mut head).await? > 0 {
        client.write_all(answer.as_bytes()).await?;
    }
    client.shutdown().await
}
