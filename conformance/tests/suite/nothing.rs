//! No scenario passes against a target that answers everything with plausible nothing: whatever is green has seen something.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nagaya_conformance::harness::capabilities::Capabilities;
use nagaya_conformance::harness::engine::Engine;
use nagaya_conformance::harness::options::Options;
use nagaya_conformance::harness::outcome::Outcome;
use nagaya_conformance::harness::pace::at_pace;
use nagaya_conformance::harness::run::Run;
use nagaya_conformance::harness::runner::{self, Plan, Report, Silent};
use nagaya_conformance::harness::scenario::Scenario;
use nagaya_conformance::scenarios;
use serde_json::{Value, json};
use strum::VariantArray as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

/// What every request is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::VariantArray)]
enum Manner {
    /// 200 and an empty object; by the engine an empty list, too.
    Empty,
    /// 404 in the contract's own envelope.
    NotFound,
    /// 422 in the contract's own envelope.
    Refused,
    /// 500 in the contract's own envelope.
    Failed,
    /// The status that a good response would have, and the request's own fields; streams consist of a successful end.
    Obliging,
    /// No response, on an open connection.
    Hangs,
    /// No response: nothing listens.
    Closed,
}

impl Manner {
    /// How much shorter all deadlines are. Where every request waits for its deadline, half a minute is over in three seconds; elsewhere a
    /// busy machine must be able to answer in time.
    fn patience(self) -> f64 {
        if self == Self::Hangs { 0.1 } else { 0.5 }
    }
}

/// How long one manner may take.
const LIMIT: Duration = Duration::from_secs(60);

/// The scenarios that may run against a target, given everything that a target can have.
fn for_targets(capabilities: &Capabilities) -> Vec<&'static Scenario> {
    scenarios::all().into_iter().filter(|scenario| capabilities.check(scenario.requires).is_ok()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_scenario_passes_against_plausible_nothing() {
    let reports = join_all(Manner::VARIANTS.iter().map(|manner| against(*manner))).await;
    let (mut green, mut late) = (Vec::new(), Vec::new());
    for (manner, reports) in Manner::VARIANTS.iter().zip(reports) {
        assert!(reports.len() > 25, "only {} scenarios ran", reports.len());
        for report in reports {
            let what = format!("{} {manner:?}: {:?}", report.scenario.id, report.message);
            // It would have seen nothing at all.
            let timed_out = format!("{report:?}").contains("operation timed out") && *manner != Manner::Hangs;
            match report.outcome {
                Outcome::Pass => green.push(what),
                Outcome::Timeout => late.push(what),
                _ if timed_out => late.push(what),
                _ => {}
            }
        }
    }
    assert!(green.is_empty(), "passed: {green:#?}");
    assert!(late.is_empty(), "reached a time limit: {late:#?}");
}

async fn against(manner: Manner) -> Vec<Report> {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("docker.sock");
    let (target, engine) = (target(manner).await, at_pace(manner.patience(), engine(manner, &socket)).await);
    let options = Options {
        target: Some(target),
        docker: Some(socket.display().to_string()),
        deployment: Some("nobody".to_owned()),
        allow_destructive: true,
        allow_model_calls: true,
        patience: manner.patience(),
        ..Options::default()
    };
    let mut capabilities = Capabilities::default();
    capabilities.engine = Some(engine);
    capabilities.image = "nothing:latest".to_owned();
    capabilities.set_missing_of_targets(&options);
    let selected = for_targets(&capabilities);
    let run = Arc::new(Run::begin(options, capabilities).expect("begun"));
    let deadline = Instant::now() + LIMIT;
    let plan = Plan { jobs: selected.len(), deadline, fails: &|_| false, fail_fast: false };
    let reports = runner::execute_all(&run, &selected, &plan, &mut Silent).await;
    run.end().expect("ended");
    reports
}

/// The URL of a target.
async fn target(manner: Manner) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    if manner != Manner::Closed {
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(stream, move |request| of_target(manner, request));
            }
        });
    }
    url
}

