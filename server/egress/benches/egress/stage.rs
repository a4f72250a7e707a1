//! The processes of the measurements: origins, our proxy, peers; each is started when it is first needed.

use std::path::PathBuf;

use anyhow::{Result, anyhow};

use crate::net::{Address, ORIGIN};
use crate::origin::{Doors, KEYED, SIGNED};
use crate::peers::{Kind, Peer};
use crate::process;
use crate::roles::{Player, ProxyCast};
use crate::run::Place;

/// All running processes; they end when this is dropped.
#[derive(Debug)]
pub(crate) struct Stage {
    ours: Option<Result<Player, String>>,
    governed: Option<Result<Player, String>>,
    peers: Vec<(Kind, Result<Peer, String>)>,
    pub(crate) doors: Doors,
    /// Dropped after the processes that connect to it.
    _origin: Player,
    dir: tempfile::TempDir,
}

impl Place for Stage {
    fn open() -> Result<Self> {
        process::raise_descriptors()?;
        let dir = tempfile::Builder::new().prefix("nagaya-bench-").tempdir()?;
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let (origin, doors) = Player::origin()?;
        Ok(Self { ours: None, governed: None, peers: Vec::new(), doors, _origin: origin, dir })
    }

    fn peers(&self) -> Vec<String> {
        let mut peers: Vec<String> = Kind::ALL.into_iter().map(Kind::version).filter(|text| !text.is_empty()).collect();
        peers.dedup();
        peers
    }

    fn close(self) -> Result<()> {
        Ok(())
    }
}

impl Stage {
    /// Starts our proxy with this number of listeners.
    pub(crate) fn proxy(&self, name: &str, listeners: usize) -> Result<(Player, Vec<PathBuf>)> {
        self.proxy_with(name, listeners, false)
    }

    fn proxy_with(&self, name: &str, listeners: usize, policies: bool) -> Result<(Player, Vec<PathBuf>)> {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir)?;
        let sockets: Vec<PathBuf> = (0..listeners).map(|n| dir.join(format!("{n}.sock"))).collect();
        let doors = &self.doors;
        let ports = [doors.bulk, doors.echo, doors.http].map(|door| door.port());
        let allowed: Vec<String> = ports.iter().map(|port| format!("{ORIGIN}:{port}")).collect();
        let mut pins: Vec<String> = ports.iter().map(|port| format!("{ORIGIN}:{port}:127.0.0.1")).collect();
        pins.extend([SIGNED, KEYED].map(|host| format!("{host}:443:127.0.0.1:{}", doors.https.port())));
        let player = Player::proxy(&ProxyCast {
            sockets: sockets.clone(),
            allowed: format!("{},{SIGNED},{KEYED}", allowed.join(",")),
            pins: pins.join(","),
            credentials: format!("{SIGNED}=sigv4:bedrock:us-east-1"),
            extra_ca_pem: doors.ca_pem.clone(),
            policies,
        })?;
        Ok((player, sockets))
    }

    /// The instance of our proxy that all tables except memory use.
    pub(crate) fn ours(&mut self) -> Result<Address> {
        if self.ours.is_none() {
            self.ours = Some(self.proxy("ours", 1).map(|(player, _)| player).map_err(|error| format!("{error:#}")));
        }
        match self.ours.as_ref() {
            Some(Ok(_)) => Ok(Address::Unix(self.dir.path().join("ours/0.sock"))),
            Some(Err(why)) => Err(anyhow!("{why}")),
            None => Err(anyhow!("not started")),
        }
    }

    /// An instance of our proxy whose listener has a policy with many rules.
    pub(crate) fn governed(&mut self) -> Result<Address> {
        if self.governed.is_none() {
            let started = self.proxy_with("governed", 1, true).map(|(player, _)| player);
            self.governed = Some(started.map_err(|error| format!("{error:#}")));
        }
        match self.governed.as_ref() {
            Some(Ok(_)) => Ok(Address::Unix(self.dir.path().join("governed/0.sock"))),
            Some(Err(why)) => Err(anyhow!("{why}")),
            None => Err(anyhow!("not started")),
        }
    }

    /// Address of a peer, which is started if necessary.
    pub(crate) fn peer(&mut self, kind: Kind) -> Result<Address> {
        if !self.peers.iter().any(|(other, _)| *other == kind) {
            let origin = if kind == Kind::Nginx { self.doors.http } else { self.doors.bulk };
            let started = Peer::start(kind, &self.dir.path().join(format!("{kind:?}")), origin);
            self.peers.push((kind, started.map_err(|error| format!("{error:#}"))));
        }
        match self.peers.iter().find(|(other, _)| *other == kind) {
            Some((_, Ok(peer))) => Ok(peer.address.clone()),
            Some((_, Err(why))) => Err(anyhow!("{why}")),
            None => Err(anyhow!("not started")),
        }
    }
}
