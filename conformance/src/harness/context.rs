//! What a scenario's body works with: the run, directories and names of its own, and the resources to release at its end.
//!
//! [`crate::target`] adds methods that launch deployments and everything beside them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::harness::engine::Engine;
use crate::harness::evidence::Witness;
use crate::harness::exchanges::{Exchanges, Secrets};
use crate::harness::failure::{Failure, check};
use crate::harness::ledger::Made;
use crate::harness::resources::Resources;
use crate::harness::run::Run;
use crate::harness::tree;
use crate::harness::vocabulary::Capability;

/// One execution of one scenario.
pub struct Context {
    /// The run it belongs to.
    pub run: Arc<Run>,
    /// What the scenario declares that it needs.
    pub requires: &'static [Capability],
    /// Seed of its random choices.
    pub seed: u64,
    /// What it has made.
    pub resources: Resources,
    dir: PathBuf,
    secrets: Secrets,
    exchanges: Exchanges,
    witnesses: Mutex<Vec<Arc<dyn Witness>>>,
    notes: Mutex<Vec<String>>,
}

impl Context {
    /// Prepares the execution of the scenario `id`: a directory of its own, and an empty log of exchanges.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn new(run: Arc<Run>, id: &str, requires: &'static [Capability]) -> Result<Self, Failure> {
        let secrets = Secrets::default();
        if let Some(key) = &run.options.api_key {
            secrets.add(key);
        }
        let dir = run.dir().join(format!("{id}-{}", run.next()));
        let resources = Resources::default();
        let to_remove = dir.clone();
        resources
            .add(format!("directory {}", dir.display()), move || async move { Ok(tree::remove(&to_remove).await?) });
        std::fs::create_dir_all(&dir)?;
        Ok(Self {
            seed: run.options.seed,
            exchanges: Exchanges::new(secrets.clone()),
            run,
            requires,
            dir,
            secrets,
            resources,
            witnesses: Mutex::default(),
            notes: Mutex::default(),
        })
    }

    /// The scenario's own directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Texts that must not be shown.
    #[must_use]
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// The requests and responses so far.
    #[must_use]
    pub fn exchanges(&self) -> &Exchanges {
        &self.exchanges
    }

    /// The Docker engine; a scenario that uses it declares [`Capability::Docker`].
    ///
    /// # Errors
    /// There is none.
    pub fn engine(&self) -> Result<&Engine, Failure> {
        self.run.capabilities.engine.as_ref().ok_or_else(|| Failure::could_not_run("no Docker engine"))
    }

    /// A unique name in lower case: `conf-<run>-<what>-<n>`.
    #[must_use]
    pub fn unique(&self, what: &str) -> String {
        format!("conf-{}-{what}-{}", self.run.id, self.run.next())
    }

    /// Adds a note to the report, whether the scenario passes or not.
    pub fn note(&self, note: impl Into<String>) {
        self.notes.lock().push(note.into());
    }

    /// The notes so far.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        self.notes.lock().clone()
    }

    /// Adds a part of the deployment that can give evidence if the scenario fails.
    pub fn add_witness(&self, witness: impl Witness + 'static) {
        self.witnesses.lock().push(Arc::new(witness));
    }

    /// Everything that can give evidence.
    #[must_use]
    pub fn witnesses(&self) -> Vec<Arc<dyn Witness>> {
        self.witnesses.lock().clone()
    }

    /// A directory with a short path, for sockets: the path of a socket has 107 bytes at most (unix(7)). It must be empty at the end.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn socket_dir(&self) -> Result<PathBuf, Failure> {
        let dir = PathBuf::from(format!("/tmp/ng-{}-{}", self.run.id, self.run.next()));
        self.run.will_make(&Made::Dir(dir.clone()))?;
        let to_remove = dir.clone();
        self.resources.add(format!("socket directory {}", dir.display()), move || async move {
            let entries = std::fs::read_dir(&to_remove)?.flatten();
            let names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            tree::remove(&to_remove).await?;
            check(names.is_empty(), format!("it still contains {}", names.join(", ")))
        });
        std::fs::create_dir(&dir)?;
        Ok(dir)
    }
}
