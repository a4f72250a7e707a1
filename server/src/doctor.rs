//! `nagaya doctor`: whether what the server needs is there, and what to do where it is not.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::aws;
use crate::cli::Exit;
use crate::config::Config;
use crate::conversation::store::{Database, Store};
use nagaya_workspace::directory;
use nagaya_workspace::engine::{Docker, Engine, EngineAddress, EngineError};
use nagaya_workspace::objects::{Bucket, StorageError};
use nagaya_workspace::state::{Redis, State, StateError, directory as state_directory};

/// How long the bucket may take to answer: it may have to be asked for credentials first.
const ANSWER: Duration = Duration::from_secs(15);

/// What one look found.
enum Finding {
    Good(String),
    /// The server runs, but not as it should.
    Doubtful(String, String),
    /// The server cannot do its work: what is wrong, and the cure.
    Bad(String, String),
}

/// Looks at everything and tells.
pub async fn run(config: Config) -> Exit {
    let mut findings = vec![("state directory", state_dir(&config.storage.state_dir))];
    findings.push(("socket directory", socket_base(&config.rooms.socket_base)));
    let engine = Docker::new(config.rooms.engine.clone());
    let (found, answers) = engine_finding(&engine, &config.rooms.engine).await;
    findings.push(("container engine", found));
    if answers {
        findings.push(("image", image(&engine, &config.rooms.image).await));
    }
    findings.push(("database", database(&config.storage.database).await));
    findings.push(("shared state", shared_state(&config).await));
    findings.push(("object storage", object_storage(&config).await));
    findings.push(("address", address(config.service.bind)));
    findings.push(("API keys", keys(&config)));
    let mut exit = Exit::Ok;
    for (what, finding) in findings {
        match finding {
            Finding::Good(state) => println!("ok    {what}: {state}"),
            Finding::Doubtful(state, cure) => println!("note  {what}: {state}\n      {cure}"),
            Finding::Bad(state, cure) => {
                println!("BAD   {what}: {state}\n      {cure}");
                exit = Exit::Unavailable;
            }
        }
    }
    exit
}

/// The nearest directory that exists: what does not exist yet is made at start, if that one may be written to.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(path)
}

fn writable(path: &Path, variable: &str) -> Finding {
    let nearest = existing(path);
    let shown = path.display();
    if !directory::is_writable_directory(nearest) {
        let cure = format!(
            "Set {variable} to a directory this user may write to, or change the owner of {}.",
            nearest.display()
        );
        return Finding::Bad(format!("{} cannot be written to", nearest.display()), cure);
    }
    Finding::Good(if nearest == path { format!("{shown}") } else { format!("{shown} (will be made)") })
}

fn state_dir(path: &Path) -> Finding {
    match (writable(path, "STATE_DIR"), state_directory::check_free_space(existing(path))) {
        (Finding::Good(_), Err(error)) => {
            Finding::Bad("no room for runs".into(), format!("{error}; or set STATE_DIR to a directory on another."))
        }
        (found, _) => found,
    }
}

async fn database(database: &Database) -> Finding {
    match Store::look(database).await {
        Ok(()) => Finding::Good(match database {
            Database::Sqlite(path) if !path.exists() => format!("{} (will be made)", path.display()),
            Database::Sqlite(path) => path.display().to_string(),
            Database::Postgres(_) => format!("PostgreSQL answers at {database}"),
        }),
        Err(error) => Finding::Bad(database.to_string(), error.to_string()),
    }
}

/// Whether the address is free. One that is taken may be taken by the very server that is asked about.
fn address(bind: SocketAddr) -> Finding {
    match TcpListener::bind(bind) {
        Ok(_) => Finding::Good(format!("{bind} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Finding::Doubtful(
            format!("something listens at BIND_ADDR={bind}"),
            "Fine if it is this server; else stop it, or set another.".into(),
        ),
        Err(error) => Finding::Bad(format!("BIND_ADDR={bind}: {error}"), "Give another address or port.".into()),
    }
}

fn socket_base(path: &Path) -> Finding {
    match writable(path, "WORKSPACE_SOCKET_BASE_PATH") {
        Finding::Good(shown) if !is_tmpfs(existing(path)) => Finding::Doubtful(
            format!("{shown} is on a disk"),
            "A room may take of that what it writes in a second or two. Put WORKSPACE_SOCKET_BASE_PATH on a tmpfs, as /run is.".into(),
        ),
        found => found,
    }
}

/// Whether what is written there counts as its writer's memory (tmpfs(5), cgroups(7)).
fn is_tmpfs(path: &Path) -> bool {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    rustix::fs::statfs(path).is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|kind| kind == TMPFS_MAGIC))
}

