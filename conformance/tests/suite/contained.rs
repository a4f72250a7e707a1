//! The suite's own deployments in containers: the server, PostgreSQL and Redis. Nothing of them is left behind.

use std::process::Command;

use serde_json::Value;

use crate::fixture::ends;

fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().expect("docker");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_server_a_database_and_a_redis_in_containers_are_conformant_and_leave_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let report = dir.path().display().to_string();
    // Health; a workspace and its run; a killed server that restarts with PostgreSQL; a server whose Redis fails.
    let filter = "id(=HLTH-001) or id(=RUN-001) or id(=STATE-010) or id(=STATE-001) or id(=CHAOS-009)";
    let (status, text) = ends(["run", "--launch", "container", "--report", &report, "--filter", filter]);
    let json =
        std::fs::read_to_string(dir.path().join("report.json")).unwrap_or_else(|error| panic!("{error}: {text}"));
    let report: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(
        (status, &report["counts"]["pass"], &report["counts"]["could-not-run"]),
        (2, &4.into(), &1.into()),
        "{text}"
    );
    // Capabilities that need a server as a process are missing, with a reason.
    let why = report["missing_capabilities"]["mount"].as_str().unwrap_or_default();
    assert!(why.contains("--launch container"), "{report}");

    let run = report["run"].as_str().expect("the run's id");
    let left = docker(&["ps", "--all", "--quiet", "--filter", &format!("label=nagaya.conformance.run={run}")]);
    assert_eq!(left, "", "containers of the run are left");
    let named = docker(&["ps", "--all", "--format", "{{.Names}}", "--filter", &format!("name=conf-{run}-")]);
    assert_eq!(named, "", "containers of the run are left");
}
