//! This project's Compose file, started and stopped by its own scripts.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::contained::{image, on_path};
use super::process::Program;
use crate::harness::context::Context;
use crate::harness::engine::Engine;
use crate::harness::environment::{self, PROJECT};
use crate::harness::failure::Failure;
use crate::harness::ledger::Made;
use crate::harness::pending;
use crate::harness::run::Run;

/// How long a script may take; all images exist already.
const LIMIT: Duration = Duration::from_secs(120);
/// Images other than the server's.
const IMAGES: [&str; 3] = ["nagaya/postgres:latest", "nagaya/redis:latest", "nagaya/model:debug"];

/// The folder with the Compose file: by the variable, else the nearest one above this executable.
///
/// # Errors
/// There is none.
pub fn folder() -> Result<PathBuf, String> {
    let holds = |dir: &PathBuf| dir.join("compose.yaml").is_file();
    if let Some(named) = environment::named(PROJECT).map(PathBuf::from) {
        return if holds(&named) {
            Ok(named)
        } else {
            Err(format!("{PROJECT}: no compose.yaml in {}", named.display()))
        };
    }
    let here = std::env::current_exe().map_err(|error| format!("own executable: {error}"))?;
    let mut above = here.ancestors().skip(1).map(PathBuf::from);
    above.find(holds).ok_or_else(|| format!("no compose.yaml above {}; {PROJECT} names its folder", here.display()))
}

/// Checks that it can be started.
///
/// # Errors
/// What is missing.
pub async fn find(engine: &Engine) -> Result<(), String> {
    folder()?;
    if on_path("docker-compose").is_none() && !has_plugin() {
        return Err("neither docker-compose nor Docker's plugin is here".to_owned());
    }
    for image in IMAGES {
        let found = engine.docker().inspect_image(image).await;
        found.map_err(|error| {
            format!("image {image}: {error}; scripts/service-images.sh and server-image.sh build them")
        })?;
    }
    Ok(())
}

fn has_plugin() -> bool {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker/cli-plugins"));
    let system = ["/usr/local/lib", "/usr/local/libexec", "/usr/lib", "/usr/libexec"]
        .map(|dir| PathBuf::from(dir).join("docker/cli-plugins"));
    home.into_iter().chain(system).any(|dir| dir.join("docker-compose").is_file())
}

/// A Compose project for one scenario: a name, and a folder for its secrets and sockets.
#[derive(Debug, Clone)]
pub struct Project {
    /// Name of the Compose project, which is also the deployment's id.
    pub name: String,
    /// The path of its folder.
    pub parent: PathBuf,
    folder: PathBuf,
    run: Arc<Run>,
}

impl Project {
    /// Runs one of the scripts and returns its output.
    ///
    /// # Errors
    /// If Compose fails.
    pub async fn script(&self, script: &str, settings: &[(&str, &str)]) -> Result<String, Failure> {
        let mut program = Program::new(&self.folder.join("scripts").join(script), std::iter::empty::<String>());
        for name in ["PATH", "HOME"] {
            if let Ok(value) = std::env::var(name) {
                program.env.insert(name.to_owned(), value);
            }
        }
        let image = image(&self.run.options.description).map_err(Failure::could_not_run)?;
        let own = [
            ("COMPOSE_PROJECT_NAME", self.name.clone()),
            ("NAGAYA_COMPOSE_DIR", self.parent.display().to_string()),
            ("NAGAYA_IMAGE", image),
            ("MODEL_IMAGE", "nagaya/model:debug".to_owned()),
            // Any free port of the loopback interface.
            ("NAGAYA_LISTEN", "127.0.0.1:".to_owned()),
        ];
        program.env.extend(own.map(|(name, value)| (name.to_owned(), value)));
        program.env.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let output = program.makes(&self.run, &self.name, LIMIT).await?;
        let printed = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        crate::harness::failure::check(
            output.status.success(),
            format!("{script} ended with {}: {printed}", output.status),
        )?;
        Ok(printed)
    }

