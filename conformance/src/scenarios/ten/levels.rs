//! What applies where levels meet, as a whole: each field at each level, with all others as they were.

use serde_json::{Value, json};

use super::world::write;
use crate::client::http::Api;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::outside::bedrock;
use crate::target::deployment::Deployment;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "TEN-016",
    "Each field of a configuration changes what applies in its own place alone, at either level, and back again",
    "each value with the level that decided it; an absent field leaves all as the level above has it",
    body!(each_field),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(&[Capability::Launch, Capability::Admin])
.limit(60)];

/// The size of a workspace directory, and the longest time of a run, as the operator has them.
pub(super) const DISK: u64 = 8 << 20;
const SECONDS: u64 = 300;

/// What a tenant and one of its conversations write, and what then differs in what applies to the tenant and to the conversation.
struct Case {
    tenants: Value,
    own: Value,
    to_tenant: Value,
    to_conversation: Value,
}

fn case(tenants: Value, own: Value, to_tenant: Value, to_conversation: Value) -> Case {
    Case { tenants, own, to_tenant, to_conversation }
}

fn from(level: &str, value: Value) -> Value {
    json!({"value": value, "from": level})
}

fn operators(value: Value) -> Value {
    from("operator", value)
}

fn tenants(value: Value) -> Value {
    from("tenant", value)
}

fn own(value: Value) -> Value {
    from("conversation", value)
}

/// What applies where nobody has written anything. `asked` are the models of a workspace.
fn plain(asked: Value) -> Value {
    json!({
        "models": operators(json!(["one", "three", "two"])), "workspace_models": asked, "default_model": tenants(json!("one")),
        "tools": operators(json!(null)), "provider_tools": operators(json!([])), "egress": [],
        "requests_per_second": operators(json!(null)), "bytes_per_second": operators(json!(null)), "vaults": operators(json!([])),
        "run_seconds": operators(json!(SECONDS)), "max_turns": operators(json!(null)), "max_cost_usd": operators(json!(null)),
        "image": operators(json!("default")), "disk": operators(json!(DISK)),
        "permissions": {"ask": operators(json!([])), "deny": operators(json!([])), "questions": operators(json!(false))},
        "mcp_servers": operators(json!({})), "skills": operators(json!([])),
        "agent": {"fallback_models": operators(json!([])), "effort": operators(json!(null)), "instructions": operators(json!(null)),
            "output_schema": operators(json!(null)), "directory": operators(json!(null)), "environment": operators(json!({}))},
    })
}

/// `base` with the values of `other`, which may be groups of values.
fn with(base: &Value, other: &Value) -> Value {
    let mut whole = base.clone();
    for (name, value) in other.as_object().into_iter().flatten() {
        let is_group = value.is_object() && value.get("from").is_none();
        whole[name] = if is_group { with(&base[name], value) } else { value.clone() };
    }
    whole
}

