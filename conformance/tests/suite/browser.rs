//! The HTML report in a real browser, in light and dark mode and on a phone: it fetches nothing, is readable, and unfolds.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

use crate::fixture::{Fixture, Manner, ends};

/// How long the browser may take for one command, or to start.
const LIMIT: Duration = Duration::from_secs(60);
/// Minimum contrast of text (Web Content Accessibility Guidelines 2.1, Success Criterion 1.4.3).
const CONTRAST: f64 = 4.5;
/// Environment variable with the path of another report for the screenshot.
const TO_SHOW: &str = "NAGAYA_REPORT_TO_SHOW";
/// Environment variable with the path at which the screenshot is saved.
const PICTURE: &str = "NAGAYA_REPORT_PICTURE";

/// The text with the lowest contrast to its background, as `[contrast, text]`.
const LEAST_CONTRAST: &str = r#"
    const parse = colour => { const n = colour.match(/[\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
    const light = ([r, g, b]) => [r, g, b].map(c => c / 255).map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = element => {
        for (let one = element; one; one = one.parentElement) {
            const colour = parse(getComputedStyle(one).backgroundColor);
            if (colour[3] === 1) return colour;
        }
        return [255, 255, 255, 1];
    };
    const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort((x, y) => y - x); return (x + 0.05) / (y + 0.05); };
    let least = [99, "nothing"];
    const see = (element, style, text) => {
        const found = contrast(parse(style.color), behind(element));
        if (text.trim() && found < least[0]) least = [found, text.trim().slice(0, 60)];
    };
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) see(walk.currentNode.parentElement, getComputedStyle(walk.currentNode.parentElement), walk.currentNode.data);
    for (const cell of document.querySelectorAll(".cells a")) {
        const mark = getComputedStyle(cell, "::after");
        if (mark.content !== "none") see(cell, mark, mark.content);
    }
    return least;
"#;

/// A browser and its driver; both are killed on drop.
pub(crate) struct Browser {
    pub(crate) client: Client,
    driver: Driver,
}

struct Driver {
    child: Child,
    dir: tempfile::TempDir,
}

impl Drop for Driver {
    fn drop(&mut self) {
        // The process group contains the browser too; it may have exited.
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// A command of the Chrome DevTools Protocol, which WebDriver lacks: it emulates a device.
#[derive(Debug)]
struct Device(&'static str, Value);

impl WebDriverCompatibleCommand for Device {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(json!({"cmd": self.0, "params": self.1}).to_string()))
    }
}

impl Browser {
    pub(crate) async fn start() -> Self {
        use std::os::unix::process::CommandExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        let mut command = Command::new("chromedriver");
        // It keeps temporary files there.
        command.arg("--port=0").env("TMPDIR", dir.path()).env("HOME", dir.path()).process_group(0);
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("chromedriver: {error}; scripts/setup.sh installs it"));
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let driver = Driver { child, dir };
        let port = lines.find_map(|line| {
            let line = line.expect("a line of chromedriver");
            line.strip_prefix("ChromeDriver was started successfully on port ")
                .map(|port| port.trim_end_matches('.').to_owned())
        });
        // It continues to print.
        std::thread::spawn(move || lines.for_each(drop));
        let profile = driver.dir.path().join("profile");
        let options = json!({"args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,1000",
            "--hide-scrollbars", format!("--user-data-dir={}", profile.display()),
        ]});
        let capabilities: Capabilities = [("goog:chromeOptions".to_owned(), options)].into_iter().collect();
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(capabilities);
        let url = format!("http://127.0.0.1:{}", port.expect("chromedriver says where it listens"));
        let client = tokio::time::timeout(LIMIT, builder.connect(&url)).await.expect("in time").expect("a browser");
        Self { client, driver }
    }

    async fn open(&self, page: &Path) {
        self.open_url(&format!("file://{}", page.display())).await;
    }

    pub(crate) async fn open_url(&self, url: &str) {
        tokio::time::timeout(LIMIT, self.client.goto(url)).await.expect("in time").expect("opened");
    }

    pub(crate) async fn tell(&self, command: &'static str, params: Value) {
        let reply = self.client.issue_cmd(Device(command, params));
        tokio::time::timeout(LIMIT, reply).await.expect("in time").unwrap_or_else(|error| panic!("{command}: {error}"));
    }

    async fn likes(&self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.tell("Emulation.setEmulatedMedia", json!({"features": features})).await;
    }

    pub(crate) async fn ask(&self, script: &str) -> Value {
        let asked = self.client.execute(script, Vec::new());
        tokio::time::timeout(LIMIT, asked).await.expect("in time").unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    async fn contrast(&self, when: &str) {
        let least = self.ask(LEAST_CONTRAST).await;
        let found = least[0].as_f64().expect("a number");
        assert!((CONTRAST..99.0).contains(&found), "{when}, {:?} has a contrast of {found:.2}", least[1]);
    }

    pub(crate) async fn end(self) {
        tokio::time::timeout(LIMIT, self.client.close()).await.expect("in time").expect("closed");
        drop(self.driver);
    }
}

/// The page of a run in which one scenario failed, and one could not run.
fn page(dir: &Path) -> PathBuf {
    let (fixture, report) = (Fixture::start(Manner::Fails), dir.display().to_string());
    let filter = "id(=HLTH-001) or id(=HLTH-002) or id(=BUG-01)";
    ends(["run", "--target", &fixture.url, "--report", &report, "--filter", filter]);
    dir.join("report.html")
}

#[tokio::test]
async fn the_page_is_readable_in_light_and_dark_mode_and_on_a_phone_and_fetches_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let page = page(dir.path());
    let browser = Browser::start().await;
    let mut papers = Vec::new();
    for scheme in ["light", "dark"] {
        browser.likes(scheme).await;
        browser.open(&page).await;
        assert_eq!(browser.ask("return document.querySelector('h1').textContent").await, "non-conformant");
        browser.contrast(scheme).await;
        papers.push(browser.ask("return getComputedStyle(document.body).backgroundColor").await);
    }
    assert_ne!(papers[0], papers[1], "night looks like day");
    let fetched = browser.ask("return performance.getEntriesByType('resource').map(one => one.name)").await;
    assert_eq!(fetched, json!([]), "the page fetched something");

    let phone = json!({"width": 390, "height": 844, "deviceScaleFactor": 3, "mobile": true});
    browser.tell("Emulation.setDeviceMetricsOverride", phone).await;
    browser.open(&page).await;
    assert_eq!(browser.ask("return innerWidth").await, 390, "it is laid out for another width");
    assert_eq!(browser.ask("return document.documentElement.scrollWidth").await, 390, "it has to be moved sideways");
    browser.contrast("on a phone").await;
    browser.end().await;
}

