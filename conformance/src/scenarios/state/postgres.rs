//! State in PostgreSQL.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::durable_run::{outlives, waiting, whole};
use crate::scenarios::common::limits::HEALED_LIMIT;
use crate::target::deployment::Deployment;
use crate::target::launch::Launch;

/// How long another client holds its lock, in seconds.
const LOCKED: Duration = Duration::from_secs(8);
/// The number of conversations.
const LISTED: usize = 7;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "STATE-010",
        "With PostgreSQL, accounting, pagination and messages are correct, and a run outlives a killed server",
        "SQLite and PostgreSQL behind one query layer",
        body!(same_as_a_file),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[
        Capability::Launch,
        Capability::Docker,
        Capability::Image,
        Capability::Model,
        Capability::Postgres,
        Capability::Resume,
    ])
    .limit(120),
    Scenario::new(
        "STATE-011",
        "PostgreSQL that fails during a run is reported, costs the run nothing, and is used again once it is back",
        "a database that is away is told and is used once it is back; nothing is lost",
        body!(goes_away),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[
        Capability::Launch,
        Capability::Docker,
        Capability::Image,
        Capability::Model,
        Capability::Postgres,
        Capability::Resume,
    ])
    .limit(120),
    Scenario::new(
        "STATE-012",
        "A database with locked tables is waited for or reported, and used once the lock is released",
        "database locked: degrades and heals without a restart; 503 with Retry-After",
        body!(locked),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[
        Capability::Launch,
        Capability::Docker,
        Capability::Image,
        Capability::Model,
        Capability::Postgres,
        Capability::Resume,
    ])
    .limit(120),
    Scenario::new(
        "STATE-013",
        "Servers that start together on an empty database create one schema, and a later start changes nothing",
        "migrations run at start; migrations twice",
        body!(migrated_twice),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Docker, Capability::Postgres])
    .limit(120),
];

async fn same_as_a_file(context: &Context) -> Result<(), Failure> {
    let postgres = context.postgres().await?;
    let (deployment, conversation) =
        outlives(context, Launch::new().set("DATABASE_URL", postgres.url().await?)).await?;
    let api = &deployment.api;
    let word = context.unique("word");
    deployment.run_well(&conversation, &format!("@say {word}")).await?;
    // Nothing of it is in a local database file.
    let state = deployment.server()?.program.env.get("STATE_DIR").cloned().unwrap_or_default();
    let files: Vec<_> = std::fs::read_dir(&state)?.flatten().map(|entry| entry.file_name()).collect();
    let local = context.description().launch.database_file.as_deref();
    let local = local.ok_or_else(|| Failure::could_not_run("the target file has no launch.database_file"))?;
    check(!files.iter().any(|name| name == local), format!("{files:?}"))?;

    let account = api.get(&conversation.path("")).await?.expect(200)?.json()?;
    let title = account["title"].as_str().unwrap_or_default();
    check(!title.is_empty(), format!("no title from the first exchange: {account}"))?;
    for _ in 1..LISTED {
        deployment.another_conversation(context, &conversation.tenant, &conversation.model).await?;
    }
    let list = format!("/api/tenants/{}/conversations", conversation.tenant);
    let mut seen = Vec::new();
    for offset in (0..LISTED).step_by(3) {
        let page = api.get(&format!("{list}?limit=3&offset={offset}")).await?.expect(200)?.json()?;
        check_eq("total", page["total"].as_u64(), u64::try_from(LISTED).ok())?;
        seen.extend(page["items"].as_array().into_iter().flatten().map(|one| one["conversation_id"].to_string()));
    }
    let order = seen.len();
    check(
        seen.last().is_some_and(|last| last.contains(&conversation.id)),
        "the oldest conversation is not the last of the list",
    )?;
    seen.sort();
    seen.dedup();
    check_eq("conversations on all pages, each once", (seen.len(), order), (LISTED, LISTED))?;

    api.put(&conversation.path(""), &json!({"title": "\u{9577}\u{5c4b} \u{1f3e0}", "status": "archived"}))
        .await?
        .expect(200)?;
    let archived = api.get(&format!("{list}?status=archived")).await?.expect(200)?.json()?;
    check_eq("archived conversations", archived["total"].as_u64(), Some(1))?;
    check_eq("title", archived["items"][0]["title"].as_str(), Some("\u{9577}\u{5c4b} \u{1f3e0}"))?;
    api.post(&conversation.path("/stream"), &json!({"user_input": "@say no"}))
        .await?
        .expect_error(422, "VALIDATION_ERROR")?;
    let taken = json!({"tenant_id": conversation.tenant, "model_id": conversation.model});
    api.post("/api/tenants", &taken).await?.expect_error(409, "CONFLICT")?;
    api.delete(&format!("/api/models/{}", conversation.model)).await?.expect_error(409, "CONFLICT")?;
    // What was said is in the messages, the log and the driver's transcript; all of it goes with the conversation.
    let run = &context.run.id;
    let mentioned = async || postgres.sql(run, &tables_with(&word), HEALED_LIMIT).await;
    let before = mentioned().await?;
    check(before.split_whitespace().count() > 2, format!("tables that have what was said: {before}"))?;
    api.delete(&conversation.path("")).await?.expect(204)?;
    api.get(&conversation.path("/messages")).await?.expect_error(404, "NOT_FOUND")?;
    check_eq("tables that have what was said in a deleted conversation", mentioned().await?.trim(), "")
}

