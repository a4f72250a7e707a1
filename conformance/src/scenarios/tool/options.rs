//! How the agent works on a run, as its request or its configurations say.

use serde_json::{Value, json};

use crate::client::stream::RunEvent;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::target::deployment::{Conversation, Deployment};
use crate::target::fixtures::ModelRequest;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "TOOL-030",
        "Directory, environment and instructions of a run hold for that run, and the conversation goes on without them",
        "per run: appended system prompt, directory, environment for tools",
        body!(surroundings),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "TOOL-031",
        "A run with a schema ends with a result that keeps to it, or with an error that says it does not",
        "per run: JSON Schema → structured_output in done; valid and not",
        body!(structured),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "TOOL-032",
        "A run that costs more than it may is stopped and says so; the next run is not charged for it",
        "per run: max cost",
        body!(costly),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "TOOL-033",
        "Another model answers where the run's is overloaded, at its own price, with the effort that was asked for",
        "per run: model, fallbacks, effort",
        body!(fallback),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "TOOL-034",
        "Options beyond what the levels above allow are refused with place and reason, and no run begins",
        "within the resolver's bounds; out of range 422 with place and reason",
        body!(refused),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[Capability::Launch])
    .limit(60),
    Scenario::new(
        "TOOL-035",
        "System prompt and instructions of all levels reach the model whole, also where they are longer than 128 KiB",
        "instructions of all levels together may be longer than one argument of a program (MAX_ARG_STRLEN)",
        body!(long),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
];

async fn run(
    deployment: &Deployment,
    conversation: &Conversation,
    prompt: &str,
    configuration: &Value,
) -> Result<Vec<RunEvent>, Failure> {
    let body = json!({"user_input": prompt, "configuration": configuration});
    deployment.api.open_stream(&conversation.path("/stream"), &body).await?.finish().await
}

fn done(events: &[RunEvent]) -> Value {
    events.last().map(|done| done.data.clone()).unwrap_or_default()
}

fn result(events: &[RunEvent]) -> String {
    done(events)["result"].as_str().unwrap_or_default().to_owned()
}

/// The `error_type` of each error.
fn errors(events: &[RunEvent]) -> Vec<&str> {
    events.iter().filter(|event| event.name == "error").map(|event| event.text("error_type")).collect()
}

/// What the run's tools have printed.
fn printed(events: &[RunEvent]) -> String {
    events.iter().filter(|event| event.name == "tool_result").map(|event| event.text("content")).collect()
}

fn shell(command: &str) -> String {
    format!("@tool Bash {}\n@say done", json!({"command": command, "description": "Do it"}))
}

async fn surroundings(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let word = context.unique("word");
    let show = "pwd; echo \"mine: $MY_VARIABLE\"; echo \"proxy: $HTTP_PROXY\"";
    let plain = deployment.run_well(&conversation, &shell(&format!("mkdir -p sub/dir; {show}"))).await?;
    check(printed(&plain).starts_with("/workspace\nmine: \nproxy: http://127.0.0.1"), printed(&plain))?;
    let own = json!({"agent": {"directory": "sub/dir", "environment": {"MY_VARIABLE": "of the run"}}});
    let events = run(&deployment, &conversation, &shell(show), &own).await?;
    check_eq("status", done(&events)["status"].as_str(), Some("success"))?;
    let shown = printed(&events);
    check(
        shown.starts_with("/workspace/sub/dir\nmine: of the run\nproxy: http://127.0.0.1"),
        format!("what the tool sees: {shown}"),
    )?;
    let instructed = json!({"agent": {"instructions": format!("Think of {word}.")}});
    let events = run(&deployment, &conversation, &format!("@recall {word}"), &instructed).await?;
    check_eq("what the model was sent", result(&events), format!("{word}: remembered"))?;
    // The next run is none of these, and the driver that continues the session knows what was said.
    let after = deployment.run_well(&conversation, &shell(show)).await?;
    check(printed(&after).starts_with("/workspace\nmine: \n"), format!("what the next run sees: {}", printed(&after)))?;
    let events = deployment.run_well(&conversation, "@recall MY_VARIABLE").await?;
    check_eq("what the model was sent of earlier runs", result(&events).as_str(), "MY_VARIABLE: remembered")?;
    let nowhere = json!({"agent": {"directory": "not/there"}});
    let events = run(&deployment, &conversation, "@say no", &nowhere).await?;
    check_eq("errors of a run in a directory that does not exist", errors(&events), vec!["options_error"])?;
    deployment.run_well(&conversation, "@say and on we go").await.map(drop)
}

