//! What a conversation answers in each state that it may have, on every one of its routes.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::bucket::shell;
use crate::scenarios::common::everything::{Operation, operations, reads};
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "API-027",
    "Every route of a conversation answers as its state has it: archived, without a workspace, inactive, running",
    "archived: read as before, and changed by nothing but its title and status; a run locks what would disturb it",
    body!(each_state),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(&[
    Capability::Launch,
    Capability::Docker,
    Capability::Image,
    Capability::Model,
    Capability::Resume,
    Capability::Files,
])
.limit(120)];

/// The end of a route, its method, a body, and the statuses: archived, created without a workspace, of an inactive tenant, during a run.
type Row = (&'static str, Method, Value, [u16; 4]);

/// In the place of a status: that the run is interrupted would begin the next one.
const NOT_ASKED: u16 = 0;

fn table() -> Vec<Row> {
    let input = json!({"user_input": "@say Later."});
    let none = Value::Null;
    vec![
        ("", Method::GET, none.clone(), [200, 200, 200, 200]),
        ("", Method::PUT, json!({"title": "Named"}), [200, 200, 200, 200]),
        ("/stream", Method::POST, input.clone(), [422, 422, 422, 409]),
        ("/messages", Method::GET, none.clone(), [200, 200, 200, 200]),
        ("/messages", Method::POST, input, [422, 422, 422, 202]),
        ("/log", Method::GET, none.clone(), [200, 200, 200, 200]),
        ("/approvals", Method::GET, none.clone(), [200, 200, 200, 200]),
        ("/approvals/{approval_id}", Method::POST, json!({"decision": "allow"}), [404, 404, 404, 404]),
        ("/tool-results/{request_id}", Method::POST, json!({"content": "none"}), [404, 404, 404, 404]),
        ("/files", Method::GET, none.clone(), [200, 422, 200, 200]),
        ("/files?path=new.txt", Method::PUT, json!("new"), [422, 422, 204, 204]),
        ("/files?path=new.txt", Method::DELETE, none.clone(), [422, 422, 204, 204]),
        ("/files/presented", Method::GET, none.clone(), [200, 422, 200, 200]),
        ("/files/download?path=outputs/made.txt", Method::GET, none.clone(), [200, 422, 200, 200]),
        ("/configuration", Method::GET, none.clone(), [200, 200, 200, 200]),
        ("/configuration", Method::PUT, json!({"version": 0, "configuration": {}}), [200, 200, 200, 200]),
        ("/effective", Method::GET, none.clone(), [200, 200, 200, 200]),
        ("/archive", Method::POST, json!({}), [200, 200, 200, 409]),
        ("/workspace", Method::DELETE, none.clone(), [204, 204, 204, 409]),
        ("/interrupt", Method::POST, json!({}), [409, 409, 409, NOT_ASKED]),
        ("/cancel", Method::POST, json!({}), [409, 409, 409, 202]),
    ]
}

/// Asks each route of the table, which must answer with the statuses of this column.
async fn walk(deployment: &Deployment, of: &Conversation, column: usize, state: &str) -> Result<(), Failure> {
    for (end, method, body, statuses) in table() {
        let status = statuses[column];
        if status == NOT_ASKED {
            continue;
        }
        let path = of.path(&end.replace("{approval_id}", "none").replace("{request_id}", "none"));
        let body = (!body.is_null()).then(|| body.to_string());
        let reply = deployment.api.send(method.clone(), &path, body.as_deref(), &[]).await?;
        check_eq(format!("{method} {end} of a conversation {state}: {}", reply.text()), reply.status.as_u16(), status)?;
        match (status, state) {
            (422, _) => reply.expect_error(422, "VALIDATION_ERROR")?,
            (404, _) => reply.expect_error(404, "NOT_FOUND")?,
            (409, "during a run") => reply.expect_error(409, "RESOURCE_LOCKED")?,
            (409, _) => reply.expect_error(409, "CONFLICT")?,
            _ => {}
        }
        if status == 409 {
            let told = reply.header("retry-after").is_some();
            check_eq(format!("whether {method} {end} {state} says when to ask again"), told, state == "during a run")?;
        }
    }
    Ok(())
}

/// What can be read of a conversation, without what its state changes.
async fn read(
    deployment: &Deployment,
    of: &Conversation,
    operations: &[Operation],
) -> Result<Vec<(String, Value)>, Failure> {
    let mut all = reads(&deployment.api, operations).await?;
    for (_, answer) in &mut all {
        if answer["conversation_id"] == of.id.as_str() {
            answer["status"] = Value::Null;
            answer["updated_at"] = Value::Null;
        }
        for file in answer.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
            file["modified_at"] = Value::Null;
        }
    }
    Ok(all)
}

