//! The default of each setting, and the limits of its values.

use crate::description::Act;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::command::{COMMAND_LIMIT, EX_USAGE, effective, setting_text};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "BOOT-015",
        "Each setting has its documented default, and an empty value is the same as none",
        "starts with an empty environment, with the documented defaults",
        body!(defaults),
    )
    .severity(Severity::Medium)
    .profile(Profile::Full)
    .requires(&[Capability::Launch])
    .limit(45),
    Scenario::new(
        "BOOT-016",
        "Each setting accepts the values at its limits and in every form; those beyond are refused, all at once",
        "a bad value: exit 64, one line per fault with the variable, the value and what is accepted",
        body!(limits),
    )
    .severity(Severity::Medium)
    .profile(Profile::Full)
    .requires(&[Capability::Launch])
    .limit(45),
];

/// The defaults of docs/contract/settings.md.
const DEFAULTS: [(&str, &str); 31] = [
    ("APP_ENV", "development"),
    ("BIND_ADDR", "127.0.0.1:8000"),
    ("RATE_LIMIT_REQUESTS", "100"),
    ("RATE_LIMIT_PERIOD", "60"),
    ("DOCKER_SOCKET_PATH", "unix:///var/run/docker.sock"),
    ("DEPLOYMENT_ID", ""),
    ("WORKSPACE_SOCKET_BASE_PATH", "/var/run/workspace-sockets"),
    ("WORKSPACE_SOCKET_HOST_PATH", "/var/run/workspace-sockets"),
    ("CONTAINER_TTL", "3600"),
    ("CONTAINER_GC_INTERVAL", "60"),
    ("CONTAINER_GRACE_PERIOD", "30"),
    ("CONTAINER_EXECUTION_TIMEOUT", "600"),
    ("CONTAINER_CPUS", "2"),
    ("CONTAINER_MEMORY", "2GiB"),
    ("CONTAINER_PIDS", "256"),
    ("CONTAINER_DISK", "5GiB"),
    ("CONTAINER_MAX", "0"),
    ("CONTAINER_STARTS", "0"),
    ("CONTAINER_START_QUEUE", "512"),
    ("WARM_POOL_MIN_SIZE", "2"),
    ("WARM_POOL_MAX_SIZE", "10"),
    ("WARM_POOL_MODEL", ""),
    ("SHUTDOWN_TIMEOUT", "30"),
    ("SHUTDOWN_WORKSPACES", "keep"),
    ("DRIVER", "claude-code"),
    ("DRIVER_KEEP_ALIVE", "5m"),
    ("DRIVER_KEEP_ALIVE_MAX", "32"),
    ("APPROVAL_TIMEOUT", "1h"),
    ("MODEL_IDLE_TIMEOUT", "60"),
    ("S3_SYNC_TIMEOUT", "30"),
    ("LOG_LEVEL", "info"),
];