/// A text of so many characters, of two bytes each but for its words: one at its beginning, one in its middle, one at its end.
fn long_text(words: &[String], characters: usize) -> String {
    let left = characters - words.iter().map(|word| word.len() + 1).sum::<usize>() - 1;
    let (one, other) = ("\u{e9}".repeat(left / 2), "\u{e9}".repeat(left - left / 2));
    format!("{} {one} {} {other} {}", words[0], words[1], words[2])
}

async fn long(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let tenant = format!("/api/tenants/{}", conversation.tenant);
    let words = |level: &str| ["begins", "middle", "ends"].map(|place| context.unique(&format!("{level}-{place}")));
    let prompt = words("tenant");
    let mut all = prompt.to_vec();
    let instructions = |words: &[String]| json!({"agent": {"instructions": long_text(words, 32_768)}});
    let system_prompt = json!({"system_prompt": long_text(&prompt, 100_000)});
    deployment.api.put(&tenant, &system_prompt).await?.expect(200)?;
    for (level, of) in [("every", tenant.clone()), ("conversation", conversation.path(""))] {
        let words = words(level);
        let configuration = json!({"version": 0, "configuration": instructions(&words)});
        all.extend(words);
        deployment.api.put(&format!("{of}/configuration"), &configuration).await?.expect(200)?;
    }
    // The second run's driver continues the session of the first one's.
    for round in ["first", "second"] {
        let words = words(round);
        let configuration = instructions(&words);
        all.extend(words);
        let recall = |words: &[String]| words.iter().map(|word| format!("@recall {word}\n")).collect::<String>();
        // What was asked in the first run is in the conversation, so the second one asks for its own.
        let asked = if round == "first" { all.clone() } else { all[all.len() - 3..].to_vec() };
        let events = run(&deployment, &conversation, &recall(&asked), &configuration).await?;
        check_eq(
            format!("status of the {round} run: {}", done(&events)),
            done(&events)["status"].as_str(),
            Some("success"),
        )?;
        let said: String =
            events.iter().filter(|event| event.name == "text_delta").map(|event| event.text("text")).collect();
        for word in &asked {
            check(
                said.contains(&format!("{word}: remembered")),
                format!("the {round} run's model was not sent {word}"),
            )?;
        }
        let requests = deployment.model()?.requests().await?;
        let last = requests.iter().rev().find(|request| request.has_tools()).map_or(0, ModelRequest::bytes);
        check(last > 2 * (100_000 + 3 * 32_768) - 1_000, format!("the {round} run's request has only {last} bytes"))?;
    }
    Ok(())
}

async fn structured(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": false});
    let asks = json!({"agent": {"output_schema": schema}});
    let events = run(&deployment, &conversation, "@tool StructuredOutput {\"n\": 3}\n@say done", &asks).await?;
    check_eq("status", done(&events)["status"].as_str(), Some("success"))?;
    check_eq("structured_output in done", &done(&events)["structured_output"], &json!({"n": 3}))?;
    let stored = deployment.api.get(&conversation.path("/messages")).await?.expect(200)?.text();
    check(!stored.is_empty(), "no messages")?;
    for prompt in ["@say 3", "@tool StructuredOutput {\"n\": \"three\"}\n@say three"] {
        let events = run(&deployment, &conversation, prompt, &asks).await?;
        check_eq("errors of a run whose model does not keep to the schema", errors(&events), vec!["output_invalid"])?;
        check_eq("status", done(&events)["status"].as_str(), Some("error"))?;
        check(done(&events).get("structured_output").is_none(), "structured_output of a result that is none")?;
    }
    let events = run(
        &deployment,
        &conversation,
        "@say no",
        &json!({"agent": {"output_schema": {"type": "object", "required": 3}}}),
    )
    .await?;
    check_eq("errors of a run whose schema is none", errors(&events), vec!["options_error"])?;
    let plain = deployment.run_well(&conversation, "@say plain").await?;
    check(done(&plain).get("structured_output").is_none(), "structured_output without a schema")
}