/// Lists the tables that have this text in any column.
fn tables_with(text: &str) -> String {
    format!(
        "SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', \
         'information_schema') AND (xpath('//n/text()', query_to_xml(format('SELECT count(*) AS n FROM %I.%I AS one WHERE \
         one::text LIKE %L', schemaname, tablename, '%{text}%'), false, false, '')))[1]::text::int > 0"
    )
}

async fn database_is(deployment: &Deployment, expected: &str) -> Result<(), Failure> {
    eventually(HEALED_LIMIT, format!("database {expected} in /health"), async || {
        let health = deployment.api.get("/health").await?.expect(200)?.json()?;
        check_eq(health.to_string(), health["checks"]["database"]["status"].as_str(), Some(expected))
    })
    .await
}

async fn goes_away(context: &Context) -> Result<(), Failure> {
    let postgres = context.postgres().await?;
    let deployment = context.launch(Launch::new().set("DATABASE_URL", postgres.url().await?)).await?;
    let conversation = deployment.conversation(context).await?;
    let seen = waiting(&deployment, &conversation).await?;
    let last = seen.last().map(|event| event.id.clone()).unwrap_or_default();
    let mut reader = deployment.api.follow_stream(&conversation.path("/stream"), &last).await?;
    let room = deployment.only_room().await?;
    postgres.stop().await?;
    database_is(&deployment, "unhealthy").await?;
    deployment.api.get("/health/ready").await?.expect_error(503, "SERVICE_UNAVAILABLE")?;
    let refused = deployment.api.get(&conversation.path("")).await?;
    refused.expect_error(503, "SERVICE_UNAVAILABLE")?;
    check(refused.header("retry-after").is_some(), "503 without Retry-After")?;
    room.shell("touch /workspace/go").await?;
    // The run continues meanwhile, and so does its reader.
    reader.until("tool_result").await?;
    drop(reader);
    postgres.restart().await?;
    database_is(&deployment, "healthy").await?;
    deployment.ready(HEALED_LIMIT).await?;
    let done = whole(&deployment, &conversation, seen).await?;
    check_eq(format!("status in done: {done}"), done["status"].as_str(), Some("success"))?;
    let complete = eventually(HEALED_LIMIT, "all messages of the run", async || {
        let messages = deployment.api.get(&conversation.path("/messages")).await?.expect(200)?.json()?;
        let kinds: Vec<&str> =
            messages.as_array().into_iter().flatten().filter_map(|m| m["message_type"].as_str()).collect();
        let expected = ["user", "assistant", "tool_call", "tool_result", "assistant", "done"];
        check_eq("messages", kinds.as_slice(), expected.as_slice())?;
        Ok::<Value, Failure>(messages.clone())
    });
    check(complete.await?.to_string().contains("went on"), "the tool's result is not among the messages")?;
    let account = deployment.api.get(&conversation.path("")).await?.expect(200)?.json()?;
    check_eq("total_output_tokens", account["total_output_tokens"].as_u64(), done["usage"]["output_tokens"].as_u64())?;
    deployment.run_well(&conversation, "@say after").await.map(drop)
}

