//! `nagaya doctor`: checks everything the server depends on and prints what to do about each problem.

mod model_credentials;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::aws;
use crate::cli::Exit;
use crate::config::Config;
use crate::conversation::store::{Database, Store};
use crate::descriptors::Descriptors;
use crate::trial;
use nagaya_egress::Egress;
use nagaya_workspace::directory;
use nagaya_workspace::engine::{Docker, Engine, EngineAddress, EngineError};
use nagaya_workspace::objects::{Bucket, StorageError};
use nagaya_workspace::state::{Redis, State, StateError, directory as state_directory};

/// Limit of open files below which `doctor` warns: some hundred workspaces with their connections, and as many clients.
const FEW_DESCRIPTORS: u64 = 8_192;

/// Time limit for the bucket's answer, which may include fetching credentials.
const BUCKET_DEADLINE: Duration = Duration::from_secs(15);

/// Result of one check.
enum Finding {
    /// No problem: the state that was found.
    Ok(String),
    /// The server works, but with a limitation: the state, and what to do.
    Note(String, String),
    /// The server cannot do its work: the problem, and what to do.
    Bad(String, String),
}

/// Runs all checks and prints their findings: [`Exit::Unavailable`] if there is a problem that keeps the server from working.
pub async fn run(config: Config) -> Exit {
    let mut findings = vec![("state directory", state_dir(&config.storage.state_dir))];
    findings.push(("socket directory", socket_base(&config.rooms.socket_base)));
    let engine = Docker::new(config.rooms.engine.clone());
    let finding = container_engine(&engine, &config.rooms.engine).await;
    let engine_works = !matches!(finding, Finding::Bad(..));
    findings.push(("container engine", finding));
    if engine_works {
        let remedy = "Build it with `make image`, or set CONTAINER_IMAGE to an existing image.";
        let default = image(&engine, &config.rooms.image, remedy).await;
        let can_start = matches!(default, Finding::Ok(_))
            && directory::is_writable_directory(nearest_existing(&config.rooms.socket_base));
        findings.push(("image", default));
        for reference in config.rooms.images.values() {
            let remedy =
                "Pull or build it, or remove it from CONTAINER_IMAGES: conversations that choose it cannot run.";
            findings.push(("further image", image(&engine, reference, remedy).await));
        }
        if can_start {
            findings.push(("workspace", workspace(&config).await));
        }
    }
    findings.push(("certificates", certificates(&config)));
    findings.push(("warm pool", warm_pool(&config).await));
    findings.push(("database", database(&config.storage.database).await));
    findings.push(("shared state", shared_state(&config).await));
    findings.push(("object storage", object_storage(&config).await));
    findings.push(("model credentials", model_credentials::check(&config).await));
    findings.push(("open files", open_files(Descriptors::now().raised())));
    findings.push(("address", address(config.service.bind)));
    findings.push(("API keys", keys(&config)));
    let mut exit = Exit::Ok;
    for (subject, finding) in findings {
        match finding {
            Finding::Ok(state) => println!("ok    {subject}: {state}"),
            Finding::Note(state, remedy) => println!("note  {subject}: {state}\n      {remedy}"),
            Finding::Bad(problem, remedy) => {
                println!("BAD   {subject}: {problem}\n      {remedy}");
                exit = Exit::Unavailable;
            }
        }
    }
    exit
}

/// The nearest existing ancestor of a directory. The server creates missing directories at start if it may write to that one.
fn nearest_existing(path: &Path) -> &Path {
    path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(path)
}

fn writable(path: &Path, variable: &str) -> Finding {
    let nearest = nearest_existing(path);
    let path_text = path.display();
    if !directory::is_writable_directory(nearest) {
        let remedy = format!(
            "Set {variable} to a directory this user may write to, or change the owner of {}.",
            nearest.display()
        );
        return Finding::Bad(format!("{} is not writable", nearest.display()), remedy);
    }
    Finding::Ok(if nearest == path { format!("{path_text}") } else { format!("{path_text} (will be created)") })
}

fn state_dir(path: &Path) -> Finding {
    match (writable(path, "STATE_DIR"), state_directory::check_free_space(nearest_existing(path))) {
        (Finding::Ok(_), Err(error)) => Finding::Bad(
            "not enough free space for runs".into(),
            format!("{error}; or set STATE_DIR to a directory on another file system."),
        ),
        (finding, _) => finding,
    }
}

async fn database(database: &Database) -> Finding {
    match Store::check(database).await {
        Ok(()) => Finding::Ok(match database {
            Database::Sqlite(path) if !path.exists() => format!("{} (will be created)", path.display()),
            Database::Sqlite(path) => path.display().to_string(),
            Database::Postgres(_) => format!("PostgreSQL answers at {database}"),
        }),
        Err(error) => Finding::Bad(database.to_string(), error.to_string()),
    }
}