fn about_models() -> Vec<Case> {
    let two = json!(["one", "two"]);
    let listed = json!({"models": {"allowed": ["two", "one"]}});
    vec![
        case(
            json!({"models": {"allowed": ["two", "one"], "default": "two"}}),
            json!({}),
            json!({"models": tenants(two.clone()), "workspace_models": tenants(two.clone()), "default_model": tenants(json!("two"))}),
            json!({"models": tenants(two.clone()), "default_model": tenants(json!("two"))}),
        ),
        case(
            json!({"models": {"default": "three"}}),
            listed.clone(),
            json!({"default_model": tenants(json!("three"))}),
            json!({"models": own(two.clone()), "workspace_models": own(two.clone()), "default_model": own(json!(null))}),
        ),
        // A tenant whose own model is not among those that it allows has none by default.
        case(
            json!({"models": {"allowed": ["two"]}}),
            json!({}),
            json!({"models": tenants(json!(["two"])), "workspace_models": tenants(json!(["two"])), "default_model": tenants(json!(null))}),
            json!({"models": tenants(json!(["two"])), "workspace_models": own(json!([])), "default_model": tenants(json!(null))}),
        ),
        case(
            json!({"agent": {"fallback_models": ["two", "three"]}}),
            listed,
            json!({"agent": {"fallback_models": tenants(json!(["two", "three"]))}}),
            json!({"models": own(two.clone()), "workspace_models": own(two), "agent": {"fallback_models": tenants(json!(["two"]))}}),
        ),
        case(
            json!({"tools": {"allowed": ["Bash", "Read", "Write"], "provider": ["web_search", "web_fetch"]}}),
            json!({"tools": {"allowed": ["Write", "Bash"], "provider": ["web_fetch"]}}),
            json!({"tools": tenants(json!(["Bash", "Read", "Write"])), "provider_tools": tenants(json!(["web_search", "web_fetch"]))}),
            json!({"tools": own(json!(["Bash", "Write"])), "provider_tools": own(json!(["web_fetch"]))}),
        ),
        case(
            json!({"tools": {"allowed": ["Bash"]}}),
            json!({"tools": {"provider": ["web_search"]}}),
            json!({"tools": tenants(json!(["Bash"]))}),
            json!({"tools": tenants(json!(["Bash"])), "provider_tools": own(json!(["web_search"]))}),
        ),
        case(json!({}), json!({"tools": {"allowed": []}}), json!({}), json!({"tools": own(json!([]))})),
    ]
}

fn about_workspaces() -> Vec<Case> {
    let rule = json!([{"host": "a.example", "methods": ["GET"], "paths": ["/v1"]}]);
    let layer = |from: &str, allow: &Value, deny: &Value| json!({"from": from, "allow": allow, "deny": deny});
    let of_tenant = layer("tenant", &rule, &json!(["b.example"]));
    vec![
        case(
            json!({"egress": {"allow": rule, "deny": ["b.example"], "requests_per_second": 10, "bytes_per_second": 4096}}),
            json!({"egress": {"deny": ["a.example:80"], "requests_per_second": 5}}),
            json!({"egress": [of_tenant], "requests_per_second": tenants(json!(10)), "bytes_per_second": tenants(json!(4096))}),
            json!({"egress": [of_tenant, layer("conversation", &json!(null), &json!(["a.example:80"]))],
                "requests_per_second": own(json!(5)), "bytes_per_second": tenants(json!(4096))}),
        ),
        // Nobody gives more than the level above.
        case(
            json!({"egress": {"requests_per_second": 10, "bytes_per_second": 4096}, "limits": {"max_turns": 3}}),
            json!({"egress": {"requests_per_second": 11, "bytes_per_second": 4097}, "limits": {"max_turns": 4}}),
            json!({"requests_per_second": tenants(json!(10)), "bytes_per_second": tenants(json!(4096)), "max_turns": tenants(json!(3))}),
            json!({"requests_per_second": tenants(json!(10)), "bytes_per_second": tenants(json!(4096)), "max_turns": tenants(json!(3))}),
        ),
        case(
            json!({"limits": {"run_seconds": 200, "max_turns": 9, "max_cost_usd": "2.50"}}),
            json!({"limits": {"run_seconds": 100, "max_turns": 8, "max_cost_usd": "1.0"}}),
            json!({"run_seconds": tenants(json!(200)), "max_turns": tenants(json!(9)), "max_cost_usd": tenants(json!("2.50"))}),
            json!({"run_seconds": own(json!(100)), "max_turns": own(json!(8)), "max_cost_usd": own(json!("1.0"))}),
        ),
        // What is as much as above is decided above.
        case(
            json!({"limits": {"run_seconds": SECONDS, "max_turns": 9, "max_cost_usd": "2"}, "disk": DISK}),
            json!({"limits": {"max_turns": 9, "max_cost_usd": "2"}, "disk": DISK}),
            json!({"max_turns": tenants(json!(9)), "max_cost_usd": tenants(json!("2"))}),
            json!({"max_turns": tenants(json!(9)), "max_cost_usd": tenants(json!("2"))}),
        ),
        case(
            json!({"image": "large", "disk": DISK / 2}),
            json!({"image": "default", "disk": DISK / 4}),
            json!({"image": tenants(json!("large")), "disk": tenants(json!(DISK / 2))}),
            json!({"image": own(json!("default")), "disk": own(json!(DISK / 4))}),
        ),
        case(json!({}), json!({"image": "large"}), json!({}), json!({"image": own(json!("large"))})),
    ]
}

