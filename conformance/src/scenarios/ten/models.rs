//! What a workspace may ask of models: those of its conversation, listed operations, and no tools that the provider carries out.

use bytes::Bytes;
use serde_json::json;

use super::world::{Party, World, write};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::files::upload;
use crate::scenarios::common::outside::bedrock;
use crate::target::launch::REGION;

const NEEDS_MODEL: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Origin, Capability::Model];
/// The model of the suite's conversations, as it stands in a path.
const MODEL: &str = "anthropic.claude-sonnet-4-20250514-v1%3A0";

/// Another model of the deployment, as its provider names it.
const OTHER: &str = "anthropic.claude-opus-4-20250514-v1:0";

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "TEN-030",
        "Code in a workspace asks no other model, operation or tool of the provider, and nothing between runs",
        "the model must be one of the conversation's set; operations are an exact list; server-side tools refused",
        body!(own_requests),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS_MODEL)
    .limit(90),
    Scenario::new(
        "TEN-080",
        "A workspace asks its conversation's model and those its configuration lists, also after a change",
        "the model must be one of the conversation's set; a change holds for the next request of an open workspace",
        body!(own_models),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS_MODEL)
    .limit(90),
];

/// A request of the workspace's own: host and path, body, and whether it is passed on.
struct Own(&'static str, String, &'static str, bool);