#[tokio::test]
async fn a_cell_of_the_heat_map_opens_the_evidence_of_its_failure() {
    let dir = tempfile::tempdir().expect("a directory");
    let browser = Browser::start().await;
    browser.open(&page(dir.path())).await;
    let cell = browser.client.find(Locator::Css(".cells a.fail")).await.expect("a cell");
    assert!(cell.attr("aria-label").await.expect("asked").unwrap_or_default().starts_with("HLTH-001 fail"));
    cell.click().await.expect("clicked");
    assert_eq!(browser.ask("return location.hash").await, "#HLTH-001");
    let seen = "const box = document.getElementById('HLTH-001').getBoundingClientRect(); return box.top >= -1 && box.top < innerHeight";
    assert_eq!(browser.ask(seen).await, true, "the failure is not in sight");

    let evidence = browser.client.find(Locator::Css("article.fail details pre")).await.expect("evidence");
    assert!(!evidence.is_displayed().await.expect("asked"), "evidence is unfolded from the beginning");
    let summary = browser.client.find(Locator::Css("article.fail details summary")).await.expect("a summary");
    summary.click().await.expect("clicked");
    assert!(evidence.is_displayed().await.expect("asked"), "it does not unfold");
    assert!(evidence.text().await.expect("text").contains("GET /health"), "it is no exchange");
    let text = browser.ask("return document.querySelector('article.fail').textContent").await.to_string();
    for part in ["requirement", "expected", "actual", "reproduce", "nagaya-conformance run"] {
        assert!(text.contains(part), "the failure does not tell {part}: {text}");
    }
    browser.end().await;
}

/// Makes the screenshot in the documentation: `NAGAYA_REPORT_TO_SHOW` names the page, `NAGAYA_REPORT_PICTURE` the file.
#[tokio::test]
async fn a_screenshot_can_be_taken() {
    let dir = tempfile::tempdir().expect("a directory");
    let page = std::env::var_os(TO_SHOW).map_or_else(|| page(dir.path()), PathBuf::from);
    let browser = Browser::start().await;
    browser.likes("light").await;
    browser.open(&page).await;
    let picture = browser.client.screenshot().await.expect("a picture");
    assert!(
        picture.starts_with(b"\x89PNG") && picture.len() > 20_000,
        "{} bytes are no picture of a page",
        picture.len()
    );
    if let Some(path) = std::env::var_os(PICTURE) {
        std::fs::write(path, picture).expect("written");
    }
    browser.end().await;
}
