//! What a scenario's body has in its hands.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::client::exchange::{Exchanges, Secrets};
use crate::evidence::Witness;
use crate::failure::Failure;
use crate::resources::Resources;
use crate::run::{Made, Run};
use crate::scenario::Scenario;
use crate::target::engine::Engine;
use crate::target::image;
use crate::target::process::Process;
use crate::target::tree;

/// One execution of one scenario.
#[derive(Debug)]
pub struct Context {
    /// The run it belongs to.
    pub run: Arc<Run>,
    /// What is executed.
    pub scenario: &'static Scenario,
    /// Where its random choices start from.
    pub seed: u64,
    dir: PathBuf,
    secrets: Secrets,
    exchanges: Exchanges,
    /// What it has made.
    pub resources: Resources,
    witnesses: Mutex<Vec<Witness>>,
    notes: Mutex<Vec<String>>,
}

impl Context {
    /// Prepares a scenario: a directory of its own, and an empty log.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn new(run: Arc<Run>, scenario: &'static Scenario) -> Result<Self, Failure> {
        let secrets = Secrets::default();
        if let Some(key) = &run.options.api_key {
            secrets.add(key);
        }
        let dir = run.dir().join(format!("{}-{}", scenario.id, run.next()));
        let resources = Resources::default();
        let to_remove = dir.clone();
        resources
            .add(format!("directory {}", dir.display()), move || async move { Ok(tree::remove(&to_remove).await?) });
        std::fs::create_dir_all(&dir)?;
        Ok(Self {
            seed: run.options.seed,
            exchanges: Exchanges::new(secrets.clone()),
            run,
            scenario,
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

    /// What must not be shown.
    #[must_use]
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// What was said on the wire.
    #[must_use]
    pub fn exchanges(&self) -> &Exchanges {
        &self.exchanges
    }

    /// The engine; a scenario that needs it declares [`crate::scenario::Capability::Docker`].
    ///
    /// # Errors
    /// There is none.
    pub fn engine(&self) -> Result<&Engine, Failure> {
        self.run.capabilities.engine.as_ref().ok_or_else(|| Failure::could_not_run("no Docker engine"))
    }

    /// A name that nothing else has, in lower case: `conf-<run>-<what>-<n>`.
    #[must_use]
    pub fn unique(&self, what: &str) -> String {
        format!("conf-{}-{what}-{}", self.run.id, self.run.next())
    }

    /// Remembers something for the report, whether the scenario passes or not.
    pub fn note(&self, note: impl Into<String>) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(note.into());
    }

    /// What was noted.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds something that can say what went on, should the scenario fail.
    pub fn add_witness(&self, witness: Witness) {
        self.witnesses.lock().unwrap_or_else(PoisonError::into_inner).push(witness);
    }

    /// Everything that can say what went on.
    #[must_use]
    pub fn witnesses(&self) -> Vec<Witness> {
        self.witnesses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A server runs now: it must end when told to, and not before.
    pub fn now_runs(&self, server: &Process) {
        let server = server.clone();
        self.resources.add(format!("server, pid {}", server.pid()), move || async move { server.retire().await });
    }

    /// A directory with a short path, for sockets: their paths may have 107 bytes at most. It must be empty at the end.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn socket_dir(&self) -> Result<PathBuf, Failure> {
        let dir = PathBuf::from(format!("/tmp/ng-{}-{}", self.run.id, self.run.next()));
        self.run.will_make(&Made::Dir(dir.clone()))?;
        let to_remove = dir.clone();
        self.resources.add(format!("socket directory {}", dir.display()), move || async move {
            let entries = std::fs::read_dir(&to_remove)?.flatten();
            let names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            tree::remove(&to_remove).await?;
            crate::failure::check(names.is_empty(), format!("left over in it: {}", names.join(", ")))
        });
        std::fs::create_dir(&dir)?;
        Ok(dir)
    }

    /// Makes an image of the room's image by a line of shell that root runs in it; it goes with the scenario.
    ///
    /// # Errors
    /// The line fails, or the engine refuses.
    pub async fn derived_image(&self, change: &str) -> Result<String, Failure> {
        self.derived_image_with(change, "").await
    }

    /// The same with further lines of a Dockerfile.
    ///
    /// # Errors
    /// As [`Context::derived_image`].
    pub async fn derived_image_with(&self, change: &str, settings: &str) -> Result<String, Failure> {
        let engine = self.engine()?.clone();
        let tag = self.image_to_be("image", &engine)?;
        let name = self.own_container("change", &engine)?;
        image::derive(&engine, &self.run, &tag, &self.run.options.image, &name, change, settings).await?;
        Ok(tag)
    }

    /// A name for an image of the scenario's own, which goes with it.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub fn image_to_be(&self, what: &str, engine: &Engine) -> Result<String, Failure> {
        let tag = format!("{}:test", self.unique(what));
        self.run.will_make(&Made::Image(tag.clone()))?;
        let (remover, to_remove) = (engine.clone(), tag.clone());
        self.resources.add(format!("image {tag}"), move || async move { image::remove(&remover, &to_remove).await });
        Ok(tag)
    }

    /// A name for a container of the scenario's own, which goes with it.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub fn own_container(&self, what: &str, engine: &Engine) -> Result<String, Failure> {
        let name = self.unique(what);
        self.run.will_make(&Made::Container(name.clone()))?;
        let container = engine.container(&name);
        self.resources.add(format!("container {name}"), move || async move { container.remove().await });
        Ok(name)
    }
}