    /// The Compose file as Compose renders it, with only those variables set that have no default.
    ///
    /// # Errors
    /// Compose rejects it.
    pub async fn rendered(&self) -> Result<String, Failure> {
        let (docker, compose) = (on_path("docker"), on_path("docker-compose"));
        let (path, first) = if has_plugin() { (docker, Some("compose")) } else { (compose, None) };
        let path = path.ok_or_else(|| Failure::could_not_run("Compose is not here"))?;
        let file = self.folder.join("compose.yaml").display().to_string();
        let mut program = Program::new(&path, first.into_iter().chain(["-f", &file, "config"]));
        for name in ["API_KEYS", "POSTGRES_PASSWORD", "REDIS_PASSWORD", "DOCKER_GID", "PATH", "HOME"] {
            program.env.insert(name.to_owned(), std::env::var(name).unwrap_or_else(|_| "1".to_owned()));
        }
        let output = program.output(&self.run.id, LIMIT).await?;
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        crate::harness::failure::check(
            output.status.success(),
            format!("config ended with {}: {errors}", output.status),
        )?;
        Ok(text.into_owned())
    }

    /// The project's folder, which the scripts create.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.parent.join(&self.name)
    }
}

impl Context {
    /// A Compose project that is removed with the scenario, unless the scenario has done so.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub fn compose_project(&self) -> Result<Project, Failure> {
        let folder = folder().map_err(Failure::could_not_run)?;
        let project =
            Project { name: self.unique("compose"), parent: self.dir().join("compose"), folder, run: self.run.clone() };
        let engine = self.engine()?;
        self.run.will_make(&Made::Project(project.name.clone()))?;
        self.register_rooms(&project.name, Some(engine))?;
        let (to_remove, engine) = (project.clone(), engine.clone());
        self.resources.add(format!("Compose project {}", project.name), move || async move {
            let left = remove_project(&engine, &to_remove.name).await?;
            crate::harness::failure::check(left.is_empty(), format!("not removed: {}", left.join(", ")))
        });
        Ok(project)
    }
}

/// The containers, networks and volumes of a Compose project, each as `kind name`.
///
/// # Errors
/// The engine does not answer.
pub async fn parts(engine: &Engine, project: &str) -> Result<Vec<(&'static str, String)>, Failure> {
    use bollard::query_parameters::{
        ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder,
    };
    let filters = std::collections::HashMap::from([("label", vec![format!("com.docker.compose.project={project}")])]);
    let docker = engine.docker();
    let containers =
        docker.list_containers(Some(ListContainersOptionsBuilder::new().all(true).filters(&filters).build())).await?;
    let networks = docker.list_networks(Some(ListNetworksOptionsBuilder::new().filters(&filters).build())).await?;
    let volumes = docker.list_volumes(Some(ListVolumesOptionsBuilder::new().filters(&filters).build())).await?;
    let mut found: Vec<(&'static str, String)> = Vec::new();
    found.extend(containers.into_iter().filter_map(|one| one.id).map(|id| ("container", id)));
    found.extend(networks.into_iter().filter_map(|one| one.name).map(|name| ("network", name)));
    found.extend(volumes.volumes.unwrap_or_default().into_iter().map(|one| ("volume", one.name)));
    Ok(found)
}

/// Removes a Compose project once no script is working on it, and returns what was removed.
///
/// # Errors
/// The engine refuses.
pub async fn remove_project(engine: &Engine, project: &str) -> Result<Vec<String>, Failure> {
    pending::completed(project).await;
    let mut removed = Vec::new();
    for (kind, name) in parts(engine, project).await? {
        match kind {
            "container" => engine.container(&name).remove().await?,
            "network" => engine.docker().remove_network(&name).await?,
            _ => engine.docker().remove_volume(&name, None::<bollard::query_parameters::RemoveVolumeOptions>).await?,
        }
        removed.push(format!("{kind} {name}"));
    }
    Ok(removed)
}
