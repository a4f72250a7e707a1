//! Another implementation of the contract, in another language and without workspaces, keeps `core`; each promise that it breaks on demand
//! is noticed. So the suite asks for nothing that is this project's alone, and the contract is enough to build from.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::fixture::{ends, wait};

/// A running server of `fixtures/second`; it ends when it is dropped.
struct Second {
    child: Child,
    url: String,
    dir: tempfile::TempDir,
}

impl Second {
    fn start(defect: Option<&str>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures/second");
        let file = dir.path().join("addr");
        let mut command = Command::new("python3");
        command.arg("-B").arg(program).arg("--addr-file").arg(&file).stdout(Stdio::null());
        command.args(defect.into_iter().flat_map(|defect| ["--defect", defect]));
        let child = command.spawn().expect("python3 is installed: fixtures/second needs version 3.11 or later");
        let mut second = Self { child, url: String::new(), dir };
        wait("the second implementation's address", || {
            if let Some(status) = second.child.try_wait().expect("a child") {
                panic!("fixtures/second ended: {status}; it needs Python 3.11 or later");
            }
            let address = std::fs::read_to_string(&file).unwrap_or_default();
            second.url = format!("http://{address}");
            !address.is_empty()
        });
        second
    }

    /// Runs the suite against it, and returns the status, the output and the report.
    fn judged(&self, more: &[&str]) -> (i32, String, Value) {
        let report = self.dir.path().join("report");
        let report_dir = report.display().to_string();
        let file = target_file();
        let fixed = ["run", "--target", &self.url, "--target-file", &file, "--report", &report_dir];
        let (status, text) = ends(fixed.into_iter().chain(more.iter().copied()));
        let json =
            std::fs::read_to_string(report.join("report.json")).unwrap_or_else(|error| panic!("{error}: {text}"));
        (status, text, serde_json::from_str(&json).expect("JSON"))
    }
}

fn target_file() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/second/target.toml").to_owned()
}

impl Drop for Second {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

#[test]
fn a_second_implementation_keeps_core_and_every_scenario_of_it_ran() {
    let (status, text, report) = Second::start(None).judged(&["--profile", "core", "--strict"]);
    assert_eq!((status, report["verdict"].as_str()), (0, Some("conformant")), "{text}");
    let core: Vec<&str> = nagaya_conformance::scenarios::all()
        .into_iter()
        .filter(|scenario| scenario.profile == nagaya_conformance::harness::vocabulary::Profile::Core)
        .map(|scenario| scenario.id)
        .collect();
    let scenarios = report["scenarios"].as_array().expect("scenarios");
    let passed = scenarios.iter().filter(|one| one["outcome"] == "pass").filter_map(|one| one["id"].as_str());
    assert_eq!(passed.collect::<Vec<_>>(), core, "{text}");
    // Nothing was read leniently, either.
    let notes: Vec<&Value> = scenarios.iter().filter(|one| one["notes"].to_string().contains("shape:")).collect();
    assert!(notes.is_empty(), "{notes:#?}");
    assert_eq!(report["contract_version"], nagaya_conformance::contract::version());
    assert!(scenarios.iter().all(|one| !one["clauses"].as_array().expect("clauses").is_empty()), "{report}");
}

#[test]
fn its_target_file_says_how_it_is_launched_and_stopped() {
    let (status, text) =
        ends(["run", "--target-file", &target_file(), "--filter", "id(=API-003) or id(=SHAPE-004) or id(=BUG-09)"]);
    // Each scenario has a server of its own, which must end with status 0. Nothing of this project takes the place of what it lacks.
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("2 pass") && text.contains("1 could-not-run"), "{text}");
}

#[test]
fn a_server_that_does_not_write_its_address_is_given_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let (file, program) = (dir.path().join("target.toml"), target_file().replace("/target.toml", ""));
    let launch = format!(
        "[launch]\nprogram = \"python3\"\nserve = [\"-B\", {program:?}, \"--addr\", \"{{address}}\"]\nstop_signal = \"INT\"\n"
    );
    std::fs::write(&file, launch).expect("written");
    let (status, text) = ends(["run", "--target-file", &file.display().to_string(), "--filter", "id(=SHAPE-004)"]);
    assert!(status == 0 && text.contains("1 pass"), "{status}: {text}");
}

#[test]
fn its_events_titles_and_messages_are_the_contracts() {
    let second = Second::start(None);
    let (status, text, _) =
        second.judged(&["--allow-model-calls", "--strict", "--filter", "id(=SHAPE-006) or id(=RUN-033)"]);
    assert_eq!(status, 0, "{text}");
}

#[test]
fn every_promise_that_it_breaks_is_noticed() {
    for (defect, id, says) in [
        ("filter-ignored", "BUG-14", "conversations with ?status=active"),
        ("archived-runs", "API-003", "status of POST"),
        ("inside-shown", "API-009", "reveals internals"),
        ("prices-are-numbers", "SHAPE-004", "input_token_price of a model is 0.003"),
        ("probes-multiply", "HLTH-006", "probes, more than"),
        ("done-twice", "SHAPE-006", "number of done"),
    ] {
        let second = Second::start(Some(defect));
        let filter = format!("id(={id})");
        let (status, text, report) = second.judged(&["--allow-model-calls", "--filter", &filter]);
        assert_eq!((status, report["verdict"].as_str()), (1, Some("non-conformant")), "{defect}: {text}");
        let message = report["scenarios"][0]["message"].as_str().unwrap_or_default();
        assert!(message.contains(says), "{defect}: {message}");
    }
}