fn about_agents() -> Vec<Case> {
    let servers = json!({"notes": {"url": "https://a.example/notes"}, "tasks": {"url": "https://b.example/tasks"}});
    let addresses = json!({"notes": "https://a.example/notes", "tasks": "https://b.example/tasks"});
    let schema = |title: &str| json!({"type": "object", "title": title});
    vec![
        case(
            json!({"permissions": {"ask": ["Bash"], "deny": ["WebFetch"], "questions": true}}),
            json!({"permissions": {"ask": ["Read", "Bash"], "deny": ["WebFetch"], "questions": false}}),
            json!({"permissions": {"ask": tenants(json!(["Bash"])), "deny": tenants(json!(["WebFetch"])), "questions": tenants(json!(true))}}),
            json!({"permissions": {"ask": own(json!(["Bash", "Read"])), "deny": tenants(json!(["WebFetch"])), "questions": own(json!(false))}}),
        ),
        case(
            json!({"permissions": {"questions": false}}),
            json!({"permissions": {"ask": [], "deny": ["Bash"]}}),
            json!({"permissions": {"questions": tenants(json!(false))}}),
            json!({"permissions": {"deny": own(json!(["Bash"])), "questions": tenants(json!(false))}}),
        ),
        case(
            json!({}),
            json!({"permissions": {"questions": true}}),
            json!({}),
            json!({"permissions": {"questions": own(json!(true))}}),
        ),
        case(
            json!({"integrations": {"mcp_servers": servers}}),
            json!({"integrations": {"mcp_servers_allowed": ["tasks"]}}),
            json!({"mcp_servers": tenants(addresses.clone())}),
            json!({"mcp_servers": own(json!({"tasks": "https://b.example/tasks"}))}),
        ),
        case(
            json!({"integrations": {"mcp_servers": servers, "mcp_servers_allowed": ["notes"]}}),
            json!({"integrations": {"mcp_servers_allowed": []}}),
            json!({"mcp_servers": tenants(json!({"notes": "https://a.example/notes"}))}),
            json!({"mcp_servers": own(json!({}))}),
        ),
        case(
            json!({"integrations": {"mcp_servers": servers}}),
            json!({}),
            json!({"mcp_servers": tenants(addresses.clone())}),
            json!({"mcp_servers": tenants(addresses)}),
        ),
        case(
            json!({"skills": ["writing", "pricing"]}),
            json!({"skills": ["pricing@1"]}),
            json!({"skills": tenants(json!(["writing", "pricing"]))}),
            json!({"skills": own(json!(["pricing@1"]))}),
        ),
        case(
            json!({"agent": {"effort": "high", "instructions": "Be brief.", "directory": "a", "output_schema": schema("T"),
                "environment": {"A": "1", "B": "1"}}}),
            json!({"agent": {"effort": "low", "instructions": "Be kind.", "directory": "a/b", "output_schema": schema("C"),
                "environment": {"B": "2", "C": "2"}}}),
            json!({"agent": {"effort": tenants(json!("high")), "instructions": tenants(json!("Be brief.")), "directory": tenants(json!("a")),
                "output_schema": tenants(schema("T")), "environment": tenants(json!({"A": "1", "B": "1"}))}}),
            json!({"agent": {"effort": own(json!("low")), "instructions": own(json!("Be brief.\n\nBe kind.")), "directory": own(json!("a/b")),
                "output_schema": own(schema("C")), "environment": own(json!({"A": "1", "B": "2", "C": "2"}))}}),
        ),
        case(
            json!({"agent": {"effort": "max"}}),
            json!({"agent": {"directory": "c"}}),
            json!({"agent": {"effort": tenants(json!("max"))}}),
            json!({"agent": {"effort": tenants(json!("max")), "directory": own(json!("c"))}}),
        ),
    ]
}

