//! Settings of workspaces: engine, image, limits, sockets, warm pool, garbage collection.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use nagaya_workspace::engine::EngineAddress;
use nagaya_workspace::state::PoolSize;
use nagaya_workspace::{DEFAULT_IMAGE, RoomLimits, Settings, UidRange, directory};

use super::driver::Drivers;
use super::reader::Reader;
use super::units;

/// Settings of workspaces.
#[derive(Debug, Clone)]
pub struct Rooms {
    /// `DOCKER_SOCKET_PATH`: address of the container engine.
    pub engine: EngineAddress,
    /// `CONTAINER_IMAGE`: image of the workspaces' containers.
    pub image: String,
    /// `CONTAINER_IMAGES`: further images that tenants may choose, references by name.
    pub images: BTreeMap<String, String>,
    /// `WORKSPACE_SOCKET_BASE_PATH`: directory of the workspaces' socket directories, as the server sees it.
    pub socket_base: PathBuf,
    /// `WORKSPACE_SOCKET_HOST_PATH`: the same directory as the container engine's host sees it.
    pub socket_host_base: PathBuf,
    /// `CONTAINER_EXECUTION_TIMEOUT`: time limit of a run.
    pub execution_timeout: Duration,
    /// `MODEL_IDLE_TIMEOUT`: how long a model's answer may stall.
    pub model_idle: Duration,
    /// `CONTAINER_CPUS`, `CONTAINER_MEMORY`, `CONTAINER_PIDS`, `CONTAINER_DISK`: resource limits of each workspace.
    pub limits: RoomLimits,
    /// `CONTAINER_UIDS`: users that workspaces run as.
    pub uids: UidRange,
    /// `WARM_POOL_MODEL`: id of the model for which workspaces of the pool have a started driver; `None` for none.
    pub pool_model: Option<String>,
    /// Lifetime and number of workspaces, and the size of the warm pool.
    pub settings: Settings,
}

impl Rooms {
    pub(super) fn read(r: &mut Reader) -> (Self, Drivers) {
        let engine = r.get(
            "DOCKER_SOCKET_PATH",
            "unix:///var/run/docker.sock",
            "unix:///path, /path, tcp://host:port, http://host:port",
            EngineAddress::parse,
        );
        let image = r.get("CONTAINER_IMAGE", "workspace-base:latest", "an image reference without spaces", |text| {
            (!text.contains(char::is_whitespace)).then(|| text.to_owned())
        });
        let images = r.parse("CONTAINER_IMAGES", "", images);
        let socket_base = path(r, "WORKSPACE_SOCKET_BASE_PATH", directory::DEFAULT_BASE);
        if let Err(why) = directory::check_length(&socket_base) {
            r.error(format!("WORKSPACE_SOCKET_BASE_PATH={:?}: {why}", socket_base.display().to_string()));
        }
        let socket_host_base = path(r, "WORKSPACE_SOCKET_HOST_PATH", &socket_base.to_string_lossy());
        let min = r.get("WARM_POOL_MIN_SIZE", "2", "a whole number from 0 to 1000", pool_size);
        let max = r.get("WARM_POOL_MAX_SIZE", "10", "a whole number from 0 to 1000", pool_size);
        if min > max {
            r.error(format!("WARM_POOL_MIN_SIZE={min}: must not exceed WARM_POOL_MAX_SIZE={max}"));
        }
        let pool_model = r.get("WARM_POOL_MODEL", "", "the id of a model, without spaces", |text| {
            (!text.contains(char::is_whitespace)).then(|| Some(text.to_owned()).filter(|id| !id.is_empty()))
        });
        // In the order in which the settings are printed.
        let ttl = r.get("CONTAINER_TTL", "3600", units::DURATION, units::duration);
        let gc_interval = r.get("CONTAINER_GC_INTERVAL", "60", units::DURATION, units::duration);
        let grace = r.get("CONTAINER_GRACE_PERIOD", "30", units::DURATION, units::duration);
        let execution_timeout = r.get("CONTAINER_EXECUTION_TIMEOUT", "600", units::DURATION, units::duration);
        // The driver's own bounds.
        let model_idle = r.get(
            "MODEL_IDLE_TIMEOUT",
            "60",
            "a time from 10 s to 30 min: seconds (60), or with a unit (90s, 5m)",
            |text| units::duration(text).filter(|time| (10..=1800).contains(&time.as_secs())),
        );
        let limits = limits(r);
        let uids = uids(r);
        let max_rooms = r.get("CONTAINER_MAX", "0", "a whole number; 0 means no limit", |text| text.parse().ok());
        if let Some(users) = uids.rooms().filter(|users| *users < max_rooms) {
            r.error(format!("CONTAINER_MAX={max_rooms}: CONTAINER_UIDS={uids} has users for {users} workspaces"));
        }
        let starts =
            r.get("CONTAINER_STARTS", "0", "a whole number from 0 to 1000; 0 means the number of cores", starts);
        let start_queue = r.get("CONTAINER_START_QUEUE", "512", "a whole number from 0 to 100000", |text| {
            text.parse().ok().filter(|length| *length <= 100_000)
        });
        let drivers = Drivers::read(r);
        let settings = Settings {
            ttl,
            gc_interval,
            grace,
            pool: PoolSize { min, max },
            max_rooms,
            starts,
            start_queue,
            most_waiting_drivers: drivers.most_waiting,
        };
        let rooms = Self {
            engine,
            image,
            images,
            socket_base,
            socket_host_base,
            execution_timeout,
            model_idle,
            limits,
            uids,
            pool_model,
            settings,
        };
        (rooms, drivers)
    }
}

