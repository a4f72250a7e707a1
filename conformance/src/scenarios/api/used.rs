//! What runs have used, everywhere where it is told: to the run's readers, of the conversation, of the tenant, in the trail and the metrics.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::client::stream::RunEvent;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "API-028",
    "What each run has used is the same in done, its conversation, the tenant's usage, the trail and the metrics",
    "usage by day and model; totals of the conversation; run_started, run_ended; one run more of its status",
    body!(everywhere),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(RUN)
.limit(120)];

const TOKENS: [&str; 5] =
    ["input_tokens", "output_tokens", "cache_creation_5m_tokens", "cache_creation_1h_tokens", "cache_read_tokens"];

/// A run that has ended.
struct Ended<'a> {
    of: &'a Conversation,
    model: String,
    /// What the client calls the user.
    user: Option<&'static str>,
    request_id: String,
    events: Vec<RunEvent>,
}

impl Ended<'_> {
    fn done(&self) -> Result<&RunEvent, Failure> {
        self.events.last().ok_or_else(|| Failure::assertion("a run without an event"))
    }

    fn id(&self) -> &str {
        self.events.first().and_then(|event| event.id.rsplit_once(':')).map_or("", |(run, _)| run)
    }

    fn tokens(&self, field: &str) -> Result<u64, Failure> {
        let done = self.done()?;
        done.data["usage"][field].as_u64().ok_or_else(|| Failure::assertion(format!("{field} in {}", done.data)))
    }

    /// All that went to the model.
    fn input(&self) -> Result<u64, Failure> {
        Ok(self.tokens("total_tokens")? - self.tokens("output_tokens")?)
    }
}

/// A decimal number in units of 1e-15.
fn exactly(decimal: &str) -> Result<i128, Failure> {
    let (whole, part) = decimal.split_once('.').unwrap_or((decimal, ""));
    let digits = format!("{whole}{part:0<15}");
    let fits = part.len() <= 15 && !whole.is_empty();
    digits.parse().ok().filter(|_| fits).ok_or_else(|| Failure::assertion(format!("{decimal:?} is no exact amount")))
}

/// Begins a run with these further fields, and reads it to its end; one that is to be cancelled is, once it works.
async fn run<'a>(
    deployment: &Deployment,
    of: &'a Conversation,
    prompt: &str,
    further: &Value,
    model: &str,
) -> Result<Ended<'a>, Failure> {
    let mut body = json!({"user_input": prompt});
    for (name, value) in further.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    let mut stream = deployment.api.open_stream(&of.path("/stream"), &body).await?;
    let request_id = stream.headers.get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
    if prompt.contains("tail -f") {
        stream.until("tool_call").await?;
        deployment.api.post(&of.path("/cancel"), &json!({})).await?.expect(202)?;
    }
    let user = further.get("executor").map(|_| "ada");
    Ok(Ended { of, model: model.to_owned(), user, request_id, events: stream.finish().await? })
}

