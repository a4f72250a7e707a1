//! Images and containers that a scenario makes for itself.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::body_try_stream;
use bollard::errors::Error as DockerError;
use bollard::models::{ContainerConfig, ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CommitContainerOptionsBuilder, CreateImageOptionsBuilder, RemoveImageOptionsBuilder, StartContainerOptions,
};
use futures::{StreamExt, TryStreamExt};
use tokio_util::io::ReaderStream;

use super::engine::{Engine, ROOM_SOCKETS, Room};
use crate::failure::Failure;
use crate::run::Run;
use crate::underway;

/// Labels what a run made beside its deployments' rooms: images, and containers of its own.
pub const LABEL_RUN: &str = "nagaya.conformance.run";

/// How long the change to an image may take.
const CHANGE_LIMIT: Duration = Duration::from_secs(60);

/// Makes the image `tag`: `base`, changed by a line of shell that root runs in it, and otherwise as it was. It is one layer, made
/// by a commit: on some storage drivers every layer costs a comparison of the whole image, and a build makes one for every step.
/// `settings` are further lines of a Dockerfile, such as `USER root`. The container `name` that is needed for it is removed.
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
    // A commit cannot take an entrypoint away again, so none is given to an image that has none.
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
    underway::to_its_end(run, tag, commit).await?;
    container.remove().await
}

/// Runs a line of shell as root in a container of the image, to a good end; the container is still there.
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
    let container = engine.create(run, name, body).await?;
    docker.start_container(name, None::<StartContainerOptions>).await?;
    let status = tokio::time::timeout(CHANGE_LIMIT, ended(engine, name)).await;
    let status = status.map_err(|_| Failure::harness(format!("a line in {image}: no end in {CHANGE_LIMIT:?}")))??;
    if status != 0 {
        let printed = container.logs().await.unwrap_or_default();
        return Err(Failure::harness(format!("a line in {image}: status {status}, printed {printed:?}")));
    }
    Ok(container)
}

/// What a line of shell prints that root runs in a container of the image; the container `name` that is needed for it is removed.
///
/// # Errors
/// The line fails, or the engine refuses.
pub async fn print_as_root(engine: &Engine, run: &Run, name: &str, image: &str, line: &str) -> Result<String, Failure> {
    let container = as_root(engine, run, name, image, true, line, Vec::new()).await?;
    let printed = container.logs().await?;
    container.remove().await?;
    Ok(printed)
}

/// Puts an image's files, but for those below `without`, into the archive `dir/image.tar`, from which [`unpack`] makes an image of one
/// layer. An image of many takes minutes on some storage drivers, to be copied and to be built on. The container `name` that is needed
/// for it is removed.
///
/// # Errors
/// The engine refuses, or there is no room.
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

/// Makes an image of an archive of its files, with the default command and the settings of another, which is on the same or another
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
    underway::to_its_end(run, tag, async move {
        let import = docker.create_image(Some(options), Some(body_try_stream(chunks)), None);
        import.try_for_each(|_| std::future::ready(Ok(()))).await
    })
    .await
}

/// Waits until a container has ended, and gives its status.
async fn ended(engine: &Engine, name: &str) -> Result<i64, Failure> {
    let mut wait = std::pin::pin!(engine.docker().wait_container(name, None));
    match wait.next().await {
        Some(Ok(answer)) => Ok(answer.status_code),
        // The client makes an error of every status but 0.
        Some(Err(DockerError::DockerContainerWaitError { code, .. })) => Ok(code),
        Some(Err(error)) => Err(error.into()),
        None => Err(Failure::harness(format!("waiting for {name}: no answer"))),
    }
}

/// Removes an image, once the engine has made it; one that is gone already is no error.
///
/// # Errors
/// The engine refuses.
pub async fn remove(engine: &Engine, tag: &str) -> Result<(), Failure> {
    underway::ended(tag).await;
    let options = RemoveImageOptionsBuilder::new().force(true).build();
    match engine.docker().remove_image(tag, Some(options), None).await {
        Ok(_) | Err(DockerError::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Starts the image by its own default command, locked up as the contract wants a room, with `sockets` as its socket directory.
///
/// # Errors
/// The container cannot be made or started.
pub async fn start_room(engine: &Engine, run: &Run, name: &str, image: &str, sockets: &Path) -> Result<Room, Failure> {
    // As a server does it: a suite that is not root runs the room as itself, or it could not connect to what the agent makes.
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
            binds: Some(vec![format!("{}:{ROOM_SOCKETS}", sockets.display())]),
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
    let container = engine.create(run, name, body).await?;
    engine.docker().start_container(name, None::<StartContainerOptions>).await?;
    Ok(container)
}

/// Whose a room is: uid 1000's where the server is root, else the server's own, which is who the suite is that launched it.
#[must_use]
pub fn room_uid() -> String {
    match rustix::process::getuid().as_raw() {
        0 => "1000".to_owned(),
        own => own.to_string(),
    }
}