async fn costly(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let word = context.unique("word");
    let slow = format!("@say I know {word}.\n{}", shell("echo next").repeat(3).replace("@say done", "\n@say more\n"));
    let endless = format!("@delay 100\n{slow}@repeat 400 and so on, ");
    let limit = json!({"limits": {"max_cost_usd": "0.0001"}});
    let events = run(&deployment, &conversation, &endless, &limit).await?;
    check_eq("errors", errors(&events), vec!["cost_limit"])?;
    check_eq("status", done(&events)["status"].as_str(), Some("error"))?;
    let message = events.iter().find(|event| event.name == "error").map_or("", |event| event.text("message"));
    check(message.contains("limits.max_cost_usd") && message.contains("0.0001"), format!("message: {message}"))?;
    check(done(&events)["cost_usd"] != "0", format!("what it has cost: {}", done(&events)))?;
    let more = json!({"limits": {"max_cost_usd": "9000"}});
    let events = run(&deployment, &conversation, "@say cheap", &more).await?;
    check_eq("errors of a run within its limit", errors(&events), Vec::<&str>::new())?;
    check_eq("status", done(&events)["status"].as_str(), Some("success"))
}

async fn fallback(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let other = context.unique("other");
    let free = json!({"model_id": other, "display_name": "Other", "bedrock_model_id": "anthropic.claude-opus-4-6-v1",
        "model_region": "us-east-1", "context_window": 200_000, "max_output_tokens": 8192, "input_token_price": "0",
        "output_token_price": "0"});
    deployment.api.post("/api/models", &free).await?.expect(201)?;
    let listed = json!({"version": 0, "configuration": {"models": {"allowed": [conversation.model, other]}}});
    deployment.api.put(&conversation.path("/configuration"), &listed).await?.expect(200)?;
    let prompt = "@overloaded sonnet\n@say in its place";
    let stands_in = json!({"agent": {"fallback_models": [other], "effort": "low"}});
    let events = run(&deployment, &conversation, prompt, &stands_in).await?;
    check_eq("status", done(&events)["status"].as_str(), Some("success"))?;
    check_eq("result", result(&events).as_str(), "in its place")?;
    let told = |event: &&RunEvent| {
        event.text("type") == "retry" && event.text("message").contains(&format!("{other} answers"))
    };
    check_eq("events that say which model answers", events.iter().filter(told).count(), 1)?;
    check_eq("cost of an answer that is free", done(&events)["cost_usd"].as_str(), Some("0"))?;
    let asked = deployment.model()?.requests().await?;
    let last = asked.last().ok_or_else(|| Failure::assertion("no request"))?;
    check_eq("the model that was asked last", last.model(), Some("anthropic.claude-opus-4-6-v1"))?;
    check_eq("effort of the request", last.effort(), Some("low"))?;
    let events = run(&deployment, &conversation, prompt, &json!({})).await?;
    check_eq("errors without a model that stands in", errors(&events), vec!["model_error"])
}

