//! A server that waits for its database, and one that gets SIGHUP.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::log_level::is_debug;
use crate::target::deployment::STOP_LIMIT;
use crate::target::launch::Launch;

/// How long anything may take that the server does by itself.
const SOON: Duration = Duration::from_secs(30);

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "BOOT-013",
        "A server whose PostgreSQL does not answer waits for it, says so, is not ready, and stops when told to",
        "a dependency that is away at the start is waited for",
        body!(waits),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Docker, Capability::Image, Capability::Postgres])
    .limit(120),
    Scenario::new(
        "BOOT-014",
        "SIGHUP opens the audit trail again, applies a new log level, and names what needs a restart",
        "operators rotate logs with SIGHUP",
        body!(hangup),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Docker, Capability::Image])
    .limit(60),
];

async fn waits(context: &Context) -> Result<(), Failure> {
    let postgres = context.postgres().await?;
    let url = postgres.url().await?;
    postgres.stop().await?;
    let launch =
        || Launch::new().without_model().without_waiting().set("WARM_POOL_MIN_SIZE", 0).set("DATABASE_URL", &url);
    let patient = context.launch(launch()).await?;
    let stopped = context.launch(launch()).await?;
    for deployment in [&patient, &stopped] {
        deployment.api.get("/health/live").await?.expect(200)?;
        let ready = deployment.api.get("/health/ready").await?;
        ready.expect_error(503, "SERVICE_UNAVAILABLE")?;
        check(ready.header("retry-after").is_some(), "no Retry-After")?;
        check(ready.text().contains("start it"), format!("not why it is not ready: {}", ready.text()))?;
    }
    check(patient.server()?.log().contains("waiting for the database"), "the log does not say what it waits for")?;
    let process = &stopped.server()?.process;
    process.ask_to_stop().await?;
    check_eq("exit status of one that was stopped", process.wait(STOP_LIMIT).await?.code(), Some(0))?;
    postgres.restart().await?;
    eventually(SOON, "a server that is ready", async || patient.api.get("/health/ready").await?.expect(200).map(drop))
        .await
}

async fn hangup(context: &Context) -> Result<(), Failure> {
    let (file, description) = (context.dir().join("server.toml"), context.description());
    let write = |settings: &[(&str, toml::Value)]| std::fs::write(&file, description.settings.file(settings));
    write(&[("LOG_LEVEL", "info".into()), ("CONTAINER_TTL", 60.into())])?;
    let named = description.launch.settings_file(&file).map_err(Failure::could_not_run)?;
    let mut deployment = context.launch(Launch::new().without_model().set("WARM_POOL_MIN_SIZE", 0)).await?;
    if let Some(server) = &mut deployment.server {
        server.program.args.extend(named.into_iter().map(Into::into));
    }
    deployment.stop().await?;
    deployment.restart(context).await?;
    let server = deployment.server()?;
    let state = server.program.env.get("STATE_DIR").cloned().unwrap_or_default();
    let (trail, old) = (Path::new(&state).join("audit.jsonl"), Path::new(&state).join("audit.jsonl.1"));
    std::fs::rename(&trail, &old)?;
    server.reload().await?;
    eventually(SOON, "a new audit trail", async || match trail.exists() {
        true => Ok::<_, String>(()),
        false => Err("no file".to_owned()),
    })
    .await?;
    let before = std::fs::read_to_string(&old)?;
    let tenant = serde_json::json!({"tenant_id": context.unique("t")});
    deployment.api.post("/api/tenants", &tenant).await?.expect(201)?;
    eventually(SOON, "the event in the new trail", async || {
        let text = std::fs::read_to_string(&trail).map_err(|error| error.to_string())?;
        if text.contains("/api/tenants") { Ok(()) } else { Err(text) }
    })
    .await?;
    check_eq("what is added to the old trail", std::fs::read_to_string(&old)?, before)?;
    let has_debug = |log: &str| log.lines().any(|line| is_debug(line, &description.log));
    check(!has_debug(&server.log()), "the log has lines of the level debug")?;
    write(&[("LOG_LEVEL", "debug".into()), ("CONTAINER_TTL", 90.into())])?;
    server.reload().await?;
    eventually(SOON, "lines of the level debug", async || {
        deployment.api.get("/health/live").await?.expect(200)?;
        check(has_debug(&server.log()), "none")
    })
    .await?;
    let named = server.log().lines().any(|line| line.contains("CONTAINER_TTL") && line.contains("restart"));
    check(named, "the log does not say that CONTAINER_TTL needs a restart")?;
    write(&[("LOG_LEVEL", "loud".into())])?;
    server.reload().await?;
    eventually(SOON, "the error of the file", async || check(server.log().contains("LOG_LEVEL=\\\"loud\\\""), "none"))
        .await?;
    deployment.api.get("/health/ready").await?.expect(200)?;
    // As at a terminal: SIGINT is no request to open files again.
    server.process.signal(Signal::INT).await?;
    let status = server.process.wait(STOP_LIMIT).await?;
    check_eq("exit status after SIGINT", status.code(), Some(0))
}