/// The tenant's usage must be the sum of these runs, whole.
async fn usage(deployment: &Deployment, tenant: &str, runs: &[Ended<'_>], when: &str) -> Result<(), Failure> {
    let mut sums: BTreeMap<(String, String), (u64, [u64; 5], i128)> = BTreeMap::new();
    for run in runs.iter().filter(|run| run.of.tenant == tenant) {
        let began = run.events.first().map(|event| event.text("timestamp").to_owned()).unwrap_or_default();
        let day = began.split('T').next().unwrap_or_default().to_owned();
        let (count, tokens, cost) = sums.entry((day, run.model.clone())).or_default();
        *count += 1;
        for (sum, field) in tokens.iter_mut().zip(TOKENS) {
            *sum += run.tokens(field)?;
        }
        *cost += exactly(run.done()?.text("cost_usd"))?;
    }
    let shown = deployment.api.get(&format!("/api/tenants/{tenant}/usage")).await?.expect(200)?.json()?;
    let mut rows = Vec::new();
    for row in shown.as_array().into_iter().flatten() {
        let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
        let number = |field: &str| row[field].as_u64().unwrap_or(u64::MAX);
        rows.push(((text("day"), text("model_id")), (number("runs"), TOKENS.map(number), exactly(&text("cost_usd"))?)));
    }
    check_eq(format!("usage of {tenant} {when}"), rows, sums.into_iter().collect::<Vec<_>>())
}

async fn totals(deployment: &Deployment, of: &Conversation, runs: &[Ended<'_>]) -> Result<(), Failure> {
    let own: Vec<&Ended<'_>> = runs.iter().filter(|run| run.of.id == of.id).collect();
    let now = deployment.api.get(&of.path("")).await?.expect(200)?.json()?;
    let (mut expected, mut input, mut output) = (of.created.clone(), 0, 0);
    for run in &own {
        (input, output) = (input + run.input()?, output + run.tokens("output_tokens")?);
        if let Some(status) = run.events.iter().rfind(|event| event.name == "context_status") {
            expected["estimated_context_tokens"] = status.data["current_context_tokens"].clone();
        }
        if let Some(title) = run.events.iter().find(|event| event.name == "title") {
            expected["title"] = title.data["title"].clone();
        }
        if let Some(session) = run.done()?.data["session_id"].as_str() {
            expected["session_id"] = json!(session);
        }
    }
    (expected["total_input_tokens"], expected["total_output_tokens"]) = (json!(input), json!(output));
    let updated = now["updated_at"].as_str().unwrap_or_default().to_owned();
    check(updated.as_str() > of.created["updated_at"].as_str().unwrap_or_default(), format!("updated_at of {now}"))?;
    expected["updated_at"] = json!(updated);
    check_eq("the conversation after its runs", now, expected)
}

/// The trail has the beginning and the end of each run, whole.
fn recorded(path: &Path, runs: &[Ended<'_>]) -> Result<(), Failure> {
    let text = std::fs::read_to_string(path)?;
    let mut lines =
        text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>().map_err(Failure::assertion)?;
    lines.retain(|line| matches!(line["event"].as_str(), Some("run_started" | "run_ended")));
    check_eq("beginnings and ends in the trail", lines.len(), 2 * runs.len())?;
    for run in runs {
        let done = &run.done()?.data;
        let mut own = lines.iter().filter(|line| line["run"] == run.id());
        let (Some(started), Some(ended), None) = (own.next(), own.next(), own.next()) else {
            return Err(Failure::assertion(format!("not two lines of the run {} in the trail: {text}", run.id())));
        };
        check_eq("workspace of a run that begins", &started["workspace"], &Value::Null)?;
        let base =
            json!({"conversation": run.of.id, "tenant": run.of.tenant, "run": run.id(), "request_id": run.request_id});
        let mut expected = base.clone();
        for (field, value) in [
            ("event", json!("run_started")),
            ("user", json!(run.user)),
            ("model", json!(run.model)),
            ("workspace", Value::Null),
            ("timestamp", started["timestamp"].clone()),
        ] {
            expected[field] = value;
        }
        check_eq("the beginning of a run in the trail", started, &expected)?;
        let mut expected = base;
        for field in TOKENS {
            expected[field] = done["usage"][field].clone();
        }
        for (field, value) in [
            ("event", json!("run_ended")),
            ("input_tokens", json!(run.input()?)),
            ("cost_usd", done["cost_usd"].clone()),
            ("status", done["status"].clone()),
            ("duration_ms", ended["duration_ms"].clone()),
            ("workspace", ended["workspace"].clone()),
            ("timestamp", ended["timestamp"].clone()),
        ] {
            expected[field] = value;
        }
        check_eq("the end of a run in the trail", ended, &expected)?;
        check(ended["workspace"].is_string(), format!("the workspace of a run that has ended: {ended}"))?;
        let (took, told) = (ended["duration_ms"].as_u64(), done["duration_ms"].as_u64());
        check(told.is_some() && took >= told, format!("a run took {took:?} ms, and told its readers {told:?}"))?;
    }
    Ok(())
}

async fn everywhere(context: &Context) -> Result<(), Failure> {
    let trail = context.dir().join("trail.jsonl");
    let mut deployment = context.launch(Launch::new().set("AUDIT_LOG", trail.display())).await?;
    let first = deployment.conversation(context).await?;
    let (tenant, model) = (first.tenant.clone(), first.model.clone());
    let second = deployment.another_conversation(context, &tenant, &model).await?;
    let theirs = deployment.conversation(context).await?;
    let other = context.unique("other");
    let dear = json!({"model_id": other, "display_name": "Dear", "bedrock_model_id": "anthropic.claude-opus-4-6-v1",
        "model_region": "us-east-1", "context_window": 100_000, "max_output_tokens": 8192, "input_token_price": "0.5",
        "output_token_price": "2.5"});
    deployment.api.post("/api/models", &dear).await?.expect(201)?;
    let listed = json!({"version": 0, "configuration": {"models": {"allowed": [model, other]}}});
    deployment.api.put(&second.path("/configuration"), &listed).await?.expect(200)?;
    usage(&deployment, &tenant, &[], "before any run").await?;
    let (plain, by_ada) =
        (json!({}), json!({"executor": {"user_id": "ada", "name": "Ada", "email": "ada@example.test"}}));
    let chosen = json!({"configuration": {"models": {"default": other}}});
    let wait = "@tool Bash {\"command\": \"tail -f /dev/null\", \"description\": \"Wait\"}\n@say never";
    let twice = "@tool Bash {\"command\": \"true\", \"description\": \"Work\"}\n@say Done.";
    let runs = vec![
        run(&deployment, &first, "@say One.", &plain, &model).await?,
        run(&deployment, &first, twice, &by_ada, &model).await?,
        run(&deployment, &first, "@status 400", &plain, &model).await?,
        run(&deployment, &second, "@say Three, at another price.", &chosen, &other).await?,
        run(&deployment, &second, "@say Four.", &plain, &model).await?,
        run(&deployment, &second, wait, &plain, &model).await?,
        run(&deployment, &theirs, "@say Theirs.", &plain, &theirs.model).await?,
    ];
    let statuses: Vec<_> =
        runs.iter().map(|run| run.done().map(|done| done.text("status").to_owned())).collect::<Result<_, _>>()?;
    check_eq(
        "ends",
        statuses,
        ["success", "success", "error", "success", "success", "cancelled", "success"].map(str::to_owned).to_vec(),
    )?;
    for tenant in [&tenant, &theirs.tenant] {
        usage(&deployment, tenant, &runs, "after all runs").await?;
    }
    for conversation in [&first, &second, &theirs] {
        totals(&deployment, conversation, &runs).await?;
    }
    for run in &runs {
        let entries = deployment.api.get(&run.of.path("/log?limit=1000")).await?.expect(200)?.json()?;
        let user =
            entries["entries"].as_array().into_iter().flatten().find(|one| one["id"] == format!("{}:0", run.id()));
        let data = user.map(|user| user["data"].clone()).unwrap_or_default();
        let told = (&data["model_id"], &data["request_id"]);
        check_eq(format!("model and request of {data} in the log"), told, (&json!(run.model), &json!(run.request_id)))?;
    }
    let page = deployment.api.metrics().await?;
    for (status, count) in [("success", 5.0), ("error", 1.0), ("cancelled", 1.0), ("timeout", 0.0)] {
        let counted = page.get("workspace_requests_total", &[("status", status)]);
        check_eq(format!("runs that were counted as {status}"), counted, Some(count))?;
    }
    recorded(&trail, &runs)?;
    deployment.api.delete(&second.path("")).await?.expect(204)?;
    usage(&deployment, &tenant, &runs, "without the second conversation").await?;
    deployment.stop().await?;
    deployment.restart(context).await?;
    deployment.api.delete(&first.path("")).await?.expect(204)?;
    for tenant in [&tenant, &theirs.tenant] {
        usage(&deployment, tenant, &runs, "after a restart, without the tenant's conversations").await?;
    }
    Ok(())
}