/// An engine that has nothing. That it is one, it says in every manner.
async fn engine(manner: Manner, socket: &Path) -> Engine {
    let listener = UnixListener::bind(socket).expect("a socket");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            serve(stream, move |request| of_engine(manner, request));
        }
    });
    Engine::connect(&PathBuf::from(socket).display().to_string()).await.expect("an engine")
}

fn serve<S, F>(stream: S, answer: impl Fn(Request<Incoming>) -> F + Send + 'static)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    tokio::spawn(async move {
        let service = service_fn(move |request| {
            let answer = answer(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        // A client may disconnect at any time.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    });
}

fn response(status: u16, kind: &str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let response = Response::builder().status(status).header("Content-Type", kind).header("X-Request-ID", "nothing");
    response.body(Full::new(body.into())).expect("a response")
}

fn json(status: u16, body: &Value) -> Response<Full<Bytes>> {
    response(status, "application/json", body.to_string())
}

/// An error as the contract describes it.
fn envelope(status: u16, code: &str) -> Response<Full<Bytes>> {
    let error = json!({
        "code": code, "message": "Nothing", "details": [], "timestamp": "2026-01-01T00:00:00Z", "request_id": "nothing",
    });
    json(status, &json!({"error": error}))
}

async fn of_target(manner: Manner, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    match manner {
        Manner::Empty => json(200, &json!({})),
        Manner::NotFound => envelope(404, "NOT_FOUND"),
        Manner::Refused => envelope(422, "VALIDATION_ERROR"),
        Manner::Failed => envelope(500, "INTERNAL_ERROR"),
        Manner::Hangs | Manner::Closed => std::future::pending().await,
        Manner::Obliging => {
            let sent = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            oblige(&head.method, &path, &sent)
        }
    }
}

fn oblige(method: &Method, path: &str, sent: &[u8]) -> Response<Full<Bytes>> {
    if path.ends_with("/stream") {
        let event = |seq: u32, name: &str| {
            let data = json!({"seq": seq, "timestamp": "2026-01-01T00:00:00Z", "status": "success", "tools": ["Task"]});
            format!("id: nothing:{seq}\nevent: {name}\ndata: {data}\n\n")
        };
        return response(200, "text/event-stream", [event(1, "init"), event(2, "done")].concat());
    }
    let mut body = serde_json::from_slice(sent).ok().filter(Value::is_object).unwrap_or_else(|| json!({}));
    let usual = [
        ("conversation_id", json!("nothing")),
        ("status", json!("healthy")),
        ("version", json!("0")),
        ("items", json!([])),
        ("total", json!(0)),
        ("limit", json!(50)),
        ("offset", json!(0)),
        ("checks", json!({})),
        ("openapi", json!("3.1.0")),
        ("paths", json!({"/health": {}})),
    ];
    for (name, value) in usual {
        body[name] = value;
    }
    match *method {
        Method::POST if path.ends_with("/archive") => json(200, &body),
        Method::POST => json(201, &body),
        Method::DELETE => response(204, "application/json", ""),
        Method::PUT if path.ends_with("/files") || path.contains("/files/") => response(204, "application/json", ""),
        _ => json(200, &body),
    }
}

async fn of_engine(manner: Manner, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if path.ends_with("/version") {
        return json(200, &json!({"ApiVersion": "1.44", "MinAPIVersion": "1.24", "Version": "0"}));
    }
    match manner {
        Manner::Empty | Manner::Obliging if path.ends_with("/json") && path.matches('/').count() < 4 => {
            json(200, &json!([]))
        }
        Manner::Empty | Manner::Obliging => {
            json(if request.method() == Method::POST { 201 } else { 200 }, &json!({"Id": "nothing", "Warnings": []}))
        }
        Manner::NotFound | Manner::Refused => json(404, &json!({"message": "nothing"})),
        Manner::Failed | Manner::Closed => {
            json(StatusCode::INTERNAL_SERVER_ERROR.as_u16(), &json!({"message": "nothing"}))
        }
        Manner::Hangs => std::future::pending().await,
    }
}