async fn refused(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation_without_model(context).await?;
    let bounds =
        json!({"version": 0, "configuration": {"agent": {"effort": "medium"}, "limits": {"max_cost_usd": "1.50"}}});
    deployment.api.put(&format!("/api/tenants/{}/configuration", conversation.tenant), &bounds).await?.expect(200)?;
    let variable = |name: &str| json!({"agent": {"environment": {name: "x"}}});
    let long = "x".repeat(40_000);
    for (configuration, place) in [
        (json!({"agent": {"effort": "high"}}), "agent.effort"),
        (json!({"agent": {"fallback_models": ["no-such-model"]}}), "agent.fallback_models[0]"),
        (json!({"agent": {"instructions": long}}), "agent.instructions"),
        (json!({"agent": {"output_schema": {"type": "array"}}}), "agent.output_schema"),
        (json!({"agent": {"directory": "../etc"}}), "agent.directory"),
        (json!({"agent": {"directory": "/etc"}}), "agent.directory"),
        (variable("HTTPS_PROXY"), "agent.environment.HTTPS_PROXY"),
        (variable("ANTHROPIC_BASE_URL"), "agent.environment.ANTHROPIC_BASE_URL"),
        (variable("LD_PRELOAD"), "agent.environment.LD_PRELOAD"),
        (variable("GITHUB_TOKEN"), "agent.environment.GITHUB_TOKEN"),
        (json!({"limits": {"max_cost_usd": "1.51"}}), "limits.max_cost_usd"),
    ] {
        let body = json!({"user_input": "@say no", "configuration": configuration});
        for route in ["/stream", "/messages"] {
            let reply = deployment.api.post(&conversation.path(route), &body).await?;
            check_eq(format!("status of POST {route} with {place}"), reply.status.as_u16(), 422)?;
            let fields = reply.json()?["error"]["details"].to_string();
            check(fields.contains(place), format!("the answer does not name {place}: {}", reply.text()))?;
        }
    }
    // What is as much as the level above allows is not beyond it.
    let most = json!({"agent": {"effort": "medium", "directory": "../etc"}, "limits": {"max_cost_usd": "1.50"}});
    let body = json!({"user_input": "@say no", "configuration": most});
    let reply = deployment.api.post(&conversation.path("/messages"), &body).await?.expect(422)?.json()?;
    let told = (reply["error"]["details"].as_array().map(Vec::len), &reply["error"]["details"][0]["field"]);
    check_eq(format!("problems in {reply}"), told, (Some(1), &json!("agent.directory")))?;
    for malformed in [
        json!({"agent": {"effort": "huge"}}),
        json!({"limits": {"max_cost_usd": "-1"}}),
        json!({"agent": {"color": 1}}),
    ] {
        let body = json!({"user_input": "@say no", "configuration": malformed});
        deployment.api.post(&conversation.path("/messages"), &body).await?.expect(422)?;
    }
    let effective = deployment.api.get(&conversation.path("/effective")).await?.expect(200)?.json()?;
    check_eq("effective effort", &effective["agent"]["effort"], &json!({"value": "medium", "from": "tenant"}))?;
    check_eq("effective cost", &effective["max_cost_usd"], &json!({"value": "1.50", "from": "tenant"}))?;
    distant_models(context).await
}

/// The driver asks all models at one place, so that one of another region cannot stand in for the run's.
async fn distant_models(context: &Context) -> Result<(), Failure> {
    let hosts = ["us-east-1", "eu-west-1"].map(|region| format!("bedrock-runtime.{region}.amazonaws.com"));
    let launch = Launch::new().without_model().without_waiting().set("PROXY_ALLOWED_DOMAINS", hosts.join(","));
    let deployment = context.launch(launch).await?;
    let conversation = deployment.conversation(context).await?;
    for (id, region) in [("near", "us-east-1"), ("distant", "eu-west-1")] {
        let model = json!({"model_id": id, "display_name": id, "bedrock_model_id": "conformance.none-v1:0", "model_region": region,
            "context_window": 1, "max_output_tokens": 1, "input_token_price": "0", "output_token_price": "0"});
        deployment.api.post("/api/models", &model).await?.expect(201)?;
    }
    let allowed = json!({"models": {"allowed": [conversation.model, "near", "distant"]}});
    let configuration = json!({"version": 0, "configuration": allowed});
    deployment.api.put(&conversation.path("/configuration"), &configuration).await?.expect(200)?;
    let body = json!({"user_input": "@say no", "configuration": {"agent": {"fallback_models": ["near", "distant"]}}});
    let reply = deployment.api.post(&conversation.path("/messages"), &body).await?.expect(422)?;
    check(reply.text().contains("agent.fallback_models[1]"), format!("a model of another region: {}", reply.text()))
}