/// For each setting, values that are accepted and values that are not.
type Row = (&'static str, &'static [&'static str], &'static [&'static str]);
const ROWS: &[Row] = &[
    ("BIND_ADDR", &["127.0.0.1:0", "[::1]:8000"], &["127.0.0.1", "127.0.0.1:65536", "localhost:80"]),
    ("RATE_LIMIT_REQUESTS", &["0", "1000000"], &["1000001", "-1"]),
    ("RATE_LIMIT_PERIOD", &["1", "24h", "1s"], &["999ms", "86401", "0"]),
    ("SHUTDOWN_TIMEOUT", &["1ms", "2h"], &["0", "1d"]),
    ("SHUTDOWN_WORKSPACES", &["keep", "destroy"], &["Keep", "remove"]),
    ("LOG_LEVEL", &["error", "warn", "debug", "trace"], &["loud", "nothing"]),
    ("LOG_FORMAT", &["json", "text", "auto"], &["yaml", "JSON"]),
    ("CONTAINER_TTL", &["1ms", "1h", "90s"], &["0", "0s", "1.5", "99999999999999999999"]),
    ("CONTAINER_GC_INTERVAL", &["1", "5m"], &["0", "1x"]),
    ("CONTAINER_GRACE_PERIOD", &["1", "5m"], &["0", "1x"]),
    ("CONTAINER_EXECUTION_TIMEOUT", &["1", "5m"], &["0", "1x"]),
    ("CONTAINER_CPUS", &["0.01", "1024", "1.5"], &["0", "0.009", "1024.1", "two"]),
    ("CONTAINER_MEMORY", &["1", "512MiB", "2g", "3 GiB"], &["0", "2TB", "-1"]),
    ("CONTAINER_DISK", &["1b", "4k", "2GIB"], &["0", "0KiB", "x"]),
    ("CONTAINER_PIDS", &["16", "1000000"], &["15", "1000001"]),
    ("CONTAINER_UIDS", &["1-65533", "60000-60010"], &["0-5", "60000-65534", "9-8"]),
    ("CONTAINER_STARTS", &["0", "1000"], &["1001", "-1"]),
    ("CONTAINER_START_QUEUE", &["0", "100000"], &["100001", "-1"]),
    ("CONTAINER_IMAGE", &["a", "a.example:5000/b/c:1"], &["a b"]),
    ("WARM_POOL_MAX_SIZE", &["1000", "2"], &["1001", "many"]),
    ("WARM_POOL_MODEL", &["a-model"], &["a model"]),
    ("DRIVER", &["claude-code", "script"], &["Script", "none"]),
    ("DRIVER_KEEP_ALIVE", &["0", "1ms", "2h"], &["-1", "0s"]),
    ("DRIVER_KEEP_ALIVE_MAX", &["0", "100000"], &["100001", "-1"]),
    ("APPROVAL_TIMEOUT", &["1ms", "720h"], &["0", "721h"]),
    ("MODEL_IDLE_TIMEOUT", &["10", "30m"], &["9", "9999ms", "1801"]),
    ("DOCKER_SOCKET_PATH", &["/a", "tcp://a:1", "http://a:1"], &["ftp://a", "a"]),
    ("DEPLOYMENT_ID", &["a", "A-b_c.9"], &["a b", "a/b"]),
    ("STATE_DIR", &["/a/b"], &["a/b", "./a"]),
    ("AUDIT_LOG", &["/a/b"], &["a/b"]),
    ("WORKSPACE_SOCKET_HOST_PATH", &["/a"], &["a", "/a:b"]),
    ("S3_BUCKET_NAME", &["abc", "my-files.eu"], &["ab", "Files", "a..b", "-ab", "ab-"]),
    ("S3_ENDPOINT_URL", &["http://a:1", "https://a/"], &["a", "ftp://a", "http://a/b", "http://a/?x=1"]),
    ("S3_SYNC_TIMEOUT", &["1s", "60"], &["999ms", "61", "0"]),
    ("PROXY_ALLOWED_DOMAINS", &["a.example", "*.a.example:8443, 10.0.0.1"], &["http://a", "*"]),
    ("PROXY_ALLOWED_NETWORKS", &["10.0.0.0/8", "fd00::/8"], &["10.0.0.0/33", "a"]),
    ("PROXY_RESOLVE", &["a.example:80:10.0.0.1", "a.example:80:10.0.0.1:81"], &["a.example:10.0.0.1", "a"]),
];

async fn defaults(context: &Context) -> Result<(), Failure> {
    let empty: Vec<(&str, &str)> = DEFAULTS.iter().map(|(name, _)| (*name, "")).collect();
    for environment in [&[][..], &empty] {
        let config = effective(context, environment).await?;
        for (name, default) in DEFAULTS {
            check_eq(
                format!("{name} with {} variables", environment.len()),
                setting_text(&config, name)?,
                default.to_owned(),
            )?;
        }
    }
    // The host's path is the server's own unless it is given.
    let config = effective(context, &[("WORKSPACE_SOCKET_BASE_PATH", "/srv/sockets")]).await?;
    check_eq("the host's path", setting_text(&config, "WORKSPACE_SOCKET_HOST_PATH")?, "/srv/sockets".to_owned())
}

async fn limits(context: &Context) -> Result<(), Failure> {
    let most_accepted = ROWS.iter().map(|row| row.1.len()).max().unwrap_or(0);
    let most_refused = ROWS.iter().map(|row| row.2.len()).max().unwrap_or(0);
    for at in 0..most_accepted {
        // All settings at once: the value at this place, or the setting's last one.
        let values = ROWS.iter().filter_map(|row| Some((row.0, *row.1.get(at).or(row.1.last())?)));
        let values: Vec<(&str, &str)> = values.collect();
        let config = effective(context, &values).await.map_err(|failure| failure.during(format!("{values:?}")))?;
        for (name, value) in values {
            check_eq(name, setting_text(&config, name)?, value.to_owned())?;
        }
    }
    for at in 0..most_refused {
        let values: Vec<(&str, &str)> = ROWS.iter().filter_map(|row| Some((row.0, *row.2.get(at)?))).collect();
        let mut program = context.program(Act::ConfigJson)?;
        program.env = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let output = program.output(&context.run.id, COMMAND_LIMIT).await?;
        let told = context.description().settings.in_contract_words(&String::from_utf8_lossy(&output.stderr));
        check_eq(format!("status with {values:?} ({told})"), output.status.code(), Some(EX_USAGE))?;
        for (name, value) in values {
            let named = told.lines().any(|line| line.contains(name) && line.contains(value));
            check(named, format!("{name}={value} is not refused: {told}"))?;
        }
    }
    Ok(())
}
