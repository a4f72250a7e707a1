//! `/docs` of a server in a real browser, on a desk and on a phone.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::browser::Browser;
use crate::fixture::wait;

const LIMIT: Duration = Duration::from_secs(30);

/// Environment variable with the path at which a picture of the page on a phone is saved.
const PICTURE: &str = "NAGAYA_DOCS_PICTURE";

/// A server without an engine; it answers nevertheless.
struct Server {
    child: Child,
    url: String,
    _dir: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let own = std::env::current_exe().expect("a path");
        let program = own.ancestors().map(|folder| folder.join("nagaya")).find(|program| program.is_file());
        let file = dir.path().join("addr");
        let child = Command::new(program.expect("scripts/build.sh compiles it"))
            .args(["serve", "--addr-file"])
            .arg(&file)
            .env_clear()
            .env("BIND_ADDR", "127.0.0.1:0")
            .env("STATE_DIR", dir.path().join("state"))
            .env("WORKSPACE_SOCKET_BASE_PATH", dir.path().join("s"))
            .env("DOCKER_SOCKET_PATH", dir.path().join("no-engine.sock"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let mut server = Self { child, url: String::new(), _dir: dir };
        wait("the server's address", || {
            let address = std::fs::read_to_string(&file).unwrap_or_default();
            server.url = format!("http://{}/docs", address.trim());
            !address.trim().is_empty()
        });
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Waits until a script returns true.
async fn until(browser: &Browser, what: &str, script: &str) {
    let began = Instant::now();
    while browser.ask(script).await != true {
        assert!(began.elapsed() < LIMIT, "{what}: {}", browser.ask("return document.body.innerText").await);
    }
}

const OPERATIONS: &str = "return document.querySelectorAll('.opblock').length";

#[tokio::test]
async fn the_page_shows_every_operation_with_its_parameters_and_fits_a_phone() {
    let server = Server::start();
    let document: Value = serde_json::from_str(include_str!("../../../docs/openapi.json")).expect("JSON");
    let operations: usize = document["paths"]
        .as_object()
        .expect("paths")
        .values()
        .map(|item| item.as_object().expect("operations").len())
        .sum();
    let browser = Browser::start().await;
    let phone = json!({"width": 390, "height": 844, "deviceScaleFactor": 3, "mobile": true});
    browser.tell("Emulation.setDeviceMetricsOverride", phone).await;
    browser.open_url(&server.url).await;
    until(&browser, "the operations", "return document.querySelectorAll('.opblock').length > 0").await;
    assert_eq!(browser.ask(OPERATIONS).await, operations);
    let without = "return [...document.querySelectorAll('.opblock')]
        .filter(one => !one.querySelector('.opblock-summary-description')?.textContent.trim()).map(one => one.id)";
    assert_eq!(browser.ask(without).await, json!([]), "operations without a summary");
    // Two operations, unfolded: a list with query parameters, and a run with its form.
    for id in ["conversations-list", "runs-start"] {
        let block = format!("document.getElementById('operations-{id}')");
        browser.ask(&format!("{block}.querySelector('.opblock-summary-control').click()")).await;
        until(&browser, id, &format!("return !!{block}.querySelector('.opblock-body')")).await;
    }
    until(&browser, "a query parameter", "return document.body.innerText.includes('from_date')").await;
    until(&browser, "the form", "return document.body.innerHTML.includes('multipart/form-data')").await;
    let widest = "return [innerWidth, document.documentElement.scrollWidth, [...document.querySelectorAll('#docs *')]
        .filter(one => one.getBoundingClientRect().right > innerWidth + 1).slice(0, 5).map(one => one.className)]";
    let widest = browser.ask(widest).await;
    assert_eq!((&widest[0], &widest[1]), (&json!(390), &json!(390)), "it has to be moved sideways: {widest}");
    if let Some(path) = std::env::var_os(PICTURE) {
        std::fs::write(path, browser.client.screenshot().await.expect("a picture")).expect("written");
    }
    let fetched = browser.ask("return performance.getEntriesByType('resource').map(one => one.name)").await;
    let own = server.url.trim_end_matches("docs");
    let foreign: Vec<&Value> = fetched
        .as_array()
        .expect("a list")
        .iter()
        .filter(|url| {
            !url.as_str().unwrap_or_default().starts_with(own) && !url.as_str().unwrap_or_default().starts_with("data:")
        })
        .collect();
    assert!(foreign.is_empty(), "the page fetched {foreign:?}");
    browser.end().await;
}
