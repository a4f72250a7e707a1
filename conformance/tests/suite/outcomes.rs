//! Outcome, verdict and exit status agree, and nothing that did not run counts as good.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use nagaya_conformance::client::http::Api;
use nagaya_conformance::harness::exchanges::{Exchanges, Secrets};
use nagaya_conformance::harness::failure::Kind;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::fixture::{Fixture, Manner, ends, judged, kill, status_and_output, suite, wait};

fn verdict(report: &Value) -> (&str, u64, &str) {
    let text = |value: &'static str| report[value].as_str().unwrap_or_default();
    let outcome = report["scenarios"][0]["outcome"].as_str().unwrap_or_default();
    (text("verdict"), report["exit_code"].as_u64().unwrap_or(99), outcome)
}

#[test]
fn a_deployment_that_keeps_its_promise_is_conformant() {
    for more in [&[][..], &["--strict"]] {
        let (status, text, report) = judged(Manner::Good, more);
        assert_eq!((status, verdict(&report)), (0, ("conformant", 0, "pass")), "{text}");
    }
}

#[test]
fn every_kind_of_misbehaviour_is_a_failure_with_expected_and_actual() {
    for (manner, says) in
        [(Manner::ClosesEarly, "error decoding response body"), (Manner::WrongJson, "healthy"), (Manner::Fails, "500")]
    {
        let (status, text, report) = judged(manner, &[]);
        assert_eq!((status, verdict(&report)), (1, ("non-conformant", 1, "fail")), "{manner:?}: {text}");
        let scenario = &report["scenarios"][0];
        assert!(scenario["expected"].is_string(), "{manner:?}: {scenario}");
        assert!(scenario["actual"].as_str().unwrap_or_default().contains(says), "{manner:?}: {scenario}");
        assert!(scenario["evidence"][0]["text"].to_string().contains("GET /health"), "{manner:?}: {scenario}");
        assert!(scenario["reproduce"].as_str().unwrap_or_default().contains("--seed"), "{manner:?}: {scenario}");
    }
}

#[tokio::test]
async fn half_an_event_stream_is_a_failure() {
    let fixture = Fixture::start(Manner::HalfAnEvent);
    let api = Api::new(&fixture.url, None, Exchanges::new(Secrets::default())).expect("a client");
    let stream = api.open_stream("/api/tenants/t/conversations/c/stream", &json!({})).await.expect("a stream");
    let failure = stream.finish().await.expect_err("half an event");
    assert_eq!(failure.kind, Kind::Assertion);
    assert_eq!(failure.actual.as_deref(), Some("an end inside one"), "{failure}");
}

#[test]
fn a_scenario_that_hangs_is_stopped_at_the_time_limit_and_reported() {
    let started = Instant::now();
    let (status, text, report) = judged(Manner::Hangs, &["--time-limit", "1"]);
    assert!(started.elapsed() < Duration::from_secs(25), "the limit of the run was not kept: {text}");
    assert_eq!((status, verdict(&report)), (2, ("incomplete", 2, "error")), "{text}");
}

/// Starts a run that hangs in HLTH-001, and waits until it does.
fn hanging(fixture: &Fixture, dir: &Path) -> (Child, PathBuf) {
    let log = dir.join("log");
    let mut command = suite(["run", "--target", &fixture.url, "--filter", "id(=HLTH-001)", "--report"]);
    command.arg(dir.join("report")).env("TMPDIR", dir).stderr(File::create(&log).expect("made"));
    let child = command.spawn().expect("started");
    let running = || std::fs::read_to_string(&log).unwrap_or_default().contains("start  HLTH-001");
    wait("the start of HLTH-001", running);
    (child, log)
}

/// The directories of runs below `dir`.
fn runs(dir: &Path) -> usize {
    let uid = rustix::process::getuid().as_raw();
    std::fs::read_dir(dir.join(format!("nagaya-conformance-{uid}"))).map_or(0, Iterator::count)
}

#[test]
fn an_interrupt_ends_the_run_and_it_is_still_reported() {
    let (fixture, dir) = (Fixture::start(Manner::Hangs), tempfile::tempdir().expect("a directory"));
    let (child, log) = hanging(&fixture, dir.path());
    kill(&child, Signal::INT);
    let status = child.wait_with_output().expect("ended").status;
    let text = std::fs::read_to_string(&log).expect("a log");
    assert_eq!(status.code(), Some(2), "{text}");
    let report = dir.path().join("report");
    let json = std::fs::read_to_string(report.join("report.json")).expect("a report");
    assert!(json.contains("interrupted") && json.contains("incomplete"), "{json}");
    for name in ["junit.xml", "report.html", "summary.md"] {
        assert!(report.join(name).is_file(), "{name}");
    }
    assert_eq!(runs(dir.path()), 0, "its directory is left");
}

#[test]
fn gc_removes_what_a_killed_run_left_and_leaves_a_running_one_alone() {
    let (fixture, dir) = (Fixture::start(Manner::Hangs), tempfile::tempdir().expect("a directory"));
    let (mut child, _) = hanging(&fixture, dir.path());
    let gc = || {
        status_and_output(
            &suite(["gc", "--docker", "/nowhere.sock"]).env("TMPDIR", dir.path()).output().expect("started"),
        )
    };
    let (status, text) = gc();
    assert_eq!((status, runs(dir.path())), (0, 1), "a living run was touched: {text}");
    kill(&child, Signal::KILL);
    child.wait().expect("ended");
    assert_eq!(runs(dir.path()), 1, "nothing was left to collect");
    let (status, text) = gc();
    assert_eq!((status, runs(dir.path())), (0, 0), "{text}");
    assert!(text.contains("removed directory"), "{text}");
}

