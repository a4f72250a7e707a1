//! A server in a container on the engine that it manages, started as an operator would: locked down and without root.

use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use super::process::Program;
use super::serving::free_address;
use crate::description::Description;
use crate::description::settings::Settings;
use crate::harness::context::Context;
use crate::harness::engine::{Engine, Room};
use crate::harness::environment::{self, SERVER_IMAGE};
use crate::harness::failure::Failure;

/// Path of the socket directories inside the container.
pub const SOCKETS_INSIDE: &str = "/var/run/workspace-sockets";

/// The server's image: by the variable, else as the target's description says; for this project's, `make images` builds it.
///
/// # Errors
/// Nobody names one.
pub fn image(description: &Description) -> Result<String, String> {
    let named = environment::named(SERVER_IMAGE).or_else(|| description.images.server.clone());
    named.ok_or_else(|| format!("no server image is named: by {SERVER_IMAGE}, or by images.server in the target file"))
}

/// The path of a program on the search path.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// Checks that a server can be started in a container.
///
/// # Errors
/// What is missing.
pub async fn find(engine: &Engine, description: &Description) -> Result<(), String> {
    on_path("docker").ok_or("docker is not on the search path")?;
    let image = image(description)?;
    let found = engine.docker().inspect_image(&image).await;
    found.map(|_| ()).map_err(|error| {
        format!("image {image}: {error}; scripts/server-image.sh builds it, {SERVER_IMAGE} names another")
    })
}

/// The user of a server in a container: uid 1000 if the suite runs as root, else the suite's own user.
#[must_use]
pub fn user() -> u32 {
    match rustix::process::getuid().as_raw() {
        0 => 1000,
        own => own,
    }
}

impl Context {
    /// The same program with the same settings in a container. `docker run` takes the place of its process: it forwards signals, prints
    /// the server's output, and exits with its status.
    pub(super) fn contain(
        &self,
        program: Program,
        sockets: &Path,
        descriptors: Option<u32>,
    ) -> Result<(Program, Room), Failure> {
        let engine = self.engine()?;
        let docker = on_path("docker").ok_or_else(|| Failure::could_not_run("docker is not on the search path"))?;
        let (name, user) = (self.new_container_name("server", engine)?, user());
        // A scenario that puts a relay between server and engine gives the server another socket, in the scenario's directory.
        let other =
            program.env.get("DOCKER_SOCKET_PATH").map(|address| Path::new(address.trim_start_matches("unix://")));
        let other = other.filter(|path| path.is_absolute() && *path != engine.socket());
        let relayed = other.and_then(Path::parent).filter(|dir| dir.starts_with("/tmp") && dir.is_dir());
        if rustix::process::getuid().is_root() {
            let there = other.filter(|path| relayed.is_some() && path.exists());
            for path in [Some(self.dir()), Some(sockets), relayed, there].into_iter().flatten() {
                chown(path, Some(user), Some(user))?;
            }
        }
        let socket = engine.socket().display().to_string();
        let own = self.dir().display();
        let mut args: Vec<OsString> = vec![format!("--host=unix://{socket}").into(), "run".into(), "--rm".into()];
        let mut add = |arg: String| args.push(arg.into());
        for arg in
            ["--network=host", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
        {
            add(arg.to_owned());
        }
        add(format!("--name={name}"));
        add(format!("--user={user}:{user}"));
        add(format!("--group-add={}", std::fs::metadata(&socket)?.gid()));
        if let Some(most) = descriptors {
            add(format!("--ulimit=nofile={most}:{most}"));
        }
        add(format!("--volume={socket}:{socket}"));
        add(format!("--volume={own}:{own}"));
        if let Some(dir) = relayed {
            add(format!("--volume={0}:{0}", dir.display()));
        }
        add(format!("--volume={}:{SOCKETS_INSIDE}", sockets.display()));
        let mut env = program.env.clone();
        env.insert("WORKSPACE_SOCKET_BASE_PATH".to_owned(), SOCKETS_INSIDE.to_owned());
        env.entry("WORKSPACE_SOCKET_HOST_PATH".to_owned()).or_insert_with(|| sockets.display().to_string());
        // The health command needs to know the server's port. The port is free now; if another process takes it first, the
        // server reports it and exits.
        if env.get("BIND_ADDR").is_none_or(|address| address.ends_with(":0")) {
            env.insert("BIND_ADDR".to_owned(), free_address()?);
        }
        let env = program.settings.environment(&env);
        // Only the names: values on a command line are visible to every user.
        for name in env.keys().filter(|name| !["HOME", "PATH"].contains(&name.as_str())) {
            add(format!("--env={name}"));
        }
        add(image(&self.run.options.description).map_err(Failure::could_not_run)?);
        args.extend(program.args);
        Ok((Program { path: docker, args, env, dir: None, settings: Settings::default() }, engine.container(&name)))
    }
}