pub(super) async fn prepared(context: &Context) -> Result<(Deployment, String, String), Failure> {
    let key = context.dir().join("vault-key");
    std::fs::write(&key, "07".repeat(32))?;
    let launch = Launch::new()
        .without_model()
        .without_waiting()
        .set("PROXY_ALLOWED_DOMAINS", format!("{},a.example,b.example", bedrock()))
        .set("VAULT_KEY_FILE", key.display())
        .set("MODEL_PROVIDER_TOOLS", "web_search,web_fetch")
        .set("CONTAINER_IMAGES", "large=conformance-large:1")
        .set("CONTAINER_EXECUTION_TIMEOUT", SECONDS)
        .set("CONTAINER_DISK", DISK);
    let deployment = context.launch(launch).await?;
    let api = &deployment.api;
    for id in ["one", "two", "three"] {
        let model = json!({"model_id": id, "display_name": id, "bedrock_model_id": "vendor.model-v1:0",
            "model_region": "us-east-1", "context_window": 1, "max_output_tokens": 1, "input_token_price": "0",
            "output_token_price": "0"});
        api.post("/api/models", &model).await?.expect(201)?;
    }
    let tenant = context.unique("tenant");
    api.post("/api/tenants", &json!({"tenant_id": tenant, "model_id": "one"})).await?.expect(201)?;
    let of_tenant = format!("/api/tenants/{tenant}");
    for skill in ["pricing", "writing"] {
        let form = format!(
            "--b\r\nContent-Disposition: form-data; name=\"files\"; filename=\"SKILL.md\"\r\n\r\n---\nname: {skill}\ndescription: Any\n---\nAsk.\n\r\n--b--\r\n"
        );
        let path = format!("{of_tenant}/skills/{skill}");
        api.upload_as(&path, "multipart/form-data; boundary=b", form.into()).await?.expect(201)?;
    }
    let conversation = deployment.another_conversation(context, &tenant, "one").await?;
    Ok((deployment, of_tenant, conversation.path("")))
}

async fn applies(api: &Api, of: &str, expected: &Value, when: &str) -> Result<(), Failure> {
    let shown = api.get(&format!("{of}/effective")).await?.expect(200)?.json()?;
    for (name, value) in expected.as_object().into_iter().flatten() {
        check_eq(format!("{name} of {of} {when}"), &shown[name], value)?;
    }
    check_eq(format!("what applies to {of} {when}"), &shown, expected)
}