#[test]
fn a_run_in_which_a_scenario_could_not_run_is_not_conformant() {
    let (status, text, report) = judged(Manner::Good, &["--filter", "id(=HLTH-001) or id(=BUG-06)"]);
    assert_eq!((status, report["verdict"].as_str()), (2, Some("incomplete")), "{text}");
    assert_eq!(report["counts"]["could-not-run"], 1);
    assert!(report["missing_capabilities"]["docker"].as_str().unwrap_or_default().contains("--docker"), "{report}");
    let (status, ..) = judged(Manner::Good, &["--filter", "id(=HLTH-001) or id(=BUG-06)", "--strict"]);
    assert_eq!(status, 1, "strict excuses nothing");
}

#[test]
fn scenarios_for_missing_optional_parts_could_not_run() {
    // The stand-in's description has none of the optional routes.
    let filter = ["--filter", "id(=HLTH-001) or requires(admin) or requires(resume)", "--without", "admin"];
    let (status, text, report) = judged(Manner::Good, &filter);
    assert_eq!((status, report["verdict"].as_str()), (2, Some("incomplete")), "{text}");
    let why = |capability: &str| report["missing_capabilities"][capability].as_str().unwrap_or_default().to_owned();
    assert_eq!(why("admin"), "--without says so");
    assert!(why("resume").contains("openapi.json") && why("files").contains("openapi.json"), "{report}");
    let ran =
        report["scenarios"].as_array().into_iter().flatten().filter(|one| one["outcome"] != "could-not-run").count();
    assert!(ran == 1 && report["counts"]["could-not-run"].as_u64() > Some(5), "{text}");
}

#[test]
fn a_claimed_profile_must_be_run_whole() {
    let (status, text, report) = judged(Manner::Good, &["--profile", "core"]);
    assert_eq!((status, report["verdict"].as_str()), (2, Some("incomplete")), "{text}");
    let missing = report["missing_scenarios"].as_array().cloned().unwrap_or_default();
    assert!(missing.contains(&json!("API-001")) && !missing.contains(&json!("HLTH-001")), "{missing:?}");
}

#[test]
fn scenarios_that_call_a_real_model_need_permission() {
    let filter = ["--filter", "id(=HLTH-001) or id(=RUN-002)"];
    let (_, _, report) = judged(Manner::Good, &filter);
    assert!(
        report["missing_capabilities"]["model"].as_str().unwrap_or_default().contains("--allow-model-calls"),
        "{report}"
    );
    let (_, _, report) = judged(Manner::Good, &[filter[0], filter[1], "--allow-model-calls"]);
    assert!(report["missing_capabilities"]["model"].is_null(), "{report}");
}

#[test]
fn known_failures_still_run_and_one_that_passes_fails() {
    let dir = tempfile::tempdir().expect("a directory");
    let list = dir.path().join("known");
    std::fs::write(&list, "# what we know of\nhlth-001  # since the beginning\n").expect("written");
    let known = ["--known-failures", list.to_str().expect("UTF-8")];
    let (status, text, report) = judged(Manner::Fails, &known);
    assert_eq!((status, verdict(&report)), (0, ("conformant", 0, "known-failure")), "{text}");
    let (status, text, report) = judged(Manner::Good, &known);
    assert_eq!((status, verdict(&report)), (1, ("non-conformant", 1, "fail")), "{text}");
    assert!(text.contains("remove it from the list"), "{text}");
    let (status, text, _) = judged(Manner::Fails, &[known[0], known[1], "--strict"]);
    assert_eq!(status, 1, "{text}");
}

#[test]
fn an_unreachable_target_or_a_refused_key_gives_no_verdict() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let (status, text) = ends(["run", "--target", &format!("http://{nobody}")]);
    assert_eq!(status, 3, "{text}");
    assert!(text.contains(&nobody.to_string()), "{text}");
    let locked = Fixture::start(Manner::Locked);
    let (status, text) = status_and_output(
        &suite(["run", "--target", &locked.url, "--api-key", "the-wrong-key-0000"]).output().expect("started"),
    );
    assert_eq!(status, 3, "{text}");
    assert!(text.contains("--api-key") && !text.contains("the-wrong-key-0000"), "{text}");
    let (status, text) = ends(["run", "--target", &locked.url]);
    assert_eq!(status, 3, "{text}");
    assert!(text.contains("it wants an API key") && text.contains("--api-key"), "{text}");
    let tenants = Fixture::start(Manner::OfTenant);
    let (status, text) = ends(["run", "--target", &tenants.url, "--api-key", "a-tenants-key-0000"]);
    assert_eq!(status, 3, "{text}");
    assert!(text.contains("not an operator's") && !text.contains("a-tenants-key-0000"), "{text}");
    for (target, says) in [
        (locked.url.trim_start_matches("http://"), "the scheme is missing: --target http://127.0.0.1:"),
        ("ftp://host", "give http://host:port"),
    ] {
        let (status, text) = ends(["run", "--target", target]);
        assert_eq!(status, 3, "{text}");
        assert!(text.contains(says), "{target}: {text}");
    }
    let (status, text) = ends(["run", "--target", &locked.url, "--ca", "/nowhere.pem"]);
    assert_eq!(status, 3, "{text}");
    assert!(text.contains("--ca is for https:// only"), "{text}");
    let (status, text) = ends(["run", "--target", &locked.url, "--docker", "/nowhere.sock"]);
    assert_eq!(status, 3, "{text}");
    assert!(text.contains("/nowhere.sock"), "{text}");
}
