//! A Docker engine of the suite's own, which may be stopped, restarted and killed, because the machine's engine is shared.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::contained::on_path;
use super::fixtures::harness;
use super::process::{Process, Program, Restartable};
use super::{cgroup, image};
use crate::harness::context::Context;
use crate::harness::engine::Engine;
use crate::harness::failure::Failure;
use crate::harness::ledger::Made;
use crate::harness::poll::eventually;
use crate::harness::tree;

/// How long the engine may take to answer.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long it may take to stop; it gives a container ten seconds.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Its socket, and its runtime directory with further sockets, whose paths may have 107 bytes at most.
const SOCKET: &str = "docker.sock";
const EXEC: &str = "exec";
/// A user that exists on every machine; containers of a remapping engine get its subordinate ids.
const REMAPPED: &str = "daemon";
/// Mounts files over /etc/subuid and /etc/subgid (subuid(5)), and executes the engine.
const REMAP: &str =
    r#"for there in /etc/subuid /etc/subgid; do mount --bind "$1" "$there" || exit; done; shift; exec "$@""#;
/// Directories of the image that none of these scenarios needs.
const UNUSED: &[&str] = &["/usr/lib/gcc", "/usr/include", "/usr/share/nodejs", "/usr/lib/git-core"];
/// How long copying an image between engines may take.
const IMAGE_LIMIT: Duration = Duration::from_secs(120);

/// A `dockerd` in process, mount and network namespaces of its own: however it ends, its containers, helpers and mounts
/// end with it, and the network of the machine's engine is untouched (an engine without a bridge removes `docker0`).
#[derive(Debug, Clone)]
pub struct OwnEngine {
    daemon: Restartable,
    /// The directory of its images and its log.
    dir: PathBuf,
    /// Its runtime directory, with its sockets.
    short_dir: PathBuf,
    /// Control group of its containers.
    group: String,
}

impl OwnEngine {
    /// The paths of `dockerd` and `unshare`.
    ///
    /// # Errors
    /// One of them is missing, or the suite does not run as root.
    pub fn find() -> Result<(PathBuf, PathBuf), String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root starts a Docker engine".to_owned());
        }
        let find = |name: &str| on_path(name).ok_or_else(|| format!("{name} is not on the search path"));
        Ok((find("dockerd")?, find("unshare")?))
    }

    fn process(&self) -> Process {
        self.daemon.process()
    }

    /// Its API, once it answers.
    async fn connect(&self) -> Result<Engine, Failure> {
        let address = self.short_dir.join(SOCKET).display().to_string();
        let answers = eventually(START_LIMIT, "an answer of dockerd", async || {
            Engine::connect(&address)
                .await
                .map_err(|error| format!("{error:#}; it printed: {}", self.process().printed()))
        });
        answers.await.map_err(harness)
    }

    /// Stops it gracefully, as `systemctl stop docker` does: it stops its containers first.
    ///
    /// # Errors
    /// It does not stop.
    pub async fn stop(&self) -> Result<(), Failure> {
        let process = self.process();
        // unshare itself does not forward signals.
        let children = format!("/proc/{0}/task/{0}/children", process.pid());
        let child = std::fs::read_to_string(children)?.trim().parse::<i32>().ok().and_then(Pid::from_raw);
        let child = child.ok_or_else(|| Failure::harness("dockerd does not run"))?;
        kill_process(child, Signal::TERM).map_err(Failure::harness)?;
        process.wait(STOP_LIMIT).await.map(|_| ()).map_err(harness)
    }

    /// Kills it and all its containers at once, as a power failure does.
    ///
    /// # Errors
    /// It cannot be ended.
    pub async fn kill_all(&self) -> Result<(), Failure> {
        self.process().kill().await?;
        // The killed engine cannot remove its socket, which must not be mistaken for a running engine.
        Ok(empty(&self.short_dir)?)
    }

    /// Restarts it after [`OwnEngine::stop`] or [`OwnEngine::kill_all`] with its containers and images.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn restart(&self) -> Result<Engine, Failure> {
        reboot(&self.short_dir)?;
        self.daemon.restart()?;
        self.connect().await
    }
}

impl Context {
    /// Starts an engine for this scenario, with the workspace image.
    ///
    /// # Errors
    /// It does not start, or does not load the image.
    pub async fn own_engine(&self) -> Result<(OwnEngine, Engine), Failure> {
        self.own_engine_that(false).await
    }

