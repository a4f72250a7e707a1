//! The Compose file.

use serde_json::{Value, json};

use crate::client::http::Api;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::target::compose;
use crate::target::deployment::{Conversation, Deployment};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "DEP-001",
    "After Compose up the three health endpoints answer 200 and a run succeeds; down leaves nothing behind",
    "Compose up → three health endpoints 200 → a run → down leaves nothing",
    body!(up_and_down),
)
.severity(Severity::Critical)
.profile(Profile::Full)
.requires(&[Capability::Launch, Capability::Docker, Capability::Image, Capability::ServerImage, Capability::Compose])
.limit(170)];

async fn up_and_down(context: &Context) -> Result<(), Failure> {
    let project = context.compose_project()?;
    let up = project
        .script("up.sh", &[("PROFILES", "demo"), ("WARM_POOL_MIN_SIZE", "1"), ("CONTAINER_GRACE_PERIOD", "1")])
        .await?;
    let engine = context.engine()?.clone();
    let address = up.split_whitespace().find_map(|word| word.strip_prefix("http://")).unwrap_or_default().to_owned();
    check(address.starts_with("127.0.0.1:"), format!("up.sh does not say where it serves: {up}"))?;
    let secrets = std::fs::read_to_string(project.dir().join("env"))?;
    let secret = |name: &str| {
        secrets.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default().to_owned()
    };
    let keys = secret("API_KEYS");
    let (key, metrics) = keys.split_once(",@metrics:").unwrap_or((&keys, ""));
    let passwords = ["POSTGRES_PASSWORD", "REDIS_PASSWORD"].map(secret);
    for secret in [key, metrics].into_iter().chain(passwords.iter().map(String::as_str)) {
        check(secret.len() >= 16, "a secret in the file for Compose is missing or short")?;
        context.secrets().add(secret);
        check(!up.contains(secret), "up.sh printed a secret")?;
    }
    let api = Api::new(&format!("http://{address}"), Some(key), context.exchanges().clone())?;
    let deployment =
        Deployment { api, id: Some(project.name.clone()), engine: Some(engine.clone()), server: None, model: None };
    for path in ["/health", "/health/live", "/health/ready"] {
        deployment.api.get(path).await?.expect(200)?;
    }
    let health = deployment.api.get("/health").await?.expect(200)?.json()?;
    for component in ["database", "redis", "docker"] {
        check_eq(format!("{component}: {health}"), health["checks"][component]["status"].as_str(), Some("healthy"))?;
    }
    check(!health["checks"]["redis"]["message"].to_string().contains("not configured"), "Redis is not configured")?;
    let conversation = conversation(&deployment.api).await?;
    deployment
        .run_well(&conversation, "@tool Bash {\"command\": \"echo hello\", \"description\": \"Greet\"}\n@say said")
        .await?;
    // The control: everything that must be removed exists now.
    let there = compose::parts(&engine, &project.name).await?;
    for kind in ["container", "network", "volume"] {
        check(there.iter().any(|(one, _)| *one == kind), format!("no {kind} among {there:?}"))?;
    }
    not_root(&engine, &there).await?;
    check(!deployment.all_rooms().await?.is_empty(), "no workspace exists before `down`")?;
    check(std::fs::read_dir(project.dir().join("sockets"))?.count() > 0, "no socket directory exists before `down`")?;

    project.script("down.sh", &[]).await?;
    check_eq("left of the project", compose::parts(&engine, &project.name).await?, Vec::new())?;
    check_eq("workspaces left", deployment.all_rooms().await?.len(), 0)?;
    check(!project.dir().exists(), format!("{} is left", project.dir().display()))
}

/// A conversation that is not deleted, because its deployment is.
async fn conversation(api: &Api) -> Result<Conversation, Failure> {
    let model = json!({
        "model_id": "scripted", "display_name": "Scripted", "bedrock_model_id": "anthropic.claude-sonnet-4-20250514-v1:0",
        "context_window": 200_000, "max_output_tokens": 8192, "input_token_price": "0.003", "output_token_price": "0.015",
    });
    api.post("/api/models", &model).await?.expect(201)?;
    api.post("/api/tenants", &json!({"tenant_id": "t", "model_id": "scripted"})).await?.expect(201)?;
    let asked = json!({"user_id": "conformance"});
    let created = api.post("/api/tenants/t/conversations", &asked).await?.expect(201)?.json()?;
    let id = created["conversation_id"].as_str().unwrap_or_default().to_owned();
    Ok(Conversation { tenant: "t".to_owned(), model: "scripted".to_owned(), id, created })
}

/// Checks that no container of the project runs as root, has a writable root file system, or has a capability.
async fn not_root(engine: &crate::harness::engine::Engine, parts: &[(&'static str, String)]) -> Result<(), Failure> {
    for (_, id) in parts.iter().filter(|(kind, _)| *kind == "container") {
        let container: Value = engine.container(id).inspect_json().await?;
        let name = &container["Name"];
        let user = container["Config"]["User"].as_str().unwrap_or_default();
        check(!["", "0", "root"].contains(&user) && !user.starts_with("0:"), format!("{name} runs as {user:?}"))?;
        check_eq(format!("read-only root of {name}"), container["HostConfig"]["ReadonlyRootfs"].as_bool(), Some(true))?;
        check_eq(format!("dropped by {name}"), container["HostConfig"]["CapDrop"].to_string().as_str(), "[\"ALL\"]")?;
    }
    Ok(())
}
