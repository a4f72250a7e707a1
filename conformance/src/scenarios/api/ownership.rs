//! Whose a resource is: every operation below a tenant, asked by another tenant about things that are there.

use http::Method;
use serde_json::json;

use super::keys::{OPERATOR, OURS, THEIRS, with_keys};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::everything::{Operation, everything, operations, reads, with_vaults};
use crate::scenarios::common::needs::RUN;
use crate::target::launch::Launch;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "API-011",
        "On every route of a tenant, another tenant's key is answered with 404 and changes nothing",
        "a tenant's key on another tenant's path gets 404, as if it were not there",
        body!(tenant_isolation),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "API-017",
        "A tenant that is inactive begins no run, however it asks, and may again once it is active",
        "a tenant's status: inactive accepts no runs",
        body!(inactive),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN),
];

async fn tenant_isolation(context: &Context) -> Result<(), Failure> {
    let (deployment, theirs, ours) = with_keys(context, with_vaults(context)?).await?;
    let victim = everything(&deployment, theirs).await?;
    let (intruder, owner) = (deployment.api.with_key(Some(OURS)), deployment.api.with_key(Some(THEIRS)));
    let operations = operations(&deployment.api, &victim.ids).await?;
    let operations: Vec<_> = operations.into_iter().filter(|one| one.template.contains("{tenant_id}")).collect();
    check(operations.len() > 40, format!("{} operations name a tenant", operations.len()))?;
    // The control: each tenant sees its own, and there is something to see.
    let before = reads(&owner, &operations).await?;
    intruder.get(&format!("/api/tenants/{ours}")).await?.expect(200)?;
    for (path, answer) in &before {
        let empty = answer.as_array().is_some_and(Vec::is_empty) || *answer == json!({"approvals": []});
        check(!empty, format!("{path} has nothing to hide: {answer}"))?;
    }
    for Operation { method, template, path, body } in &operations {
        let reply = intruder.send(method.clone(), path, body.as_deref(), &[]).await?;
        reply.expect_error(404, "NOT_FOUND")?;
        // What is the other tenant's, on a path of the intruder's own tenant. A skill has no id: its name may be the intruder's, too.
        let disguised = path.replacen(&victim.conversation.tenant, &ours, 1);
        let names_one = template.matches('{').count() > 1 && !(template.ends_with("{name}") && *method == Method::PUT);
        if names_one {
            let reply = intruder.send(method.clone(), &disguised, body.as_deref(), &[]).await?;
            reply
                .expect_error(404, "NOT_FOUND")
                .map_err(|failure| failure.during("another tenant's thing on one's own path"))?;
        }
    }
    let after = reads(&owner, &operations).await?;
    for ((path, before), (_, after)) in before.iter().zip(&after) {
        check_eq(format!("what the other tenant has at {path}, afterwards"), after, before)?;
    }
    // Its run still waits, and goes on when its own tenant decides.
    let decided = victim.conversation.path(&format!("/approvals/{}", victim.ids["approval_id"]));
    owner.post(&decided, &json!({"decision": "allow"})).await?.expect(200)?;
    let events = victim.run.finish().await?;
    check_eq("status of the other tenant's run", events.last().map(|done| done.text("status")), Some("success"))
}

async fn inactive(context: &Context) -> Result<(), Failure> {
    let (deployment, conversation, _) = with_keys(context, Launch::new()).await?;
    let (operator, tenant) = (deployment.api.with_key(Some(OPERATOR)), deployment.api.with_key(Some(THEIRS)));
    let of = format!("/api/tenants/{}", conversation.tenant);
    let input = json!({"user_input": "@say Here."});
    let become_ = async |status: &str| operator.put(&of, &json!({"status": status})).await?.expect(200).map(drop);
    become_("inactive").await?;
    for api in [&tenant, &operator] {
        for path in ["/stream", "/messages"] {
            api.post(&conversation.path(path), &input).await?.expect_error(422, "VALIDATION_ERROR")?;
        }
    }
    // What it has stays readable.
    tenant.get(&conversation.path("/messages")).await?.expect(200)?;
    check_eq("workspaces of an inactive tenant", deployment.all_rooms().await?.len(), 0)?;
    become_("active").await?;
    let events = tenant.open_stream(&conversation.path("/stream"), &input).await?.finish().await?;
    check_eq(
        "status of a run of the tenant, active again",
        events.last().map(|done| done.text("status")),
        Some("success"),
    )
}