    /// As [`Context::own_engine`], with `userns-remap`: users in containers have other ids on the host.
    ///
    /// # Errors
    /// As [`Context::own_engine`].
    pub async fn remapping_engine(&self) -> Result<(OwnEngine, Engine), Failure> {
        self.own_engine_that(true).await
    }

    async fn own_engine_that(&self, remaps: bool) -> Result<(OwnEngine, Engine), Failure> {
        let (dockerd, unshare) = OwnEngine::find().map_err(Failure::could_not_run)?;
        let dir = self.dir().join(self.unique("engine"));
        std::fs::create_dir(&dir)?;
        let short_dir = self.socket_dir()?;
        let config = dir.join("daemon.json");
        std::fs::write(&config, "{}")?;
        let namespaces = ["--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc"].map(str::to_owned);
        let group = self.unique("engine");
        self.run.will_make(&Made::Cgroup(group.clone()))?;
        let engine = [
            dockerd.display().to_string(),
            format!("--config-file={}", config.display()),
            format!("--host=unix://{}", short_dir.join(SOCKET).display()),
            format!("--data-root={}", dir.join("data").display()),
            format!("--exec-root={}", short_dir.join(EXEC).display()),
            format!("--pidfile={}", short_dir.join(EXEC).join("dockerd.pid").display()),
            format!("--cgroup-parent=/{group}"),
            "--bridge=none".to_owned(),
            "--iptables=false".to_owned(),
            "--ip6tables=false".to_owned(),
            "--ip-masq=false".to_owned(),
        ];
        let mut engine: Vec<String> = engine.into();
        if remaps {
            // The machine's subordinate ids stay as they are; only the mount namespace sees these files.
            let numbers = dir.join("numbers");
            std::fs::write(&numbers, format!("{REMAPPED}:200000:65536\n"))?;
            engine.push(format!("--userns-remap={REMAPPED}"));
            engine.splice(0..0, ["sh", "-c", REMAP, "sh", &numbers.display().to_string()].map(str::to_owned));
        }
        let mut program = Program::new(&unshare, namespaces.into_iter().chain(engine));
        if let Ok(path) = std::env::var("PATH") {
            program.env.insert("PATH".to_owned(), path);
        }
        reboot(&short_dir)?;
        let daemon = Restartable::start(program, &self.run.id, dir.join("dockerd.log"))?;
        let own = OwnEngine { daemon, dir, short_dir, group: group.clone() };
        let to_end = own.clone();
        self.resources.add("an engine of the scenario's own", move || async move {
            to_end.kill_all().await?;
            // A killed process may take a moment to leave its control group.
            let removed = eventually(STOP_LIMIT, "an empty control group", async || cgroup::remove(&to_end.group));
            removed.await.map_err(harness)?;
            tree::remove(&to_end.dir.join("data")).await.map_err(Failure::harness)
        });
        let engine = own.connect().await?;
        let copied = tokio::time::timeout(IMAGE_LIMIT, self.give_image(&engine, &own.dir)).await;
        copied.map_err(|_| Failure::harness(format!("the image was not copied within {IMAGE_LIMIT:?}")))??;
        Ok((own, engine))
    }

    /// Copies the workspace image to an engine, without the parts that no scenario with its own engine needs.
    async fn give_image(&self, to: &Engine, dir: &Path) -> Result<(), Failure> {
        let (from, image) = (self.engine()?, &self.run.capabilities.image);
        let name = self.new_container_name("pack", from)?;
        let archive = image::pack(from, &self.run, &name, image, dir, UNUSED).await?;
        image::unpack(from, image, to, &archive, image, &self.run).await?;
        Ok(std::fs::remove_file(&archive)?)
    }
}

/// Empties an engine's runtime directory.
fn empty(short_dir: &Path) -> std::io::Result<()> {
    let absent = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    for removed in [std::fs::remove_file(short_dir.join(SOCKET)), std::fs::remove_dir_all(short_dir.join(EXEC))] {
        match removed {
            Err(error) if !absent(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// A reboot empties the runtime directory on a real machine.
fn reboot(short_dir: &Path) -> std::io::Result<()> {
    empty(short_dir)?;
    std::fs::create_dir(short_dir.join(EXEC))
}