/// Checks that the address is free. One in use is only a note, because the server itself may be running there.
fn address(bind: SocketAddr) -> Finding {
    match TcpListener::bind(bind) {
        Ok(_) => Finding::Ok(format!("{bind} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Finding::Note(
            format!("BIND_ADDR={bind} is in use"),
            "If it is not this server that listens there, stop the other program or set another BIND_ADDR.".into(),
        ),
        Err(error) => {
            Finding::Bad(format!("BIND_ADDR={bind}: {error}"), "Set BIND_ADDR to another address or port.".into())
        }
    }
}

fn socket_base(path: &Path) -> Finding {
    match writable(path, "WORKSPACE_SOCKET_BASE_PATH") {
        Finding::Ok(path_text) if !is_tmpfs(nearest_existing(path)) => Finding::Note(
            format!("{path_text} is on a disk"),
            "A workspace can fill that disk for a second or two before the server notices. Set WORKSPACE_SOCKET_BASE_PATH to a \
             directory on a tmpfs such as /run."
                .into(),
        ),
        finding => finding,
    }
}

/// Whether a path is on a tmpfs, where written bytes count towards the memory limit of the writer's cgroup (tmpfs(5), cgroups(7)).
fn is_tmpfs(path: &Path) -> bool {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    rustix::fs::statfs(path).is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|kind| kind == TMPFS_MAGIC))
}

async fn container_engine(engine: &dyn Engine, address: &EngineAddress) -> Finding {
    match engine.info().await {
        Ok(info) if info.missing_limits.is_empty() => {
            Finding::Ok(format!("Docker {} at {address}, API {}", info.version, info.api_version))
        }
        Ok(info) => {
            let missing = info.missing_limits.join(", ");
            let remedy = "Enable these in the kernel (cgroup_enable=memory swapaccount=1) and restart the engine.";
            Finding::Note(format!("Docker {} does not support limits of: {missing}", info.version), remedy.into())
        }
        Err(error) => Finding::Bad(error.to_string(), engine_remedy(address, &error)),
    }
}

fn engine_remedy(address: &EngineAddress, error: &EngineError) -> String {
    let EngineAddress::Unix(path) = address else {
        return "Start the engine, or set DOCKER_SOCKET_PATH to its address.".into();
    };
    if !path.exists() {
        return "Start Docker (systemctl start docker), or set DOCKER_SOCKET_PATH to its socket. A running server connects to \
                it without a restart."
            .into();
    }
    if matches!(error, EngineError::Unreachable { io_error: Some(ErrorKind::PermissionDenied), .. }) {
        return "Add this user to the socket's group (usermod -aG docker USER) and log in again.".into();
    }
    "The socket exists but Docker does not answer: start or restart it (systemctl restart docker).".into()
}

async fn image(engine: &dyn Engine, image: &str, remedy: &str) -> Finding {
    match engine.has_image(image).await {
        Ok(true) => Finding::Ok(image.into()),
        Ok(false) => Finding::Bad(format!("{image} does not exist"), remedy.into()),
        Err(error) => Finding::Bad(error.to_string(), "Run `nagaya doctor` again.".into()),
    }
}

/// Starts one workspace as the server does, and removes it.
async fn workspace(config: &Config) -> Finding {
    match trial::start_one(config).await {
        Ok(took) => {
            Finding::Ok(format!("one was started and answered after {} ms; it is removed again", took.as_millis()))
        }
        Err(why) => Finding::Bad(
            format!("none can be started: {why}"),
            "If it is the image, build it with `make image`, or set CONTAINER_IMAGE to one that is made from it."
                .into(),
        ),
    }
}

fn certificates(config: &Config) -> Finding {
    match Egress::new(config.egress.clone(), None, std::sync::Arc::new(trial::NoTrail)) {
        Ok(_) if config.egress.extra_ca_pem.is_some() => Finding::Ok("those of PROXY_EXTRA_CA_FILE are trusted, too".into()),
        Ok(_) => Finding::Ok("the host's authorities are trusted".into()),
        Err(error) => Finding::Bad(
            format!("PROXY_EXTRA_CA_FILE: {error}"),
            "Set it to a PEM file with the certificates of authorities, or unset it. The server does not start with this one.".into(),
        ),
    }
}

/// Says which size the pool has; one that was set by the API outlives restarts.
async fn warm_pool(config: &Config) -> Finding {
    let configured = config.rooms.settings.pool;
    let size = format!("{} to {} workspaces", configured.min, configured.max);
    match config.pool_set_by_api().await {
        Some(set) if set != configured => Finding::Note(
            format!(
                "{} to {} workspaces, set by PUT /api/admin/pool, instead of {size} as configured",
                set.min, set.max
            ),
            "To return to the configured size, set it by PUT /api/admin/pool as well.".into(),
        ),
        _ => Finding::Ok(size),
    }
}