/// Locks every table exclusively for so many seconds.
fn lock_all(seconds: u64) -> String {
    format!(
        "DO $$ DECLARE one record; BEGIN FOR one IN SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN \
         ('pg_catalog', 'information_schema') LOOP EXECUTE format('LOCK TABLE %I.%I IN ACCESS EXCLUSIVE MODE', one.schemaname, \
         one.tablename); END LOOP; PERFORM pg_sleep({seconds}); END $$"
    )
}

async fn locked(context: &Context) -> Result<(), Failure> {
    let postgres = context.postgres().await?;
    let run = &context.run.id;
    let deployment = context.launch(Launch::new().set("DATABASE_URL", postgres.url().await?)).await?;
    let conversation = deployment.conversation(context).await?;
    deployment.run_well(&conversation, "@say before").await?;
    let statement = lock_all(LOCKED.as_secs());
    let holds = async { postgres.sql(run, &statement, LOCKED + HEALED_LIMIT).await.map(drop) };
    let meanwhile = async {
        let count = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted";
        eventually(HEALED_LIMIT, "locked tables", async || {
            let locks = postgres.sql(run, count, HEALED_LIMIT).await?;
            check(locks.trim().parse::<u32>().is_ok_and(|locks| locks > 0), locks)
        })
        .await?;
        // Reads and writes: a response once the lock is released, or one with Retry-After.
        let tenant = json!({"tenant_id": context.unique("tenant"), "model_id": conversation.model});
        let path = conversation.path("");
        let (read, written) = tokio::join!(deployment.api.get(&path), deployment.api.post("/api/tenants", &tenant));
        for (reply, well) in [(read?, 200), (written?, 201)] {
            if reply.status != well {
                reply.expect_error(503, "SERVICE_UNAVAILABLE")?;
                check(reply.header("retry-after").is_some(), "503 without Retry-After")?;
            }
        }
        deployment.api.get("/health/live").await?.expect(200)?;
        deployment.api.get("/health").await?.expect(200).map(drop)
    };
    tokio::try_join!(holds, meanwhile)?;
    database_is(&deployment, "healthy").await?;
    deployment.run_well(&conversation, "@say after").await?;
    let messages = deployment.api.get(&conversation.path("/messages")).await?.expect(200)?.text();
    check(messages.contains("before") && messages.contains("after"), format!("messages of both runs: {messages}"))
}

async fn migrated_twice(context: &Context) -> Result<(), Failure> {
    let postgres = context.postgres().await?;
    let url = postgres.url().await?;
    let launch = || context.launch(Launch::new().without_model().set("DATABASE_URL", &url));
    let (first, second, third) = tokio::try_join!(launch(), launch(), launch())?;
    let made = first.conversation(context).await?;
    for other in [&second, &third] {
        let seen = other.api.get(&made.path("")).await?.expect(200)?.json()?;
        check_eq(
            "the conversation by way of another server",
            seen["conversation_id"].as_str(),
            Some(made.id.as_str()),
        )?;
    }
    let tables = "SELECT string_agg(table_name || '.' || column_name, ',' ORDER BY table_name, column_name) \
                  FROM information_schema.columns WHERE table_schema = 'public'";
    let schema = async || postgres.sql(&context.run.id, tables, HEALED_LIMIT).await;
    let before = schema().await?;
    check(before.matches(',').count() > 10, format!("a schema of {before:?}"))?;
    for mut server in [first, second] {
        server.stop().await?;
        server.restart(context).await?;
        server.api.get(&made.path("")).await?.expect(200)?;
    }
    check_eq("the schema after two more starts", schema().await?, before)
}