/// Names and references of images, each as `name=reference`.
fn images(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut images = BTreeMap::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let pair = item.split_once('=').filter(|(name, reference)| {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
            let starts = name.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit());
            starts && name.len() <= 64 && name.bytes().all(plain) && !reference.is_empty()
        });
        let accepted = "accepted: name=reference, separated by commas; names are 1 to 64 of a-z, 0-9, '.', '_' and '-'";
        let (name, reference) = pair.filter(|(_, of)| !of.contains(char::is_whitespace)).ok_or(accepted)?;
        if name == DEFAULT_IMAGE || images.insert(name.to_owned(), reference.to_owned()).is_some() {
            return Err(format!("{name} is given twice; {DEFAULT_IMAGE} is CONTAINER_IMAGE"));
        }
    }
    Ok(images)
}

fn limits(r: &mut Reader) -> RoomLimits {
    RoomLimits {
        nano_cpus: r.get("CONTAINER_CPUS", "2", "a number of CPUs from 0.01 to 1024", nano_cpus),
        memory: r.get("CONTAINER_MEMORY", "2GiB", units::BYTES, |text| i64::try_from(units::bytes(text)?).ok()),
        pids: r.get("CONTAINER_PIDS", "256", "a whole number from 16 to 1000000", |text| {
            text.parse().ok().filter(|pids| (16..=1_000_000).contains(pids))
        }),
        disk: r.get("CONTAINER_DISK", "5GiB", units::BYTES, units::bytes),
    }
}

/// A workspace must not run as the server's own user: by its user the server knows who it is.
fn uids(r: &mut Reader) -> UidRange {
    let uids = r.get("CONTAINER_UIDS", UidRange::DEFAULT, UidRange::ACCEPTED, UidRange::parse);
    let own = rustix::process::geteuid().as_raw();
    if uids.contains(own) {
        r.error(format!("CONTAINER_UIDS={uids}: must not contain the server's own user, {own}"));
    }
    uids
}

fn path(r: &mut Reader, name: &'static str, default: &str) -> PathBuf {
    r.get(name, default, "an absolute path without ':'", |text| {
        Some(PathBuf::from(text)).filter(|path| path.is_absolute() && !text.contains(':'))
    })
}

fn pool_size(text: &str) -> Option<usize> {
    text.parse().ok().filter(|size| *size <= 1000)
}

/// Number of containers that are started at the same time; by default as many as there are cores, at least two.
fn starts(text: &str) -> Option<usize> {
    match text.parse().ok()? {
        0 => Some(std::thread::available_parallelism().map_or(1, usize::from).max(2)),
        starts => Some(starts).filter(|starts| *starts <= 1000),
    }
}

fn nano_cpus(text: &str) -> Option<i64> {
    let cpus: f64 = text.parse().ok()?;
    #[allow(clippy::cast_possible_truncation, reason = "at most 1024e9, far below i64's range")]
    (0.01..=1024.0).contains(&cpus).then_some((cpus * 1e9) as i64)
}
