//! A real Prometheus of the suite's own, with the configuration and the rules that are delivered.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::fixtures::harness;
use super::process::{Process, Program};
use crate::client::exchange::Exchanges;
use crate::client::http::Api;
use crate::failure::{Failure, check};
use crate::poll::eventually;

/// The configuration as it is delivered.
const CONFIG: &str = include_str!("../../../deploy/prometheus/prometheus.yml");
/// The alerts as they are delivered.
pub const RULES: &str = include_str!("../../../deploy/prometheus/rules.yml");
/// What of the configuration is the deployment's own: where the server is, and how often is looked.
const OWN: [(&str, &str); 2] = [("_interval: 15s", "_interval: 1s"), ("nagaya:8000", "{target}")];
/// How long it may take to start.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A Prometheus that scrapes one deployment every second.
#[derive(Debug, Clone)]
pub struct Prometheus {
    api: Api,
}

impl Prometheus {
    /// Where the programs `prometheus` and `promtool` are.
    ///
    /// # Errors
    /// One of them is not there.
    pub fn find() -> Result<(PathBuf, PathBuf), String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let find = |name: &str| {
            let mut places = std::env::split_paths(&path).map(|dir| dir.join(name));
            let found = places.find(|path| path.is_file());
            found.ok_or_else(|| format!("{name} is not on the search path; install prometheus"))
        };
        Ok((find("prometheus")?, find("promtool")?))
    }

    /// Starts it beside its files in `dir`, to scrape `target` (`host:port`).
    pub(super) async fn start(
        run: &str,
        dir: &Path,
        target: &str,
        exchanges: Exchanges,
    ) -> Result<(Self, Process), Failure> {
        let (program, _) = Self::find().map_err(Failure::harness)?;
        let mut config = CONFIG.to_owned();
        for (delivered, own) in OWN {
            check(config.contains(delivered), format!("prometheus.yml has no {delivered:?} any more"))
                .map_err(harness)?;
            config = config.replace(delivered, &own.replace("{target}", target));
        }
        std::fs::write(dir.join("prometheus.yml"), config)?;
        std::fs::write(dir.join("rules.yml"), RULES)?;
        // Free at this moment; should somebody else be quicker, the server says so and ends.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let args = [
            format!("--config.file={}", dir.join("prometheus.yml").display()),
            format!("--storage.tsdb.path={}", dir.join("data").display()),
            format!("--web.listen-address={address}"),
        ];
        let process = Process::start(&Program::new(&program, args), run, &dir.join("prometheus.log"))?;
        let api = Api::new(&format!("http://{address}"), None, exchanges)?;
        let ready = eventually(START_LIMIT, "200 from Prometheus's /-/ready", async || {
            let reply = api.get("/-/ready").await?;
            check(reply.status == 200, format!("{}; it printed: {}", reply.status, process.printed()))
        });
        ready.await.map_err(harness)?;
        Ok((Self { api }, process))
    }

    /// What a query comes to now: the samples of its result.
    ///
    /// # Errors
    /// The query does not parse, or cannot be evaluated.
    pub async fn query(&self, query: &str) -> Result<Vec<Value>, Failure> {
        let reply = self.api.get(&format!("/api/v1/query?query={}", encoded(query))).await?;
        let answer = reply.json()?;
        check(answer["status"] == "success", format!("{query}: {answer}"))?;
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    }

    /// Every rule, as it stands.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn rules(&self) -> Result<Vec<Value>, Failure> {
        let answer = self.api.get("/api/v1/rules").await?.expect(200)?.json()?;
        let groups = answer["data"]["groups"].as_array().cloned().unwrap_or_default();
        Ok(groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect())
    }

    /// Waits until an alert is `pending` or `firing`.
    ///
    /// # Errors
    /// It is not in time.
    pub async fn alerts(&self, name: &str, state: &str, limit: Duration) -> Result<(), Failure> {
        eventually(limit, format!("{name} {state}"), async || {
            let found = self.query(&format!("ALERTS{{alertname=\"{name}\",alertstate=\"{state}\"}}")).await?;
            if found.is_empty() {
                let all = self.query("ALERTS").await?;
                return Err(Failure::assertion(format!("alerts: {all:?}")));
            }
            Ok(())
        })
        .await
    }
}

/// Checks a page of metrics with `promtool`, and gives what that has to say; nothing where it is content.
///
/// # Errors
/// The page is not in the format, or the program cannot be run.
pub async fn lint(run: &str, dir: &Path, page: &str) -> Result<String, Failure> {
    let (_, promtool) = Prometheus::find().map_err(Failure::harness)?;
    let file = dir.join("page.txt");
    std::fs::write(&file, page)?;
    let line = format!("exec '{}' check metrics <'{}'", promtool.display(), file.display());
    let output = Program::new(Path::new("/bin/sh"), ["-c", &line]).output(run, Duration::from_secs(20)).await?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        // 3 is for what could be named or told better.
        Some(0 | 3) => Ok(told),
        other => Err(Failure::assertion(format!("promtool check metrics ended with {other:?}: {told}"))),
    }
}

fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() {
            encoded.push(byte.into());
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TESTS: &str = include_str!("../../../deploy/prometheus/rules_test.yml");
    const PLAYBOOK: &str = include_str!("../../../docs/alerts.md");

    fn alerts() -> Vec<&'static str> {
        let alerts: Vec<_> = RULES.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
        assert!(alerts.len() > 10, "{alerts:?}");
        alerts
    }

    #[test]
    fn each_alert_is_made_to_fire_and_to_stay_silent() {
        for alert in alerts() {
            assert!(TESTS.contains(&format!("- name: {alert} fires\n")), "no test makes {alert} fire");
            assert!(
                TESTS.contains(&format!("alertname: {alert}, exp_alerts: []")),
                "{alert} may fire when all is well"
            );
        }
        let (_, promtool) = Prometheus::find().expect("scripts/setup.sh installs it");
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus");
        let told = std::process::Command::new(promtool)
            .args(["test", "rules", "rules_test.yml"])
            .current_dir(rules)
            .output()
            .expect("promtool runs");
        let printed = String::from_utf8_lossy(&told.stdout) + String::from_utf8_lossy(&told.stderr);
        assert!(told.status.success(), "{printed}");
    }

    #[test]
    fn each_alert_has_a_place_in_the_playbook_and_leads_there() {
        for alert in alerts() {
            let entry = PLAYBOOK.split(&format!("\n## {alert}\n")).nth(1);
            let entry = entry.unwrap_or_else(|| panic!("{alert} has no entry in docs/alerts.md"));
            let entry = entry.split("\n## ").next().unwrap_or_default();
            for part in ["**Means.**", "**Look.**", "**Do.**"] {
                assert!(entry.contains(part), "{part} in {alert}: {entry}");
            }
            let link = format!("runbook: docs/alerts.md#{}", alert.to_lowercase());
            assert!(RULES.contains(&link), "{alert} does not lead to its entry");
        }
        let entries = PLAYBOOK.matches("\n## Nagaya").count();
        assert_eq!(entries, alerts().len(), "an entry without an alert");
    }
}