async fn shared_state(config: &Config) -> Finding {
    let Some(address) = config.storage.redis.clone() else {
        return Finding::Ok("a file in the state directory (set REDIS_URL to share it between several servers)".into());
    };
    let address_text = address.to_string();
    // PING uses no keys, so the deployment id that prefixes them does not matter.
    let result = match Redis::new(address, "doctor", Duration::ZERO) {
        Ok(redis) => redis.ping().await,
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => Finding::Ok(format!("Redis answers at {address_text}")),
        Err(error @ StateError::Refused { .. }) => {
            Finding::Bad(error.to_string(), "Until then the server starts, but creates no new workspaces.".into())
        }
        Err(error) => {
            let remedy = "Start Redis, or set REDIS_URL to its address. The server starts without Redis and connects once it \
                          answers; until then it creates no new workspaces.";
            Finding::Bad(error.to_string(), remedy.into())
        }
    }
}

async fn object_storage(config: &Config) -> Finding {
    let Some(settings) = config.storage.bucket.clone() else {
        return Finding::Ok(
            "not configured: files are deleted with their workspace (set S3_BUCKET_NAME to keep them)".into(),
        );
    };
    let region = &config.providers.region;
    let endpoint = settings.endpoint.as_ref().map_or(String::new(), |endpoint| format!(" at {endpoint}"));
    let bucket_text = format!("{}{endpoint}", settings.name);
    let bucket = match Bucket::open(settings, region, config.storage.bucket_keys(aws::credentials(region).await)) {
        Ok(bucket) => bucket,
        Err(error) => {
            return Finding::Bad(
                error.to_string(),
                "Install the CA certificates of the operating system (package ca-certificates).".into(),
            );
        }
    };
    let impact = "Runs work without the bucket; their files stay in the workspaces until it answers.";
    match bucket.ping(Instant::now() + BUCKET_DEADLINE).await {
        Ok(()) => Finding::Ok(format!("the bucket {bucket_text} answers")),
        Err(error @ StorageError::Refused(_)) => Finding::Bad(
            format!("{bucket_text}: {error}"),
            format!(
                "Allow the AWS credentials s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject on it. {impact}"
            ),
        ),
        Err(error) => Finding::Bad(
            format!("{bucket_text}: {error}"),
            format!("Check S3_BUCKET_NAME, S3_ENDPOINT_URL and AWS_REGION. {impact}"),
        ),
    }
}

/// Says how many descriptors the server will have, and what that allows.
fn open_files(limits: Descriptors) -> Finding {
    let clients = limits.for_clients();
    match limits.soft {
        Some(limit) if limit < FEW_DESCRIPTORS => Finding::Note(
            format!(
                "at most {limit}, so at most {clients} connections of clients; the rest is for workspaces and storage"
            ),
            format!(
                "Allow {FEW_DESCRIPTORS} or more: LimitNOFILE of systemd's unit, ulimits.nofile in Compose, or ulimit -Hn."
            ),
        ),
        limit => Finding::Ok(format!(
            "at most {}; up to {clients} connections of clients, the rest for workspaces and storage",
            limit.map_or_else(|| "as many as the system has".to_owned(), |limit| limit.to_string())
        )),
    }
}

fn keys(config: &Config) -> Finding {
    if let Some(oidc) = &config.service.oidc {
        return Finding::Ok(format!("{:?}, and tokens of {}", config.service.keys, oidc.issuer));
    }
    if config.service.keys.is_empty() {
        let remedy = format!("Set API_KEYS before any other machine can reach {}.", config.service.bind);
        return Finding::Note("none: every client is an operator".into(), remedy);
    }
    Finding::Ok(format!("{:?}", config.service.keys))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_are_noted_with_what_follows() {
        let few = open_files(Descriptors { soft: Some(1024), hard: Some(4096) }.raised());
        let Finding::Note(state, remedy) = few else { panic!("a note") };
        assert!(state.contains("4096") && state.contains("1024 connections") && remedy.contains("nofile"), "{state}");
        for limit in [Some(65_536), None] {
            let Finding::Ok(state) = open_files(Descriptors { soft: limit, hard: limit }) else { panic!("no note") };
            assert!(state.contains("10000 connections"), "{state}");
        }
    }

    #[test]
    fn the_remedy_depends_on_why_the_engine_is_unreachable() {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("docker.sock");
        let remedy = |kind| {
            let error = EngineError::Unreachable { address: String::new(), why: String::new(), io_error: Some(kind) };
            engine_remedy(&EngineAddress::Unix(socket.clone()), &error)
        };
        assert!(remedy(ErrorKind::NotFound).contains("systemctl start docker"));
        std::fs::write(&socket, "").expect("written");
        assert!(remedy(ErrorKind::PermissionDenied).contains("usermod -aG docker"));
        assert!(remedy(ErrorKind::ConnectionRefused).contains("systemctl restart docker"));
    }
}