async fn engine_finding(engine: &dyn Engine, address: &EngineAddress) -> (Finding, bool) {
    match engine.info().await {
        Ok(info) if info.missing_limits.is_empty() => {
            (Finding::Good(format!("Docker {} at {address}, API {}", info.version, info.api_version)), true)
        }
        Ok(info) => {
            let missing = info.missing_limits.join(", ");
            let cure = "Enable these in the kernel (cgroup_enable=memory swapaccount=1) and restart the engine.";
            (Finding::Doubtful(format!("Docker {} cannot limit: {missing}", info.version), cure.into()), true)
        }
        Err(error) => (Finding::Bad(error.to_string(), engine_cure(address, &error)), false),
    }
}

fn engine_cure(address: &EngineAddress, error: &EngineError) -> String {
    let EngineAddress::Unix(path) = address else {
        return "Start the engine, or set DOCKER_SOCKET_PATH to where it listens.".into();
    };
    if !path.exists() {
        return "Start Docker (systemctl start docker), or set DOCKER_SOCKET_PATH to its socket. A server that is \
                already running will notice by itself."
            .into();
    }
    if error.to_string().to_lowercase().contains("permission denied") {
        return "Add this user to the socket's group (usermod -aG docker USER) and log in again.".into();
    }
    "The socket is there but nobody answers: start or restart Docker (systemctl restart docker).".into()
}

async fn image(engine: &dyn Engine, image: &str) -> Finding {
    match engine.has_image(image).await {
        Ok(true) => Finding::Good(image.into()),
        Ok(false) => Finding::Bad(
            format!("there is no {image}"),
            "Build it with `make image`, or set CONTAINER_IMAGE to one that is there.".into(),
        ),
        Err(error) => Finding::Bad(error.to_string(), "Ask again.".into()),
    }
}

async fn shared_state(config: &Config) -> Finding {
    let Some(address) = config.storage.redis.clone() else {
        return Finding::Good("a file in the state directory (set REDIS_URL where several servers share it)".into());
    };
    let shown = address.to_string();
    // No key is touched, so it does not matter whose they would be.
    let pinged = match Redis::new(address, "doctor", Duration::ZERO) {
        Ok(redis) => redis.ping().await,
        Err(error) => Err(error),
    };
    match pinged {
        Ok(()) => Finding::Good(format!("Redis answers at {shown}")),
        Err(error @ StateError::Refused { .. }) => {
            Finding::Bad(error.to_string(), "The server starts, but conversations get no new rooms.".into())
        }
        Err(error) => {
            let cure = "Start Redis, or set REDIS_URL to where it is. The server starts without and takes it up when it \
                        answers; until then conversations get no new rooms.";
            Finding::Bad(error.to_string(), cure.into())
        }
    }
}

async fn object_storage(config: &Config) -> Finding {
    let Some(settings) = config.storage.bucket.clone() else {
        return Finding::Good("not configured: files stay in their rooms (set S3_BUCKET_NAME to keep them)".into());
    };
    let region = &config.region;
    let shown =
        format!("{}{}", settings.name, settings.endpoint.as_ref().map_or(String::new(), |at| format!(" at {at}")));
    let bucket = match Bucket::open(settings, region, aws::credentials(region).await) {
        Ok(bucket) => bucket,
        Err(error) => return Finding::Bad(error.to_string(), "Install the host's certificate authorities.".into()),
    };
    let cure = "Runs go on without it, and files stay in their rooms until it answers.";
    match bucket.ping(Instant::now() + ANSWER).await {
        Ok(()) => Finding::Good(format!("the bucket {shown} answers")),
        Err(error @ StorageError::Refused(_)) => Finding::Bad(
            format!("{shown}: {error}"),
            format!("Give the AWS credentials s3:ListBucket, GetObject, PutObject and DeleteObject on it. {cure}"),
        ),
        Err(error) => Finding::Bad(
            format!("{shown}: {error}"),
            format!("Look at S3_BUCKET_NAME, S3_ENDPOINT_URL and AWS_REGION. {cure}"),
        ),
    }
}

fn keys(config: &Config) -> Finding {
    if config.service.keys.is_empty() {
        let cure =
            format!("Fine while only this machine reaches {}; set API_KEYS before others do.", config.service.bind);
        return Finding::Doubtful("none: everybody is an operator".into(), cure);
    }
    Finding::Good(format!("{:?}", config.service.keys))
}
