//! A real Prometheus of the suite's own, with the configuration and the rules that are delivered.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::alertmanager;
use super::fixtures::harness;
use super::process::{Process, Program};
use crate::client::http::Api;
use crate::harness::exchanges::Exchanges;
use crate::harness::failure::{Failure, check};
use crate::harness::poll::eventually;

/// The configuration as it is delivered.
const CONFIG: &str = include_str!("../../../deploy/prometheus/prometheus.yml");
/// The alerts as they are delivered.
pub const RULES: &str = include_str!("../../../deploy/prometheus/rules.yml");
/// Parts of the configuration that depend on the deployment: the intervals, the addresses of the server and Alertmanager, and the path of
/// the metrics.
const OWN: [(&str, &str); 4] = [
    ("_interval: 15s", "_interval: 1s"),
    ("job_name: nagaya\n", "job_name: nagaya\n    metrics_path: {path}\n"),
    ("nagaya:8000", "{target}"),
    ("alertmanager:9093", "{alertmanager}"),
];
/// How long it may take to start.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A Prometheus that scrapes one deployment every second.
#[derive(Debug, Clone)]
pub struct Prometheus {
    api: Api,
}

impl Prometheus {
    /// The paths of `prometheus` and `promtool`.
    ///
    /// # Errors
    /// One of them is missing, or Alertmanager is.
    pub fn find() -> Result<(PathBuf, PathBuf), String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let find = |name: &str| {
            let mut places = std::env::split_paths(&path).map(|dir| dir.join(name));
            let found = places.find(|path| path.is_file());
            found.ok_or_else(|| format!("{name} is not on the search path; install prometheus"))
        };
        alertmanager::find()?;
        Ok((find("prometheus")?, find("promtool")?))
    }

    /// Starts it beside its files in `dir`, to scrape the deployment of `scraped` and send alerts to `alertmanager`.
    pub(super) async fn start(
        run: &str,
        dir: &Path,
        (scraped, alertmanager): (&Api, &str),
        exchanges: Exchanges,
    ) -> Result<(Self, Process), Failure> {
        let (program, _) = Self::find().map_err(Failure::harness)?;
        std::fs::write(dir.join("prometheus.yml"), config(scraped, alertmanager)?)?;
        std::fs::write(dir.join("rules.yml"), RULES)?;
        // The port is free now; if another process takes it first, the server reports it and exits.
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

    /// Evaluates a query now, and returns the samples of its result.
    ///
    /// # Errors
    /// The query does not parse, or cannot be evaluated.
    pub async fn query(&self, query: &str) -> Result<Vec<Value>, Failure> {
        let query: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let reply = self.api.get(&format!("/api/v1/query?query={query}")).await?;
        let answer = reply.json()?;
        check(answer["status"] == "success", format!("{query}: {answer}"))?;
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    }

    /// Every rule, with its state.
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
    /// It does not become so in time.
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

/// The delivered configuration, with the addresses and the path of this deployment.
fn config(scraped: &Api, alertmanager: &str) -> Result<String, Failure> {
    let (target, path) = (scraped.authority()?, scraped.target_path("/metrics")?);
    let mut config = CONFIG.to_owned();
    for (delivered, own) in OWN {
        check(config.contains(delivered), format!("prometheus.yml has no {delivered:?} any more")).map_err(harness)?;
        let own = own.replace("{target}", target).replace("{alertmanager}", alertmanager).replace("{path}", &path);
        config = config.replace(delivered, &own);
    }
    Ok(config)
}

/// Checks a page of metrics with `promtool`, and returns its remarks; empty if there are none.
///
/// # Errors
/// The page is not in the format, or the program cannot be run.
pub async fn lint(run: &str, dir: &Path, page: &str) -> Result<String, Failure> {
    let (_, promtool) = Prometheus::find().map_err(Failure::harness)?;
    let file = dir.join("page.txt");
    std::fs::write(&file, page)?;
    let line = format!("exec '{}' check metrics <'{}'", promtool.display(), file.display());
    let output = Program::new(Path::new("/bin/sh"), ["-c", &line]).output(run, Duration::from_secs(20)).await?;
    let tool_output = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        // Status 3 means remarks about names and help texts.
        Some(0 | 3) => Ok(tool_output),
        other => Err(Failure::assertion(format!("promtool check metrics ended with {other:?}: {tool_output}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::Description;
    use crate::harness::exchanges::Secrets;

    const TESTS: &str = include_str!("../../../deploy/prometheus/rules_test.yml");
    const PLAYBOOK: &str = include_str!("../../../docs/alerts.md");

    #[test]
    fn the_targets_own_path_is_scraped() {
        let described = "[http]\nprefix = \"/v2\"\n[http.routes]\n\"/metrics\" = \"/stats\"\n";
        let described = Description::parse(described, Path::new("")).expect("no fault");
        let api = Api::new("http://10.0.0.1:8000/below", None, Exchanges::new(Secrets::default())).expect("a client");
        let config = config(&api.speaking(&described.speech).expect("a client"), "10.0.0.2:9093").expect("a text");
        for part in ["metrics_path: /below/v2/stats\n", "[\"10.0.0.1:8000\"]", "[\"10.0.0.2:9093\"]"] {
            assert!(config.contains(part), "{part}: {config}");
        }
    }

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
        let tool_output = std::process::Command::new(promtool)
            .args(["test", "rules", "rules_test.yml"])
            .current_dir(rules)
            .output()
            .expect("promtool runs");
        let printed = String::from_utf8_lossy(&tool_output.stdout) + String::from_utf8_lossy(&tool_output.stderr);
        assert!(tool_output.status.success(), "{printed}");
    }

    #[test]
    fn each_alert_links_to_its_section_of_the_playbook() {
        for alert in alerts() {
            let entry = PLAYBOOK.split(&format!("\n## {alert}\n")).nth(1);
            let entry = entry.unwrap_or_else(|| panic!("{alert} has no entry in docs/alerts.md"));
            let entry = entry.split("\n## ").next().unwrap_or_default();
            for part in ["**Meaning.**", "**Look.**", "**Do.**"] {
                assert!(entry.contains(part), "{part} in {alert}: {entry}");
            }
            let link = format!("runbook: docs/alerts.md#{}", alert.to_lowercase());
            assert!(RULES.contains(&link), "{alert} does not lead to its entry");
        }
        let entries = PLAYBOOK.matches("\n## Nagaya").count();
        assert_eq!(entries, alerts().len(), "an entry without an alert");
    }
}
