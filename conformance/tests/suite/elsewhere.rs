//! The suite against a deployment that it has not launched: with only its address, and with its engine as well.

use std::collections::BTreeMap;
use std::sync::Arc;

use nagaya_conformance::harness::capabilities::Capabilities;
use nagaya_conformance::harness::context::Context;
use nagaya_conformance::harness::failure::Failure;
use nagaya_conformance::harness::options::Options;
use nagaya_conformance::harness::run::Run;
use nagaya_conformance::target::fixtures::OriginKind;
use nagaya_conformance::target::launch::Launch;
use serde_json::Value;

use crate::fixture::ends;

/// Runs the suite's command in a thread of its own, so that the tested server continues to run.
async fn ended(line: &[&str]) -> (i32, String) {
    let line: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
    let ended = tokio::task::spawn_blocking(move || ends(line.iter().map(String::as_str)));
    ended.await.expect("joined")
}

/// Runs `run` with these arguments, and returns its status, output and report.
async fn run(args: &[&str]) -> (i32, String, Value) {
    let dir = tempfile::tempdir().expect("a directory");
    let report = dir.path().display().to_string();
    let line: Vec<String> = ["run", "--report", &report].iter().chain(args).map(|arg| (*arg).to_owned()).collect();
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    let (status, text) = ended(&line).await;
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

/// Performs a test with deployments of its own, of which nothing may be left.
async fn in_context(test: impl AsyncFnOnce(&Context) -> Result<(), Failure>) {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rate_limits_are_waited_out() {
    in_context(async |context| {
        const KEY: &str = "operators-key-0123456789";
        let limited = Launch::new().without_model().without_waiting().set("API_KEYS", KEY);
        let limited = limited.set("RATE_LIMIT_REQUESTS", 40).set("RATE_LIMIT_PERIOD", 2);
        let deployment = context.launch(limited).await?;
        let core = ["--target", deployment.api.base(), "--api-key", KEY, "--profile", "core", "--strict"];
        let (status, text, report) = run(&core).await;
        assert_eq!((status, report["verdict"].as_str()), (0, Some("conformant")), "{text}");
        let notes = report["scenarios"].to_string();
        assert!(notes.contains("as Retry-After says"), "the limit was not reached: {text}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_behind_tls_needs_its_certificate_authority() {
    in_context(async |context| {
        let origin = context.origin(OriginKind::Tls("localhost")).await?;
        let (_, port) = origin.address.rsplit_once(':').expect("a port");
        let target = format!("https://localhost:{port}");
        let ca = origin.ca.expect("an authority").display().to_string();
        let (status, text) = ended(&["run", "--target", &target, "--filter", "id(=HLTH-001)"]).await;
        assert_eq!(status, 3, "{text}");
        assert!(text.contains("--ca FILE"), "{text}");
        // The origin is no deployment, and says so in whole responses.
        let (status, text, report) = run(&["--target", &target, "--ca", &ca, "--filter", "id(=HLTH-001)"]).await;
        assert_eq!(status, 1, "{text}");
        let reproduce = report["scenarios"][0]["reproduce"].as_str().unwrap_or_default();
        assert!(reproduce.contains(&format!("--target {target} --ca {ca}")), "{reproduce}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn core_needs_an_address_and_host_the_engine_and_neither_leaves_anything() {
    in_context(core_and_host).await;
}

async fn core_and_host(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new()).await?;
    let (engine, id) = deployment.engine()?;
    let (url, socket) = (deployment.api.base().to_owned(), engine.socket().display().to_string());

    let (status, text, report) = run(&["--target", &url, "--profile", "core", "--strict"]).await;
    assert_eq!((status, report["verdict"].as_str()), (0, Some("conformant")), "{text}");
    assert!(report["counts"]["pass"].as_u64() > Some(5), "{text}");

    let reached = ["--target", &url, "--docker", &socket, "--deployment", id];
    // Its workspaces may have any image: this project's is not taken for theirs.
    let images = ["--filter", "id(=HLTH-001) or (requires(image) and profile(host))"];
    let (status, text, report) = run(&[&reached[..], &images].concat()).await;
    assert_eq!((status, report["verdict"].as_str()), (2, Some("incomplete")), "{text}");
    assert_eq!(outcomes(&report)["could-not-run"], ["BUG-09", "BUG-09-GONE"], "{text}");
    let why = report["missing_capabilities"]["image"].as_str().unwrap_or_default();
    assert!(why.contains("--target") && why.contains("--image"), "{report}");

    let image = context.run.capabilities.image.as_str();
    let (status, text, report) = run(&[&reached[..], &["--profile", "host", "--image", image]].concat()).await;
    assert_eq!((status, report["verdict"].as_str()), (0, Some("conformant")), "{text}");
    let passed = &outcomes(&report)["pass"];
    for id in ["BUG-06", "BUG-06-TWENTY", "BUG-09", "BUG-12-HOST", "BUG-13-HOST", "SEC-001", "SEC-002"] {
        assert!(passed.iter().any(|one| one == id), "{id} has not passed: {text}");
    }
    // Without the engine's socket these scenarios could not run, and each names the missing capability.
    let (status, text, report) = run(&["--target", &url, "--profile", "host"]).await;
    assert_eq!((status, report["verdict"].as_str()), (2, Some("incomplete")), "{text}");
    assert!(outcomes(&report)["could-not-run"].contains(&"BUG-06".to_owned()), "{text}");

    // Another deployment's workspaces are not inspected in place of the target's.
    let others = ["run", "--target", &url, "--docker", &socket, "--deployment", "nobodys", "--profile", "host"];
    let (status, text) = ended(&others).await;
    assert_eq!(status, 3, "{text}");
    assert!(text.contains("--deployment nobodys") && text.contains(id) && text.contains("DEPLOYMENT_ID"), "{text}");

    // `--without` must not name a part that the deployment has.
    let (status, text) = ended(&["run", "--target", &url, "--without", "resume"]).await;
    assert_eq!(status, 3, "{text}");
    assert!(text.contains("--without resume") && text.contains("openapi.json"), "{text}");

    // Nor must the target file deny it.
    let file = context.dir().join("target.toml");
    std::fs::write(&file, "[optional]\nwithout = [\"admin\"]\n")?;
    let file = file.display().to_string();
    let (status, text) = ended(&["run", "--target", &url, "--target-file", &file]).await;
    assert_eq!(status, 3, "{text}");
    assert!(text.contains("optional.without") && text.contains("admin") && text.contains("openapi.json"), "{text}");

    for route in ["tenants", "models"] {
        let left = deployment.api.get(&format!("/api/{route}")).await?.expect(200)?.text();
        assert!(!left.contains("conf-"), "{route} are left: {left}");
    }
    assert_eq!(deployment.all_rooms().await?.len(), 0, "rooms are left");
    Ok(())
}
