//! The Dockerfile of the workspace image, and builds from it with Docker's command line.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use bollard::query_parameters::ListImagesOptionsBuilder;

use super::compose::folder;
use super::contained::on_path;
use super::image;
use super::image::LABEL_RUN;
use super::process::Program;
use crate::harness::context::Context;
use crate::harness::engine::Engine;
use crate::harness::failure::Failure;
use crate::harness::ledger::Made;

/// How long a build may take.
const LIMIT: Duration = Duration::from_secs(150);

/// The directories that take most of the space in the workspace image.
const LARGE: &[&str] =
    &["/usr/local", "/usr/share", "/usr/include", "/usr/lib/gcc", "/usr/lib/python3*", "/usr/lib/git-core", "/var/lib"];

/// A file of the build context: its path, content and mode.
pub type ContextFile<'a> = (&'a str, &'a str, u32);

/// The path of the Dockerfile.
///
/// # Errors
/// It does not exist.
pub fn recipe() -> Result<PathBuf, String> {
    let path = folder()?.join("workspace-base/Dockerfile");
    if path.is_file() { Ok(path) } else { Err(format!("{} is not there", path.display())) }
}

/// Checks that images can be built from the Dockerfile.
///
/// # Errors
/// What is missing.
pub fn find() -> Result<(), String> {
    recipe()?;
    on_path("docker").map(drop).ok_or_else(|| "docker is not on the search path".to_owned())
}

/// The instructions of a Dockerfile, verbatim.
fn instructions(text: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in text.lines() {
        let line_matters = !line.trim_start().starts_with('#') && !line.trim().is_empty();
        if !line_matters {
            continue;
        }
        match all.last_mut().filter(|_| goes_on) {
            Some(last) => last.push_str(&format!("\n{line}")),
            None => all.push(line.to_owned()),
        }
        goes_on = line.trim_end().ends_with('\\');
    }
    all
}

/// The step of the Dockerfile that begins with this text, and the step after it.
///
/// # Errors
/// There is no such step, or none after it.
pub fn two_steps(begins: &str) -> Result<[String; 2], Failure> {
    let path = recipe().map_err(Failure::could_not_run)?;
    let all = instructions(&fs::read_to_string(&path)?);
    let at = all.iter().position(|step| step.starts_with(begins));
    let steps = at.and_then(|at| Some([all.get(at)?.clone(), all.get(at + 1)?.clone()]));
    let missing = || Failure::assertion(format!("no step {begins:?} with another behind it in {}", path.display()));
    steps.ok_or_else(missing)
}

/// The result of a build.
#[derive(Debug)]
pub struct Built {
    /// The image's tag, if the build succeeded.
    pub tag: Option<String>,
    /// Everything that was printed.
    pub printed: String,
}

impl Context {
    /// A base image for builds that need only a shell: the workspace image without most of its content, in one layer.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn small_base(&self) -> Result<String, Failure> {
        let (engine, image) = (self.engine()?, &self.run.capabilities.image);
        let dir = self.dir().join(self.unique("base"));
        fs::create_dir(&dir)?;
        let name = self.new_container_name("pack", engine)?;
        let archive = image::pack(engine, &self.run, &name, image, &dir, LARGE).await?;
        let tag = self.new_image_tag("base", engine)?;
        image::unpack(engine, image, engine, &archive, &tag, &self.run).await?;
        Ok(tag)
    }

    /// Runs further steps as root on top of an image. The resulting image is removed with the scenario, and so are the layers
    /// of a build that fails.
    ///
    /// # Errors
    /// The build does not end in time, or cannot be started. A build that fails is no error.
    pub async fn build(&self, base: &str, steps: &str, files: &[ContextFile<'_>]) -> Result<Built, Failure> {
        let engine = self.engine()?.clone();
        let docker = on_path("docker").ok_or_else(|| Failure::could_not_run("docker is not on the search path"))?;
        let dir = self.dir().join(self.unique("build"));
        fs::create_dir(&dir)?;
        for (path, text, mode) in files {
            let path = dir.join(path);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode))?;
        }
        let run = &self.run.id;
        let dockerfile = format!("FROM {base}\nLABEL {LABEL_RUN}={run}\nUSER 0:0\n{steps}\nUSER 1000:1000\n");
        fs::write(dir.join("Dockerfile"), dockerfile)?;

        self.run.will_make(&Made::Layers(run.clone()))?;
        let (remover, of) = (engine.clone(), run.clone());
        self.resources.add("layers of a build", move || async move { remove_layers(&remover, &of).await.map(drop) });
        let tag = self.new_image_tag("image", &engine)?;

        let socket = format!("--host=unix://{}", engine.socket().display());
        // The classic builder's cache is useless here: nothing is built twice.
        let args = [&socket, "build", "--no-cache", "--force-rm", "--tag", &tag, "."];
        let mut program = Program::new(&docker, args);
        program.env.insert("HOME".to_owned(), self.dir().display().to_string());
        if let Ok(path) = std::env::var("PATH") {
            program.env.insert("PATH".to_owned(), path);
        }
        program.dir = Some(dir);
        let output = program.makes(&self.run, &tag, LIMIT).await?;
        let build_output = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        let printed = String::from_utf8_lossy(&build_output).into_owned();
        Ok(Built { tag: output.status.success().then_some(tag), printed })
    }
}

/// Removes untagged images of a run's builds and returns their number.
///
/// # Errors
/// The engine refuses.
pub async fn remove_layers(engine: &Engine, run: &str) -> Result<usize, Failure> {
    let label = format!("{LABEL_RUN}={run}");
    let filters = HashMap::from([("dangling", vec!["true".to_owned()]), ("label", vec![label])]);
    let options = ListImagesOptionsBuilder::new().filters(&filters).build();
    // One by one, with their parents: the engine serves one prune request at a time and refuses all others meanwhile.
    let layers = engine.docker().list_images(Some(options)).await?;
    for layer in &layers {
        image::remove(engine, &layer.id).await?;
    }
    Ok(layers.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_split() {
        let text = "# first\nFROM a\n\nRUN one && \\\n    # between\n    two\nCOPY b c\n";
        assert_eq!(instructions(text), ["FROM a", "RUN one && \\\n    two", "COPY b c"]);
    }
}
