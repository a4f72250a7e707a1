//! What all scenarios of one run share: its id, its options, what it can do, and the ledger of what it makes.

use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use rand::RngExt;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::capabilities::Capabilities;
use crate::mutants::Defect;
use crate::scenario::{Capability, named};

named! {
    /// How the suite launches deployments.
    LaunchAs {
        /// The server is a process of this machine; PostgreSQL and Redis are too.
        Process = "process",
        /// The server is a container of its image, PostgreSQL and Redis are containers of theirs.
        Container = "container",
    }
}

/// What a run was told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Base URL of somebody else's deployment; `None`: the suite launches its own.
    pub target: Option<String>,
    /// How deployments are launched.
    pub launch: LaunchAs,
    /// The Docker socket; `None`: the usual one, where the suite launches the deployment.
    pub docker: Option<String>,
    /// Key for the API.
    pub api_key: Option<String>,
    /// The `nagaya.deployment` label of somebody else's deployment.
    pub deployment: Option<String>,
    /// Image of rooms in launched deployments.
    pub image: String,
    /// Whether scenarios that break or remove what they did not make may touch somebody else's deployment.
    pub allow_destructive: bool,
    /// Whether scenarios may ask the model of somebody else's deployment.
    pub allow_model_calls: bool,
    /// What the deployment is said not to have.
    pub without: Vec<Capability>,
    /// Where random choices start from.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            target: None,
            launch: LaunchAs::Process,
            docker: None,
            api_key: None,
            deployment: None,
            image: "workspace-base:latest".to_owned(),
            allow_destructive: false,
            allow_model_calls: false,
            without: Vec::new(),
            seed: rand::rng().random(),
        }
    }
}

/// One run.
#[derive(Debug)]
pub struct Run {
    /// Eight hexadecimal digits; part of the name of all it makes.
    pub id: String,
    /// What it was told.
    pub options: Options,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Ends all scenarios early; each still cleans up.
    pub cancel: CancellationToken,
    /// What is wrong with the deployments it launches: nothing, but in [`crate::selftest`].
    pub defects: &'static [Defect],
    dir: PathBuf,
    ledger: Ledger,
    counter: AtomicU32,
    left_something: AtomicBool,
}

/// What [`crate::gc`] learns of a run from, whatever happens to the run's process.
#[derive(Debug, Clone)]
pub(crate) struct Ledger(Arc<Mutex<File>>);

impl Ledger {
    pub(crate) fn write(&self, line: &str) -> std::io::Result<()> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(line.as_bytes())?;
        file.flush()
    }
}

/// Something a run made that outlives its process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    /// All containers of a deployment, by the label's value.
    Deployment(String),
    /// A container of the suite's own, by name.
    Container(String),
    /// Everything of a Compose project, by its name.
    Project(String),
    /// An image, by tag.
    Image(String),
    /// Images without a name that builds left, by the run's id.
    Layers(String),
    /// A control group, by its name.
    Cgroup(String),
    /// A directory outside the run's own.
    Dir(PathBuf),
}

impl Made {
    fn line(&self) -> String {
        match self {
            Self::Deployment(id) => format!("deployment {id}\n"),
            Self::Container(name) => format!("container {name}\n"),
            Self::Project(name) => format!("project {name}\n"),
            Self::Image(tag) => format!("image {tag}\n"),
            Self::Layers(run) => format!("layers {run}\n"),
            Self::Cgroup(name) => format!("cgroup {name}\n"),
            Self::Dir(path) => format!("dir {}\n", path.display()),
        }
    }

    /// Reads a line of a ledger.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (kind, name) = line.split_once(' ')?;
        Some(match kind {
            "deployment" => Self::Deployment(name.to_owned()),
            "container" => Self::Container(name.to_owned()),
            "project" => Self::Project(name.to_owned()),
            "image" => Self::Image(name.to_owned()),
            "layers" => Self::Layers(name.to_owned()),
            "cgroup" => Self::Cgroup(name.to_owned()),
            "dir" => Self::Dir(PathBuf::from(name)),
            _ => return None,
        })
    }
}

/// Name of the file in a run's directory that says which process it belongs to.
pub const OWNER_FILE: &str = "owner";
/// Name of the file in a run's directory that says what it has made.
pub const LEDGER_FILE: &str = "ledger";

/// The directory that holds one directory for each run of this user.
#[must_use]
pub fn runs_dir() -> PathBuf {
    std::env::temp_dir().join(format!("nagaya-conformance-{}", rustix::process::getuid().as_raw()))
}

/// Tells a process from a later one with the same id: the 22nd field of `/proc/<pid>/stat` (proc(5), `starttime`). One that has ended
/// and that nobody has asked for yet (`Z`) runs no more.
#[must_use]
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses and may itself hold spaces and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

impl Run {
    /// Begins a run: makes its directory and its ledger.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn begin(options: Options, capabilities: Capabilities) -> anyhow::Result<Self> {
        let id = format!("{:08x}", rand::rng().random::<u32>());
        let dir = runs_dir().join(&id);
        // Under its own name only once it says whose it is: without an owner it would look like a dead run's.
        let unfinished = runs_dir().join(format!(".{id}"));
        std::fs::create_dir_all(&unfinished).with_context(|| unfinished.display().to_string())?;
        let pid = std::process::id();
        let owner = format!("{pid} {}\n", start_time(pid).context("this process is not in /proc")?);
        std::fs::write(unfinished.join(OWNER_FILE), owner)
            .and_then(|()| std::fs::rename(&unfinished, &dir))
            .with_context(|| dir.display().to_string())?;
        let ledger = File::options().create(true).append(true).open(dir.join(LEDGER_FILE))?;
        Ok(Self {
            id,
            options,
            capabilities,
            cancel: CancellationToken::new(),
            defects: &[],
            dir,
            ledger: Ledger(Arc::new(Mutex::new(ledger))),
            counter: AtomicU32::new(1),
            left_something: AtomicBool::new(false),
        })
    }

    /// Writes down something that is about to be made, so that [`crate::gc`] finds it whatever happens to this process.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub fn will_make(&self, made: &Made) -> std::io::Result<()> {
        self.ledger.write(&made.line())
    }

    /// The ledger, for what goes on by itself.
    pub(crate) fn ledger(&self) -> Ledger {
        self.ledger.clone()
    }

    /// A number that no other call in this run gets.
    pub fn next(&self) -> u32 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    /// The run's own directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A scenario could not take down all that it has made.
    pub fn has_left_something(&self) {
        self.left_something.store(true, Ordering::Relaxed);
    }

    /// Whether one could not.
    #[must_use]
    pub fn left_something(&self) -> bool {
        self.left_something.load(Ordering::Relaxed)
    }

    /// Ends the run: its directory goes, and with it the ledger. Everything in the ledger must be gone; [`crate::gc::end`] sees to that.
    ///
    /// # Errors
    /// Something is still in the directory that cannot be removed.
    pub fn end(&self) -> std::io::Result<()> {
        std::fs::remove_dir_all(&self.dir)
    }
}