fn own() -> Vec<Own> {
    let plain = r#"{"anthropic_version":"bedrock-2023-05-31","max_tokens":10,"messages":[{"role":"user","content":"@say hi"}]}"#;
    let with = |more: &str| plain.replacen('{', &format!("{{{more},"), 1);
    let invoke = "/model/MODEL/invoke";
    vec![
        Own("POST", plain.into(), invoke, true),
        Own("POST", plain.into(), "/model/anthropic.claude-opus-4-20250514-v1%3A0/invoke", false),
        Own("POST", plain.into(), "/model/anthropic.claude-opus-4-20250514-v1:0/converse", false),
        Own("POST", plain.into(), "/model/MODEL/../anthropic.claude-opus-4-20250514-v1%3A0/invoke", false),
        Own("POST", plain.into(), "/model/MODEL%2f..%2fother/invoke", false),
        Own("POST", plain.into(), "/model/MODEL/invoke-with-bidirectional-stream", false),
        Own("POST", plain.into(), "/model/MODEL/invoke/", false),
        Own("PUT", plain.into(), invoke, false),
        Own("POST", plain.into(), "/async-invoke", false),
        Own("GET", String::new(), "/async-invoke", false),
        Own("DELETE", String::new(), "/custom-models/mine", false),
        Own("POST", with(r#""tools":[{"type":"web_search_20250305","name":"web_search"}]"#), invoke, false),
        Own("POST", with(r#""tools":[{"type":"code_execution_20250825","name":"code_execution"}]"#), invoke, false),
        Own("POST", with(r#""mcp_servers":[{"type":"url","url":"https://evil.test/","name":"e"}]"#), invoke, false),
        Own("POST", with(r#""\u0074ools":[{"type":"web_fetch_20250910","name":"web_fetch"}]"#), invoke, false),
        Own("POST", with(r#""tools":[],"tools":[{"type":"web_fetch_20250910","name":"web_fetch"}]"#), invoke, false),
        Own("POST", with(r#""tools":[{"name":"mine","input_schema":{"type":"object"}}]"#), invoke, true),
    ]
}

/// A program that makes the requests, and prints the status of each in a line.
fn program() -> String {
    let request = |Own(method, body, path, _): &Own| {
        let path = path.replace("MODEL", MODEL);
        let body = if body.is_empty() { String::new() } else { format!("--data-binary '{body}'") };
        format!(
            "curl -s -o /dev/null --path-as-is --max-time 10 -w '%{{http_code}}\\n' -X {method} -H 'Content-Type: application/json' {body} 'http://{}{path}'\n",
            bedrock()
        )
    };
    own().iter().map(request).collect()
}

async fn own_requests(context: &Context) -> Result<(), Failure> {
    let world = World::start(context, 1, |launch| launch).await?;
    let conversation = world.deployment.conversation(context).await?;
    upload(&world.deployment, &conversation, "ask.sh", Bytes::from(program())).await?.expect(204)?;
    let parties = world.settle(vec![conversation]).await?;
    let party = &parties[0];
    let command = json!({"command": "sh /workspace/ask.sh > /workspace/told", "description": "Ask"});
    world.deployment.run_well(&party.conversation, &format!("@tool Bash {command}\n@say asked")).await?;
    let told = party.room.shell("cat /workspace/told").await?.printed;
    let statuses: Vec<&str> = told.lines().collect();
    check_eq(format!("number of answers in {told:?}"), statuses.len(), own().len())?;
    for (Own(method, body, path, passed), status) in own().iter().zip(statuses) {
        let as_expected = if *passed { status == "200" } else { matches!(status, "400" | "403" | "404") };
        check(as_expected, format!("{method} {path} with {body:?} during a run was answered with {status}"))?;
    }
    let asked = world.deployment.model()?.requests().await?;
    let paths = asked.iter().map(|request| request.0["path"].as_str().unwrap_or_default());
    let others: Vec<_> = paths.filter(|path| !path.contains("sonnet")).collect();
    check(others.is_empty(), format!("requests that had to be refused reached the model: {others:?}"))?;
    // The same between runs: not even what is allowed during one.
    let before = asked.len();
    let idle = party.room.shell("sh /workspace/ask.sh").await?.printed;
    check(
        idle.lines().all(|status| matches!(status, "400" | "403" | "404")),
        format!("statuses between runs: {idle:?}"),
    )?;
    check_eq("requests to the model after the run", world.deployment.model()?.requests().await?.len(), before)?;
    let explain = format!(
        "/api/tenants/{}/egress/explain?method=POST&run=false&url=http://{}/model/{MODEL}/invoke",
        party.conversation.tenant,
        bedrock()
    );
    let explained = world.deployment.api.get(&explain).await?.expect(200)?.json()?;
    check_eq(format!("reason in {explained}"), explained["reason"].as_str(), Some("no_run"))?;
    // It is asked by plain HTTP and sent by TLS.
    let explained = explain.replace("run=false", "run=true");
    let explained = world.deployment.api.get(&explained).await?.expect(200)?.json()?;
    check_eq(format!("port in {explained}"), explained["port"].as_u64(), Some(443))?;
    let control = format!("bedrock.{REGION}.amazonaws.com");
    let status = party.status(&format!("-X DELETE http://{control}/custom-models/mine")).await?;
    check_eq("status of a request to the control plane", status, 403)?;
    // A model that gets another name at its provider is asked by that name, also from a workspace that is open.
    let renamed = json!({"bedrock_model_id": "anthropic.claude-haiku-4-20250514-v1:0"});
    world.deployment.api.put(&format!("/api/models/{}", party.conversation.model), &renamed).await?.expect(200)?;
    world.deployment.run_well(&party.conversation, "@say renamed").await.map(|_| ())
}

/// What a run's own requests to the conversation's first model and to the other one are answered with.
async fn asked_in_run(world: &World, party: &Party) -> Result<[String; 2], Failure> {
    let command = json!({"command": "sh /workspace/both.sh > /workspace/told", "description": "Ask"});
    world.deployment.run_well(&party.conversation, &format!("@tool Bash {command}\n@say asked")).await?;
    let told = party.room.shell("cat /workspace/told").await?.printed;
    let statuses: Vec<String> = told.lines().map(ToOwned::to_owned).collect();
    statuses.try_into().map_err(|told: Vec<String>| {
        Failure::mismatch("what two requests were answered with", "two lines", told.join(" "))
    })
}

async fn own_models(context: &Context) -> Result<(), Failure> {
    let world = World::start(context, 1, |launch| launch).await?;
    let conversation = world.deployment.conversation(context).await?;
    // Another tenant's model belongs to the deployment all the same.
    let other = world.deployment.conversation_at(context, "bedrock", OTHER).await?.model;
    let body =
        r#"{"anthropic_version":"bedrock-2023-05-31","max_tokens":9,"messages":[{"role":"user","content":"@say hi"}]}"#;
    let ask = |model: &str| {
        let to = format!("http://{}/model/{model}/invoke", bedrock());
        format!("curl -s -o /dev/null --max-time 10 -w '%{{http_code}}\\n' --data-binary '{body}' '{to}'\n")
    };
    let both = ask(MODEL) + &ask(&OTHER.replace(':', "%3A"));
    upload(&world.deployment, &conversation, "both.sh", Bytes::from(both)).await?.expect(204)?;
    let parties = world.settle(vec![conversation]).await?;
    let (party, deployment) = (&parties[0], &world.deployment);
    let conversation = &party.conversation;
    let is = |what: &str, told: [String; 2], expected: [&str; 2]| {
        check_eq(format!("statuses for its own model and the other, {what}"), told, expected.map(ToOwned::to_owned))
    };
    is("without a configuration", asked_in_run(&world, party).await?, ["200", "403"])?;
    let effective = deployment.api.get(&conversation.path("/effective")).await?.expect(200)?.json()?;
    check_eq(
        format!("workspace_models in {effective}"),
        &effective["workspace_models"],
        &json!({"value": [conversation.model], "from": "conversation"}),
    )?;
    let chosen = json!({"user_input": "@say chosen", "configuration": {"models": {"default": other}}});
    let refused = deployment.api.post(&conversation.path("/stream"), &chosen).await?.expect(422)?.json()?;
    check_eq(format!("place in {refused}"), refused["error"]["details"][0]["field"].as_str(), Some("models.default"))?;

    let listed = json!({"models": {"allowed": [conversation.model, other]}});
    write(deployment, &conversation.path(""), &listed).await?.expect(200)?;
    is("which it lists", asked_in_run(&world, party).await?, ["200", "200"])?;
    let before = deployment.model()?.requests().await?.len();
    deployment.api.open_stream(&conversation.path("/stream"), &chosen).await?.finish().await?;
    let asked = deployment.model()?.requests().await?.split_off(before);
    check(
        !asked.is_empty() && asked.iter().all(|request| request.path().contains("opus")),
        format!("a run with the other model asked {asked:?}"),
    )?;

    write(deployment, &conversation.path(""), &json!({})).await?.expect(200)?;
    let model = json!({"model_id": other});
    let changed = deployment.api.put(&conversation.path(""), &model).await?.expect(200)?.json()?;
    check_eq(format!("the model in {changed}"), changed["model_id"].as_str(), Some(other.as_str()))?;
    is("after the change", asked_in_run(&world, party).await?, ["403", "200"])?;
    let unknown = json!({"model_id": context.unique("none")});
    deployment.api.put(&conversation.path(""), &unknown).await?.expect(404)?;
    let sleeping = deployment.start(conversation, "@tool Bash {\"command\": \"sleep 30\"}\n@say never").await?;
    let back = json!({"model_id": conversation.model});
    deployment.api.put(&conversation.path(""), &back).await?.expect_error(409, "RESOURCE_LOCKED")?;
    deployment.api.post(&conversation.path("/cancel"), &json!({})).await?.expect(202)?;
    sleeping.finish().await.map(|_| ())
}
