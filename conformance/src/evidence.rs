//! What is shown beside a failure: gathered while everything is still there, with secrets taken out.

use std::time::Duration;

use serde::Serialize;

use crate::client::exchange::Secrets;
use crate::client::http::Api;
use crate::context::Context;
use crate::target::engine::Engine;
use crate::target::fixtures::Model;
use crate::target::process::Process;
use crate::target::services::Services;

/// How long gathering may take; whatever is missing then is missing.
const LIMIT: Duration = Duration::from_secs(10);
/// How many lines of a server's log are kept.
const LOG_LINES: usize = 120;

/// How many containers are shown.
const ROOMS: usize = 3;

/// One thing that can say what went on.
#[derive(Debug, Clone)]
pub enum Witness {
    /// A deployment's metrics, with what they were at first.
    Metrics(Api, String),
    /// The containers of a deployment.
    Rooms(Engine, String),
    /// What a server logged.
    Log(Process),
    /// What the model was asked.
    Model(Model),
    /// What the services were asked.
    Services(Services),
}

/// One piece of evidence.
#[derive(Debug, Clone, Serialize)]
pub struct Evidence {
    /// What it is.
    pub name: String,
    /// It.
    pub text: String,
}

/// Asks every witness.
pub async fn gather(context: &Context) -> Vec<Evidence> {
    let mut all = vec![Evidence { name: "exchanges".to_owned(), text: context.exchanges().text() }];
    let testimony = async {
        for witness in context.witnesses() {
            witness.testify(&mut all).await;
        }
    };
    if tokio::time::timeout(LIMIT, testimony).await.is_err() {
        all.push(Evidence { name: "evidence".to_owned(), text: format!("not complete after {LIMIT:?}") });
    }
    all.retain(|one| !one.text.is_empty());
    redact(context.secrets(), all)
}

fn redact(secrets: &Secrets, all: Vec<Evidence>) -> Vec<Evidence> {
    all.into_iter().map(|one| Evidence { text: secrets.redact(&one.text), ..one }).collect()
}

impl Witness {
    async fn testify(&self, all: &mut Vec<Evidence>) {
        let mut say = |name: String, text: String| all.push(Evidence { name, text });
        match self {
            Self::Metrics(api, before) => {
                let after = api.get("/metrics").await.map_or_else(|failure| failure.to_string(), |reply| reply.text());
                say("metrics before".to_owned(), workspace_samples(before));
                say("metrics after".to_owned(), workspace_samples(&after));
            }
            Self::Rooms(engine, deployment) => {
                let rooms = engine.rooms(deployment, false).await.unwrap_or_default();
                if rooms.len() > ROOMS {
                    say("containers".to_owned(), format!("{} in all; {ROOMS} of them are shown", rooms.len()));
                }
                for room in rooms.into_iter().take(ROOMS) {
                    let inspect = room.inspect_json().await;
                    let inspect = inspect.map_or_else(|failure| failure.to_string(), |json| format!("{json:#}"));
                    say(format!("docker inspect {}", room.id), inspect);
                    let logs = room.logs().await.unwrap_or_else(|failure| failure.to_string());
                    say(format!("docker logs {}", room.id), logs);
                }
            }
            Self::Log(server) => {
                let printed = server.printed();
                let lines: Vec<&str> = printed.lines().collect();
                say("server log".to_owned(), lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"));
            }
            Self::Model(model) => {
                let requests = model.requests().await.map(|all| all.into_iter().map(|one| one.0.to_string()).collect());
                let text = requests.map_or_else(|failure| failure.to_string(), |lines: Vec<String>| lines.join("\n"));
                say("model requests".to_owned(), text);
            }
            Self::Services(services) => {
                let line = |one: crate::target::services::Seen| {
                    format!("{} {} {} {}", one.scheme, one.method, one.path, one.status)
                };
                let requests = services.requests().await.map(|all| all.into_iter().map(line).collect());
                let text = requests.map_or_else(|failure| failure.to_string(), |lines: Vec<String>| lines.join("\n"));
                say("requests to the services".to_owned(), text);
            }
        }
    }
}

/// The samples about workspaces; the rest of the page says little about a failure here.
fn workspace_samples(page: &str) -> String {
    page.lines()
        .filter(|line| line.starts_with("workspace_") && !line.contains("_bucket"))
        .collect::<Vec<_>>()
        .join("\n")
}
