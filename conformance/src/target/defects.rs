//! Adds the defects of a broken deployment: in front of it, between it and the engine, behind its proxy, beside its workspaces.
//! A run without defects is not changed.

use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::far_side::To;
use super::fixtures::Credentials;
use super::launch::Launch;
use super::memory::Memory;
use super::relay::Relay;
use super::tamper::Tamper;
use super::wire::Wire;
use crate::harness::context::Context;
use crate::harness::engine::Engine;
use crate::harness::failure::Failure;

/// How often a defect beside the workspaces looks at their sockets.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// One defect, by its place.
#[derive(Debug, Clone)]
pub enum Defect {
    /// Shell lines before the server starts, or in its place; `$SERVER` is the good server, `$@` its arguments.
    Start(&'static str),
    /// Between clients and the server.
    Http(Tamper),
    /// Between clients and the server, byte by byte.
    InFront(Wire),
    /// Between the server and the engine.
    Engine(Tamper),
    /// Shell lines that root runs in the workspace image, and Dockerfile lines after them.
    Image(&'static str, &'static str),
    /// Between the server's proxy and all its targets.
    Behind(Wire),
    /// Called repeatedly with the directory of the workspaces' sockets.
    Beside(fn(&Path, &Memory)),
}

impl Defect {
    /// Where the defect is introduced, for the catalogue, for example `start`.
    #[must_use]
    pub fn place(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            Self::Http(_) | Self::InFront(_) => "API",
            Self::Engine(_) => "engine",
            Self::Image(..) => "image",
            Self::Behind(_) => "outside",
            Self::Beside(_) => "sockets",
        }
    }
}

/// The defects of the deployments that a run launches: an entry in [`crate::harness::run::Run::extensions`], set by `selftest` only.
#[derive(Debug, Clone, Copy)]
pub struct Defects(pub &'static [Defect]);

impl Context {
    fn defects(&self) -> &'static [Defect] {
        self.run.extensions.get::<Defects>().map_or(&[], |defects| defects.0)
    }

    /// The memory of a deployment's defects, with what they know from the start.
    pub(super) fn defect_memory(&self, deployment: &str, credentials: &Credentials) -> Memory {
        let memory = Memory::default();
        memory.set("run", &self.run.id);
        memory.set("deployment", deployment);
        memory.set("secret", &credentials.secret);
        memory
    }

    /// The address at which clients reach a deployment.
    pub(super) async fn relay_to_server(&self, address: &str, memory: &Memory) -> Result<String, Failure> {
        let mut address = address.to_owned();
        for defect in self.defects() {
            let wire = match defect {
                Defect::Http(tamper) => Wire::Http(*tamper, memory.clone()),
                Defect::InFront(wire) => wire.clone(),
                _ => continue,
            };
            address = self.stop_with_scenario(Relay::tcp_with(To::Tcp(address), wire).await?);
        }
        Ok(address)
    }

    /// The socket at which a deployment reaches the engine, if it is not the engine's own.
    pub(super) fn relay_to_engine(
        &self,
        deployment: &str,
        engine: Option<&Engine>,
        memory: &Memory,
    ) -> Result<Option<String>, Failure> {
        let tampers: Vec<&Tamper> = self
            .defects()
            .iter()
            .filter_map(|defect| if let Defect::Engine(tamper) = defect { Some(tamper) } else { None })
            .collect();
        let Some(tamper) = tampers.first() else {
            return Ok(None);
        };
        let path = self.dir().join(format!("{deployment}.docker"));
        let engine = engine.map_or_else(|| self.engine(), Ok)?;
        let to = To::Unix(engine.socket().to_owned());
        self.stop_with_scenario(Relay::unix_with(&path, to, Wire::Http(**tamper, memory.clone()))?);
        Ok(Some(format!("unix://{}", path.display())))
    }

    /// A launch whose pinned hosts lead through the defects behind the proxy.
    pub(super) async fn relay_to_pins(&self, mut launch: Launch) -> Result<Launch, Failure> {
        for defect in self.defects() {
            let Defect::Behind(wire) = defect else { continue };
            for (_, _, address) in &mut launch.pins {
                *address = self.stop_with_scenario(Relay::tcp_with(To::Tcp(address.clone()), wire.clone()).await?);
            }
        }
        Ok(launch)
    }

    /// Starts the defects beside the workspaces of a deployment.
    pub(super) fn beside(&self, sockets: &Path, memory: &Memory) {
        for defect in self.defects() {
            let Defect::Beside(look) = defect else { continue };
            let (sockets, memory, end) = (sockets.to_owned(), memory.clone(), CancellationToken::new());
            let ended = end.clone();
            let task = tokio::spawn(async move {
                let mut moments = tokio::time::interval(LOOK_EVERY);
                while ended.run_until_cancelled(moments.tick()).await.is_some() {
                    look(&sockets, &memory);
                }
            });
            self.resources.add("what stands beside the workspaces", move || async move {
                end.cancel();
                task.await.map_err(Failure::harness)
            });
        }
    }

    fn stop_with_scenario(&self, relay: Relay) -> String {
        let address = relay.authority().to_owned();
        self.resources.add(format!("relay {address}"), move || async move { relay.stop().await });
        address
    }
}
