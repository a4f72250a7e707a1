//! Images and containers for a single scenario.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::body_try_stream;
use bollard::errors::Error as DockerError;
use bollard::models::{ContainerConfig, ContainerCreateBody, HostConfig, Mount, MountType};
use bollard::query_parameters::{
    CommitContainerOptionsBuilder, CreateImageOptionsBuilder, RemoveImageOptionsBuilder, StartContainerOptions,
};
use futures::{StreamExt, TryStreamExt};
use tokio_util::io::ReaderStream;

use crate::harness::context::Context;
use crate::harness::engine::{Engine, Room};
use crate::harness::failure::Failure;
use crate::harness::ledger::Made;
use crate::harness::pending;
use crate::harness::run::Run;

/// Label of what a run makes besides workspaces: images, and containers of its own.
pub const LABEL_RUN: &str = "nagaya.conformance.run";

/// How long the change to an image may take.
const CHANGE_LIMIT: Duration = Duration::from_secs(60);

/// Makes the image `tag` from `base` by a shell line that root runs in it. The result adds one layer, made
/// by a commit: some storage drivers compare the whole image for every layer, and a build adds one for each step.
/// `settings` are further Dockerfile lines, such as `USER root`. The intermediate container `name` is removed.
///
/// # Errors
/// The line fails, or the engine refuses.
pub async fn derive(
    engine: &Engine,
    run: &Run,
    tag: &str,
    base: &str,
    name: &str,
    change: &str,
    settings: &str,
) -> Result<(), Failure> {
    let docker = engine.docker();
    let original = docker.inspect_image(base).await?.config.unwrap_or_default();
    // A commit cannot remove an entrypoint, so none is set for an image without one.
    let has_entrypoint = original.entrypoint.as_ref().is_some_and(|entrypoint| !entrypoint.is_empty());
    let container = as_root(engine, run, name, base, has_entrypoint, change, Vec::new()).await?;
    let json = |list: Option<Vec<String>>| serde_json::to_string(&list.unwrap_or_default()).map_err(Failure::harness);
    let mut changes = format!("CMD {}", json(original.cmd)?);
    if has_entrypoint {
        changes = format!("ENTRYPOINT {}\n{changes}", json(original.entrypoint)?);
    }
    if let Some(user) = original.user.filter(|user| !user.is_empty()) {
        changes = format!("{changes}\nUSER {user}");
    }
    if !settings.is_empty() {
        changes = format!("{changes}\n{settings}");
    }
    let (repository, version) = tag.split_once(':').unwrap_or((tag, "latest"));
    let commit = CommitContainerOptionsBuilder::new().container(name).repo(repository).tag(version).changes(&changes);
    let (docker, commit) = (docker.clone(), commit.build());
    let commit = async move { docker.commit_container(commit, ContainerConfig::default()).await };
    pending::complete(run.ledger(), tag, commit).await?;
    container.remove().await
}

