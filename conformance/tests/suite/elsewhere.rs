//! The suite against a deployment that it has not launched: with only its address, and with its engine as well.

use std::collections::BTreeMap;
use std::sync::Arc;

use nagaya_conformance::harness::capabilities::Capabilities;
use nagaya_conformance::harness::context::Context;
use nagaya_conformance::harness::options::Options;
use nagaya_conformance::harness::run::Run;
use nagaya_conformance::target::launch::Launch;
use serde_json::Value;

use crate::fixture::ends;

/// Runs the suite's command in a thread of its own, so that the tested server continues to run.
async fn run(args: &[&str]) -> (i32, String, Value) {
    let dir = tempfile::tempdir().expect("a directory");
    let report = dir.path().display().to_string();
    let line: Vec<String> = ["run", "--report", &report].iter().chain(args).map(|arg| (*arg).to_owned()).collect();
    let ended = tokio::task::spawn_blocking(move || ends(line.iter().map(String::as_str)));
    let (status, text) = ended.await.expect("joined");
    let json =
        std::fs::read_to_string(dir.path().join("report.json")).unwrap_or_else(|error| panic!("{error}: {text}"));
    (status, text, serde_json::from_str(&json).expect("JSON"))
}

/// Ids of scenarios by outcome.
fn outcomes(report: &Value) -> BTreeMap<String, Vec<String>> {
    let mut outcomes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for scenario in report["scenarios"].as_array().into_iter().flatten() {
        let text = |name: &str| scenario[name].as_str().unwrap_or_default().to_owned();
        outcomes.entry(text("outcome")).or_default().push(text("id"));
    }
    outcomes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn core_needs_an_address_and_host_the_engine_and_neither_leaves_anything() {
    let options = Options::default();
    let capabilities = Capabilities::probe(&options).await.expect("settled");
    let suite = Arc::new(Run::begin(options, capabilities).expect("begun"));
    let context = Context::new(suite.clone(), "ELSEWHERE", &[]).expect("a directory");
    let tested = test(&context).await;
    let leftovers = context.resources.release().await;
    suite.end().expect("the run's directory goes");
    assert_eq!(leftovers, Vec::<String>::new(), "left by the deployment, or in it");
    tested.unwrap_or_else(|failure| panic!("{failure}"));
}

async fn test(context: &Context) -> Result<(), nagaya_conformance::harness::failure::Failure> {
    let deployment = context.launch(Launch::new()).await?;
    let (engine, id) = deployment.engine()?;
    let (url, socket) = (deployment.api.base().to_owned(), engine.socket().display().to_string());

    let (status, text, report) = run(&["--target", &url, "--profile", "core", "--strict"]).await;
    assert_eq!((status, report["verdict"].as_str()), (0, Some("conformant")), "{text}");
    assert!(report["counts"]["pass"].as_u64() > Some(5), "{text}");

    let host = ["--target", &url, "--docker", &socket, "--deployment", id, "--profile", "host"];
    let (status, text, report) = run(&host).await;
    assert_eq!((status, report["verdict"].as_str()), (0, Some("conformant")), "{text}");
    let passed = &outcomes(&report)["pass"];
    for id in ["BUG-06", "BUG-06-TWENTY", "BUG-09", "BUG-12-HOST", "BUG-13-HOST", "SEC-001", "SEC-002"] {
        assert!(passed.iter().any(|one| one == id), "{id} has not passed: {text}");
    }
    // Without the engine's socket these scenarios could not run, and each names the missing capability.
    let (status, text, report) = run(&["--target", &url, "--profile", "host"]).await;
    assert_eq!((status, report["verdict"].as_str()), (2, Some("incomplete")), "{text}");
    assert!(outcomes(&report)["could-not-run"].contains(&"BUG-06".to_owned()), "{text}");

    // `--without` must not name a part that the deployment has.
    let (status, text) = {
        let url = url.clone();
        let ended = tokio::task::spawn_blocking(move || ends(["run", "--target", &url, "--without", "resume"]));
        ended.await.expect("joined")
    };
    assert_eq!(status, 3, "{text}");
    assert!(text.contains("--without resume") && text.contains("openapi.json"), "{text}");

    for route in ["tenants", "models"] {
        let left = deployment.api.get(&format!("/api/{route}")).await?.expect(200)?.text();
        assert!(!left.contains("conf-"), "{route} are left: {left}");
    }
    assert_eq!(deployment.all_rooms().await?.len(), 0, "rooms are left");
    Ok(())
}
