//! Where the defects of a broken deployment are put in: in front of it, between it and the engine, behind its proxy, beside its rooms.
//! A run without defects passes through here unchanged.

use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::fixtures::Credentials;
use super::launch::Launch;
use super::memory::Memory;
use super::relay::{Relay, To};
use super::tamper::{Tamper, Wire};
use crate::context::Context;
use crate::failure::Failure;
use crate::mutants::Defect;

/// How often what stands beside the rooms looks at them.
const LOOK_EVERY: Duration = Duration::from_millis(10);

impl Context {
    /// What the defects of a deployment have to remember, and to know from the start.
    pub(super) fn memory_of(&self, deployment: &str, credentials: &Credentials) -> Memory {
        let memory = Memory::default();
        memory.set("run", &self.run.id);
        memory.set("deployment", deployment);
        memory.set("secret", &credentials.secret);
        memory
    }

    /// The address at which a deployment is to be spoken to.
    pub(super) async fn in_front_of(&self, address: &str, memory: &Memory) -> Result<String, Failure> {
        let mut address = address.to_owned();
        for defect in self.run.defects {
            let wire = match defect {
                Defect::Http(tamper) => Wire::Http(*tamper, memory.clone()),
                Defect::InFront(wire) => wire.clone(),
                _ => continue,
            };
            address = self.goes_with_it(Relay::tcp_with(To::Tcp(address), wire).await?);
        }
        Ok(address)
    }

    /// The socket at which a deployment is to speak to the engine, where that is not the engine's own.
    pub(super) fn in_front_of_engine(&self, deployment: &str, memory: &Memory) -> Result<Option<String>, Failure> {
        let tampers: Vec<&Tamper> = self
            .run
            .defects
            .iter()
            .filter_map(|defect| if let Defect::Engine(tamper) = defect { Some(tamper) } else { None })
            .collect();
        let Some(tamper) = tampers.first() else {
            return Ok(None);
        };
        let path = self.dir().join(format!("{deployment}.docker"));
        let to = To::Unix(self.engine()?.socket().to_owned());
        self.goes_with_it(Relay::unix_with(&path, to, Wire::Http(**tamper, memory.clone()))?);
        Ok(Some(format!("unix://{}", path.display())))
    }

    /// A launch whose names of the outside world lead past the defects behind the proxy.
    pub(super) async fn in_front_of_pins(&self, mut launch: Launch) -> Result<Launch, Failure> {
        for defect in self.run.defects {
            let Defect::Behind(wire) = defect else { continue };
            for (_, _, address) in &mut launch.pins {
                *address = self.goes_with_it(Relay::tcp_with(To::Tcp(address.clone()), wire.clone()).await?);
            }
        }
        Ok(launch)
    }

    /// Starts what stands beside the rooms of a deployment.
    pub(super) fn beside(&self, sockets: &Path, memory: &Memory) {
        for defect in self.run.defects {
            let Defect::Beside(look) = defect else { continue };
            let (sockets, memory, end) = (sockets.to_owned(), memory.clone(), CancellationToken::new());
            let ended = end.clone();
            let task = tokio::spawn(async move {
                let mut moments = tokio::time::interval(LOOK_EVERY);
                while ended.run_until_cancelled(moments.tick()).await.is_some() {
                    look(&sockets, &memory);
                }
            });
            self.resources.add("what stands beside the rooms", move || async move {
                end.cancel();
                task.await.map_err(Failure::harness)
            });
        }
    }

    fn goes_with_it(&self, relay: Relay) -> String {
        let address = relay.authority().to_owned();
        self.resources.add(format!("relay {address}"), move || async move { relay.stop().await });
        address
    }
}