/// Runs a shell line as root in a container of the image, which must succeed; the container is kept.
async fn as_root(
    engine: &Engine,
    run: &Run,
    name: &str,
    image: &str,
    has_entrypoint: bool,
    line: &str,
    binds: Vec<String>,
) -> Result<Room, Failure> {
    let docker = engine.docker();
    let shell = ["sh", "-euc", line].map(str::to_owned).to_vec();
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        user: Some("0:0".to_owned()),
        entrypoint: has_entrypoint.then(|| shell.clone()),
        cmd: Some(if has_entrypoint { Vec::new() } else { shell }),
        labels: Some(HashMap::from([(LABEL_RUN.to_owned(), run.id.clone())])),
        host_config: Some(HostConfig {
            network_mode: Some("none".to_owned()),
            binds: Some(binds),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let container = engine.create(run.ledger(), name, body).await?;
    docker.start_container(name, None::<StartContainerOptions>).await?;
    let status = tokio::time::timeout(CHANGE_LIMIT, ended(engine, name)).await;
    let status =
        status.map_err(|_| Failure::harness(format!("a line in {image}: did not end within {CHANGE_LIMIT:?}")))??;
    if status != 0 {
        let printed = container.logs().await.unwrap_or_default();
        return Err(Failure::harness(format!("a line in {image}: status {status}, printed {printed:?}")));
    }
    Ok(container)
}

/// The output of a shell line that root runs in a container of the image; the container `name` is removed.
///
/// # Errors
/// The line fails, or the engine refuses.
pub async fn print_as_root(engine: &Engine, run: &Run, name: &str, image: &str, line: &str) -> Result<String, Failure> {
    let container = as_root(engine, run, name, image, true, line, Vec::new()).await?;
    let printed = container.logs().await?;
    container.remove().await?;
    Ok(printed)
}

/// Packs an image's files, except those below `without`, into `dir/image.tar`, from which [`unpack`] makes an image of one
/// layer. Copying or extending an image of many layers takes minutes on some storage drivers. The intermediate container `name`
/// is removed.
///
/// # Errors
/// The engine refuses, or the disk is full.
pub async fn pack(
    engine: &Engine,
    run: &Run,
    name: &str,
    image: &str,
    dir: &Path,
    without: &[&str],
) -> Result<PathBuf, Failure> {
    let without: Vec<String> = without.iter().map(|path| format!("--exclude=.{path}")).collect();
    let line = format!("tar -C / --one-file-system {} -cf /pack-into/image.tar .", without.join(" "));
    let binds = vec![format!("{}:/pack-into", dir.display())];
    as_root(engine, run, name, image, true, &line, binds).await?.remove().await?;
    Ok(dir.join("image.tar"))
}

/// Makes an image from an archive of its files, with the default command and settings of another image, on the same or another
/// engine.
///
/// # Errors
/// The engine refuses.
pub async fn unpack(
    from: &Engine,
    like: &str,
    to: &Engine,
    archive: &Path,
    tag: &str,
    run: &Run,
) -> Result<(), Failure> {
    let config = from.docker().inspect_image(like).await?.config.unwrap_or_default();
    let command = serde_json::to_string(&config.cmd.unwrap_or_default()).map_err(Failure::harness)?;
    let mut changes = vec![format!("CMD {command}"), format!("LABEL {LABEL_RUN}={}", run.id)];
    changes.extend(config.env.unwrap_or_default().into_iter().filter_map(|one| {
        let (name, value) = one.split_once('=')?;
        Some(format!("ENV {name}=\"{value}\""))
    }));
    changes.extend(config.user.filter(|user| !user.is_empty()).map(|user| format!("USER {user}")));
    changes.extend(config.working_dir.filter(|dir| !dir.is_empty()).map(|dir| format!("WORKDIR {dir}")));
    let (repository, version) = tag.rsplit_once(':').unwrap_or((tag, "latest"));
    let options = CreateImageOptionsBuilder::new().from_src("-").repo(repository).tag(version).changes(changes).build();
    let file = tokio::fs::File::open(archive).await?;
    let chunks = ReaderStream::with_capacity(file, 1 << 20);
    let docker = to.docker().clone();
    pending::complete(run.ledger(), tag, async move {
        let import = docker.create_image(Some(options), Some(body_try_stream(chunks)), None);
        import.try_for_each(|_| std::future::ready(Ok(()))).await
    })
    .await
}

/// Waits until a container has exited, and returns its status.
async fn ended(engine: &Engine, name: &str) -> Result<i64, Failure> {
    let mut wait = std::pin::pin!(engine.docker().wait_container(name, None));
    match wait.next().await {
        Some(Ok(answer)) => Ok(answer.status_code),
        // The client library returns an error for every status other than 0.
        Some(Err(DockerError::DockerContainerWaitError { code, .. })) => Ok(code),
        Some(Err(error)) => Err(error.into()),
        None => Err(Failure::harness(format!("waiting for {name}: no answer"))),
    }
}

/// Removes an image once the engine has completed it; a missing one is no error.
///
/// # Errors
/// The engine refuses.
pub async fn remove(engine: &Engine, tag: &str) -> Result<(), Failure> {
    pending::completed(tag).await;
    let options = RemoveImageOptionsBuilder::new().force(true).build();
    match engine.docker().remove_image(tag, Some(options), None).await {
        Ok(_) | Err(DockerError::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Starts the image with its default command, locked down as the contract requires, with `sockets` as its socket directory.
///
/// # Errors
/// The container cannot be made or started.
pub async fn start_room(engine: &Engine, run: &Run, name: &str, image: &str, sockets: &Path) -> Result<Room, Failure> {
    // As a server does: a suite without root runs the container as its own user, or it could not connect to the agent's socket.
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let own = (uid != 0).then(|| format!("{uid}:{gid}"));
    let (uid, gid) = if uid == 0 { (1000, 1000) } else { (uid, gid) };
    let owned = format!("rw,exec,nosuid,nodev,mode=0700,uid={uid},gid={gid},size=64m");
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        user: own,
        labels: Some(HashMap::from([(LABEL_RUN.to_owned(), run.id.clone())])),
        host_config: Some(HostConfig {
            network_mode: Some("none".to_owned()),
            readonly_rootfs: Some(true),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            // Not as one of `binds`: the engine would create a directory that its host does not have.
            mounts: Some(vec![Mount {
                typ: Some(MountType::BIND),
                source: Some(sockets.display().to_string()),
                target: Some(engine.containers().sockets.clone()),
                ..Mount::default()
            }]),
            tmpfs: Some(HashMap::from([
                ("/tmp".to_owned(), "rw,noexec,nosuid,nodev,mode=1777,size=64m".to_owned()),
                ("/workspace".to_owned(), owned.clone()),
                ("/home/appuser".to_owned(), owned),
            ])),
            memory: Some(512 << 20),
            pids_limit: Some(64),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let container = engine.create(run.ledger(), name, body).await.map_err(|failure| {
        if !failure.message.contains("bind source path does not exist") {
            return failure;
        }
        Failure::could_not_run(format!(
            "the engine's host does not have the suite's directory {}: run the suite on that host, or in a container with a directory \
             mounted at the path that it has there, and named by TMPDIR",
            sockets.display()
        ))
    })?;
    engine.docker().start_container(name, None::<StartContainerOptions>).await?;
    Ok(container)
}

/// The user of a workspace: uid 1000 if the server runs as root, else the server's own user, which is also the suite's.
#[must_use]
pub fn room_uid() -> String {
    match rustix::process::getuid().as_raw() {
        0 => "1000".to_owned(),
        own => own.to_string(),
    }
}

impl Context {
    /// Makes an image from the workspace image by a line of shell that root runs in it; it is removed with the scenario.
    ///
    /// # Errors
    /// The line fails, or the engine refuses.
    pub async fn derived_image(&self, change: &str) -> Result<String, Failure> {
        self.derived_image_with(change, "").await
    }

    /// As [`Context::derived_image`], with further Dockerfile lines.
    ///
    /// # Errors
    /// As [`Context::derived_image`].
    pub async fn derived_image_with(&self, change: &str, settings: &str) -> Result<String, Failure> {
        let engine = self.engine()?.clone();
        let tag = self.new_image_tag("image", &engine)?;
        let name = self.new_container_name("change", &engine)?;
        derive(&engine, &self.run, &tag, &self.run.capabilities.image, &name, change, settings).await?;
        Ok(tag)
    }

    /// A tag for an image that is removed with the scenario.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub fn new_image_tag(&self, what: &str, engine: &Engine) -> Result<String, Failure> {
        let tag = format!("{}:test", self.unique(what));
        self.run.will_make(&Made::Image(tag.clone()))?;
        let (remover, to_remove) = (engine.clone(), tag.clone());
        self.resources.add(format!("image {tag}"), move || async move { remove(&remover, &to_remove).await });
        Ok(tag)
    }

    /// A name for a container that is removed with the scenario.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub fn new_container_name(&self, what: &str, engine: &Engine) -> Result<String, Failure> {
        let name = self.unique(what);
        self.run.will_make(&Made::Container(name.clone()))?;
        let container = engine.container(&name);
        self.resources.add(format!("container {name}"), move || async move { container.remove().await });
        Ok(name)
    }
}