async fn each_state(context: &Context) -> Result<(), Failure> {
    let storage = context.storage().await?;
    let deployment = context.launch(Launch::new().bucket(&storage)).await?;
    let archived = deployment.conversation(context).await?;
    let (tenant, model) = (archived.tenant.clone(), archived.model.clone());
    let make = shell("mkdir -p outputs && printf made > outputs/made.txt && printf other > other.txt");
    deployment.run_well(&archived, &make).await?;
    let names = ["vault_id", "credential_id", "key_id", "name", "approval_id", "request_id"];
    let mut ids: BTreeMap<_, _> = names.map(|name| (name, "none".to_owned())).into();
    ids.insert("tenant_id", tenant.clone());
    ids.insert("conversation_id", archived.id.clone());
    let mut operations = operations(&deployment.api, &ids).await?;
    operations.retain(|one| one.template.contains("{conversation_id}"));
    let known: Vec<_> =
        table().into_iter().map(|(end, method, ..)| (end.split('?').next().unwrap_or(end), method)).collect();
    for Operation { method, template, .. } in &operations {
        let end = template.split_once("{conversation_id}").map_or("", |(_, end)| end);
        let left_out = matches!((end, method), ("/stream", &Method::GET) | ("", &Method::DELETE));
        let is_known = known.iter().any(|(known, of)| *known == end && of == method);
        check(is_known || left_out, format!("{method} {template} is not in this scenario's table"))?;
    }
    let before = read(&deployment, &archived, &operations).await?;
    let files = before.iter().find(|(path, _)| path.ends_with("/files")).map(|(_, page)| page["total"].clone());
    check_eq("files of the conversation", files, Some(json!(2)))?;
    deployment.api.post(&archived.path("/archive"), &json!({})).await?.expect(200)?;
    check_eq("workspaces of an archived conversation", deployment.all_rooms().await?.len(), 0)?;
    let after = read(&deployment, &archived, &operations).await?;
    for ((path, before), (_, after)) in before.iter().zip(&after) {
        check_eq(format!("{path} of the archived conversation"), after, before)?;
    }
    walk(&deployment, &archived, 0, "that is archived").await?;
    check_eq("workspaces of an archived conversation", deployment.all_rooms().await?.len(), 0)?;

    let path = format!("/api/tenants/{tenant}/conversations");
    let without = json!({"user_id": "ada", "workspace_enabled": false});
    let created = deployment.api.post(&path, &without).await?.expect(201)?.json()?;
    let id = created["conversation_id"].as_str().unwrap_or_default().to_owned();
    let without = Conversation { tenant: tenant.clone(), model: model.clone(), id, created };
    walk(&deployment, &without, 1, "without a workspace").await?;

    let (idle, running) = (
        deployment.another_conversation(context, &tenant, &model).await?,
        deployment.another_conversation(context, &tenant, &model).await?,
    );
    for conversation in [&idle, &running] {
        deployment.run_well(conversation, &make).await?;
    }
    let mut run = deployment.start(&running, &shell("tail -f /dev/null")).await?;
    run.until("tool_call").await?;
    walk(&deployment, &running, 3, "during a run").await?;
    let done = run.finish().await?;
    check_eq("status of the run that was cancelled", done.last().map(|done| done.text("status")), Some("cancelled"))?;
    let of_tenant = format!("/api/tenants/{tenant}");
    deployment.api.put(&of_tenant, &json!({"status": "inactive"})).await?.expect(200)?;
    walk(&deployment, &idle, 2, "of an inactive tenant").await?;
    // What was archived can be made active again, and goes on.
    deployment.api.put(&of_tenant, &json!({"status": "active"})).await?.expect(200)?;
    deployment.api.put(&archived.path(""), &json!({"status": "active"})).await?.expect(200)?;
    deployment.run_well(&archived, &shell("test $(cat outputs/made.txt) = made")).await.map(drop)
}