async fn each_field(context: &Context) -> Result<(), Failure> {
    let (deployment, tenant, conversation) = prepared(context).await?;
    let api = &deployment.api;
    let of_tenant = plain(operators(json!(["one", "three", "two"])));
    let of_conversation = plain(own(json!(["one"])));
    let mut cases = about_models();
    cases.extend(about_workspaces());
    cases.extend(about_agents());
    cases.push(vaults(api, &tenant).await?);
    for Case { tenants, own, to_tenant, to_conversation } in cases {
        let when = format!("with {tenants} of the tenant and {own} of the conversation");
        for (of, configuration) in [(&tenant, &tenants), (&conversation, &own)] {
            let written = write(&deployment, of, configuration).await?.expect(200)?.json()?;
            check_eq(format!("what is written {when}"), &written["configuration"], &without_empty(configuration))?;
            let read = api.get(&format!("{of}/configuration")).await?.expect(200)?.json()?;
            check_eq(format!("what is read {when}"), read, written)?;
        }
        applies(api, &tenant, &with(&of_tenant, &to_tenant), &when).await?;
        applies(api, &conversation, &with(&of_conversation, &to_conversation), &when).await?;
        for of in [&conversation, &tenant] {
            write(&deployment, of, &json!({})).await?.expect(200)?;
        }
        applies(api, &conversation, &of_conversation, &format!("without what it was {when}")).await?;
    }
    narrowed_later(&deployment, &tenant, &conversation).await?;
    // The tenant's model is that of its record where no configuration says anything.
    api.put(&tenant, &json!({"model_id": "two"})).await?.expect(200)?;
    applies(api, &tenant, &with(&of_tenant, &json!({"default_model": tenants(json!("two"))})), "with another model")
        .await
}

/// What a conversation was allowed when it was written has no effect beyond what its tenant says later.
async fn narrowed_later(deployment: &Deployment, tenant: &str, conversation: &str) -> Result<(), Failure> {
    let first = json!({"models": {"allowed": ["one", "two"]}, "tools": {"allowed": ["Bash", "Read"], "provider": ["web_search"]},
        "limits": {"run_seconds": 200, "max_turns": 9, "max_cost_usd": "2"}, "disk": DISK / 2, "skills": ["pricing", "writing"],
        "permissions": {"questions": true}, "agent": {"effort": "max", "fallback_models": ["two"]},
        "egress": {"requests_per_second": 9, "bytes_per_second": 9000}});
    write(deployment, conversation, &first).await?.expect(200)?;
    let later = json!({"models": {"allowed": ["one", "three"]}, "tools": {"allowed": ["Read"], "provider": []},
        "limits": {"run_seconds": 60, "max_turns": 8, "max_cost_usd": "1"}, "disk": DISK / 4, "skills": ["writing"],
        "permissions": {"questions": false}, "agent": {"effort": "low"},
        "egress": {"requests_per_second": 8, "bytes_per_second": 8000}});
    write(deployment, tenant, &later).await?.expect(200)?;
    let expected = json!({
        "models": own(json!(["one"])), "tools": own(json!(["Read"])), "provider_tools": own(json!([])),
        "run_seconds": tenants(json!(60)), "max_turns": tenants(json!(8)), "max_cost_usd": tenants(json!("1")),
        "disk": tenants(json!(DISK / 4)), "skills": own(json!(["writing"])),
        "permissions": {"questions": own(json!(false))},
        "agent": {"effort": tenants(json!("low")), "fallback_models": own(json!([]))},
        "requests_per_second": tenants(json!(8)), "bytes_per_second": tenants(json!(8000)),
    });
    let whole = with(&plain(own(json!(["one"]))), &expected);
    applies(&deployment.api, conversation, &whole, "that its tenant has narrowed later").await?;
    for of in [conversation, tenant] {
        write(deployment, of, &json!({})).await?.expect(200)?;
    }
    Ok(())
}

/// The document without lists that are empty by default.
fn without_empty(document: &Value) -> Value {
    let mut document = document.clone();
    if let Some(lists) = document.get_mut("permissions").and_then(Value::as_object_mut) {
        lists.retain(|_, list| *list != json!([]));
    }
    document
}

async fn vaults(api: &Api, tenant: &str) -> Result<Case, Failure> {
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        let vault = api.post(&format!("{tenant}/vaults"), &json!({"name": name})).await?.expect(201)?.json()?;
        ids.push(vault["vault_id"].clone());
    }
    let [all, some] = [json!([ids[2], ids[0], ids[1]]), json!([ids[1], ids[2]])];
    Ok(case(
        json!({"vaults": all}),
        json!({"vaults": some}),
        json!({"vaults": tenants(all)}),
        json!({"vaults": own(some)}),
    ))
}
