//! The ledger of a run: a file that lists everything that outlives the suite's process, before it is made, so that
//! `nagaya-conformance gc` can remove it after a crash.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

/// Name of the file in a run's directory that says which process the run belongs to.
pub const OWNER_FILE: &str = "owner";
/// Name of the file in a run's directory that says what the run has made.
pub const LEDGER_FILE: &str = "ledger";

/// An open ledger, shared by everything in this process that makes something.
#[derive(Debug, Clone)]
pub struct Ledger(Arc<Mutex<File>>);

impl Ledger {
    /// Opens the ledger in a run's directory for appending.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(dir.join(LEDGER_FILE))?;
        Ok(Self(Arc::new(Mutex::new(file))))
    }

    /// Records something that is about to be made.
    pub(super) fn record(&self, made: &Made) -> io::Result<()> {
        self.write(&made.line())
    }

    /// Appends a whole line at once, so that a crash leaves no other line than the last one torn.
    pub(super) fn write(&self, line: &str) -> io::Result<()> {
        let mut file = self.0.lock();
        file.write_all(line.as_bytes())?;
        file.flush()
    }
}

/// Something a run made that outlives its process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    /// All containers of a deployment, by the value of their label.
    Deployment(String),
    /// A container of the suite's own, by name.
    Container(String),
    /// Everything that belongs to a Compose project, by its name.
    Project(String),
    /// An image, by tag.
    Image(String),
    /// Untagged images that builds left behind, by the run's id.
    Layers(String),
    /// A control group, by name.
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

    /// Parses a line of a ledger.
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

/// The directory that holds one directory for each run of this user.
#[must_use]
pub fn runs_dir() -> PathBuf {
    std::env::temp_dir().join(format!("nagaya-conformance-{}", rustix::process::getuid().as_raw()))
}

/// The start time of a process (`starttime` in proc(5), field 22 of `/proc/<pid>/stat`), which distinguishes it from a later process
/// with the same id. `None` for a process that does not exist, or that has exited and waits for its parent (state `Z`).
#[must_use]
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses and may itself contain spaces and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}
