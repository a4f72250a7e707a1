//! A real Alertmanager of the suite's own, with the configuration that is delivered and a webhook as its receiver.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fixtures::harness;
use super::process::{Process, Program};
use crate::client::http::Api;
use crate::harness::exchanges::Exchanges;
use crate::harness::failure::{Failure, check};
use crate::harness::poll::eventually;

/// The configuration as it is delivered.
const CONFIG: &str = include_str!("../../../deploy/alertmanager/alertmanager.yml");
/// Parts of it that differ here: the receiver, and how long alerts are collected for one message.
const OWN: [(&str, &str); 3] = [
    ("    # webhook_configs:", "    webhook_configs:"),
    ("    #   - url: ALERT_WEBHOOK_URL", "      - url: {receiver}"),
    ("group_wait: 30s", "group_wait: 1s"),
];
/// How long it may take to start.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The paths of Alertmanager and `amtool`.
///
/// # Errors
/// One of them is missing.
pub fn find() -> Result<(PathBuf, PathBuf), String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let find = |names: &[&str]| {
        let mut places = std::env::split_paths(&path).flat_map(|dir| names.iter().map(move |name| dir.join(name)));
        let found = places.find(|path| path.is_file());
        found.ok_or_else(|| format!("{} is not on the search path; install prometheus-alertmanager", names[0]))
    };
    // Debian's name, and that of the project.
    Ok((find(&["prometheus-alertmanager", "alertmanager"])?, find(&["amtool"])?))
}

/// Starts it beside its files in `dir`, so that it posts alerts to `receiver`; returns the address (`host:port`) at which it takes them.
pub(super) async fn start(
    run: &str,
    dir: &Path,
    receiver: &str,
    exchanges: Exchanges,
) -> Result<(String, Process), Failure> {
    let (program, _) = find().map_err(Failure::harness)?;
    let mut config = CONFIG.to_owned();
    for (delivered, own) in OWN {
        check(config.contains(delivered), format!("alertmanager.yml has no {delivered:?} any more"))
            .map_err(harness)?;
        config = config.replace(delivered, &own.replace("{receiver}", receiver));
    }
    let file = dir.join("alertmanager.yml");
    std::fs::write(&file, config)?;
    // The port is free now; if another process takes it first, the server reports it and exits.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let args = [
        format!("--config.file={}", file.display()),
        format!("--storage.path={}", dir.join("alerts").display()),
        format!("--web.listen-address={address}"),
        "--cluster.listen-address=".to_owned(),
    ];
    let process = Process::start(&Program::new(&program, args), run, &dir.join("alertmanager.log"))?;
    let api = Api::new(&format!("http://{address}"), None, exchanges)?;
    let ready = eventually(START_LIMIT, "200 from Alertmanager's /-/ready", async || {
        let reply = api.get("/-/ready").await?;
        check(reply.status == 200, format!("{}; it printed: {}", reply.status, process.printed()))
    });
    ready.await.map_err(harness)?;
    Ok((address, process))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Environment, and a line of the configuration that it leads to.
    const RECEIVERS: [(&[(&str, &str)], &str); 3] = [
        (&[], "# webhook_configs:"),
        (
            &[("ALERT_WEBHOOK_URL", "https://example.org/a?b='c'&d|e\\f")],
            "- url: 'https://example.org/a?b=''c''&d|e\\f'",
        ),
        (
            &[
                ("ALERT_MAIL_TO", "on-call@example.org"),
                ("ALERT_MAIL_FROM", "n@example.org"),
                ("ALERT_MAIL_SERVER", "m:25"),
            ],
            "smarthost: 'm:25'",
        ),
    ];

    fn write(directory: &Path, environment: &[(&str, &str)]) -> std::process::Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/alertmanager-config.sh");
        let mut command = Command::new(script);
        command.arg(directory).envs(environment.iter().copied()).output().expect("bash runs")
    }

    #[test]
    fn the_configuration_is_valid_with_each_receiver() {
        let (_, amtool) = find().expect("scripts/setup.sh installs it");
        for (environment, line) in RECEIVERS {
            let directory = tempfile::tempdir().expect("a directory");
            let written = write(directory.path(), environment);
            assert!(written.status.success(), "{written:?}");
            let file = directory.path().join("alertmanager.yml");
            let config = std::fs::read_to_string(&file).expect("is written");
            assert!(config.contains(line), "{line} is not in: {config}");
            let checked = Command::new(&amtool).arg("check-config").arg(&file).output().expect("amtool runs");
            assert!(checked.status.success(), "{checked:?}");
            // What an operator has changed stays.
            std::fs::write(&file, "mine").expect("writes");
            assert!(write(directory.path(), &[]).status.success());
            assert_eq!(std::fs::read_to_string(&file).expect("is there"), "mine");
        }
    }

    #[test]
    fn half_a_receiver_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        for environment in [[("ALERT_MAIL_TO", "a@example.org")], [("ALERT_WEBHOOK_URL", "example.org")]] {
            let refused = write(directory.path(), &environment);
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(!refused.status.success() && said.contains("ALERT_"), "{said}");
        }
        assert!(!directory.path().join("alertmanager.yml").exists());
    }
}
