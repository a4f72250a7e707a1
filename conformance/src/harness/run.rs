//! The state that all scenarios of one run share: its id, options and capabilities, and the ledger of what it makes.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use anyhow::Context as _;
use parking_lot::Mutex;
use rand::RngExt;
use tokio_util::sync::CancellationToken;

use crate::harness::capabilities::Capabilities;
use crate::harness::ledger::{Ledger, Made, OWNER_FILE, runs_dir, start_time};
use crate::harness::options::Options;

/// The copy of the target file in a run's directory.
pub const TARGET_FILE: &str = "target.toml";

/// One run.
#[derive(Debug)]
pub struct Run {
    /// Eight hexadecimal digits; part of the name of everything the run makes.
    pub id: String,
    /// What the command line asks of it.
    pub options: Options,
    /// What it can reach and do.
    pub capabilities: Capabilities,
    /// Ends all scenarios early; each still cleans up.
    pub cancel: CancellationToken,
    /// Settings of the parts above the harness, by type: `selftest` stores the defects of the deployments it launches here.
    pub extensions: http::Extensions,
    dir: PathBuf,
    ledger: Ledger,
    counter: AtomicU32,
    left_something: AtomicBool,
    changes: Mutex<Vec<String>>,
}

impl Run {
    /// Begins a run: creates its directory and its ledger.
    ///
    /// # Errors
    /// They cannot be created.
    pub fn begin(options: Options, capabilities: Capabilities) -> anyhow::Result<Self> {
        let id = format!("{:08x}", rand::rng().random::<u32>());
        let dir = runs_dir().join(&id);
        // The directory gets its final name only once it names its owner: without one, `gc` would take it for that of a dead run.
        let unfinished = runs_dir().join(format!(".{id}"));
        std::fs::create_dir_all(&unfinished).with_context(|| unfinished.display().to_string())?;
        let pid = std::process::id();
        let owner = format!("{pid} {}\n", start_time(pid).context("this process is not in /proc")?);
        std::fs::write(unfinished.join(OWNER_FILE), owner)
            .and_then(|()| std::fs::rename(&unfinished, &dir))
            .with_context(|| dir.display().to_string())?;
        // For `gc`, which has to recognise the containers of a run that was killed.
        if let Some(file) = &options.description.file {
            std::fs::copy(file, dir.join(TARGET_FILE)).with_context(|| file.display().to_string())?;
        }
        Ok(Self {
            id,
            options,
            capabilities,
            cancel: CancellationToken::new(),
            extensions: http::Extensions::new(),
            ledger: Ledger::open(&dir)?,
            dir,
            counter: AtomicU32::new(1),
            left_something: AtomicBool::new(false),
            changes: Mutex::default(),
        })
    }

    /// Records something that is about to be made, so that `gc` finds it whatever happens to this process.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub fn will_make(&self, made: &Made) -> std::io::Result<()> {
        self.ledger.record(made)
    }

    /// The ledger, for requests that outlive their caller.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
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

    /// Records that a scenario could not remove everything it made.
    pub fn has_left_something(&self) {
        self.left_something.store(true, Ordering::Relaxed);
    }

    /// Whether a scenario could not remove everything it made.
    #[must_use]
    pub fn left_something(&self) -> bool {
        self.left_something.load(Ordering::Relaxed)
    }

    /// Records that the target is not the one any more that the run began with.
    pub fn target_has_changed(&self, changes: Vec<String>) {
        self.changes.lock().extend(changes);
    }

    /// How the target has changed during the run; empty if it has not.
    #[must_use]
    pub fn target_changes(&self) -> Vec<String> {
        self.changes.lock().clone()
    }

    /// Ends the run: removes its directory, and with it the ledger. Everything in the ledger must be gone by then; `gc::end` sees to
    /// that.
    ///
    /// # Errors
    /// Something in the directory cannot be removed.
    pub fn end(&self) -> std::io::Result<()> {
        std::fs::remove_dir_all(&self.dir)
    }
}
