//! BUG-14: the status filter of the list of conversations.

use serde_json::json;

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check_eq};
use crate::harness::scenario::Scenario;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "BUG-14",
    "The query parameter status filters conversations; an invalid value is refused with 422",
    "?status= filters; a bad value gets a 4xx with the error envelope",
    body!(status_filter),
)
.limit(45)];

async fn status_filter(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let api = &deployment.api;
    let first = deployment.conversation(context).await?;
    let second = deployment.another_conversation(context, &first.tenant, &first.model).await?;
    api.post(&second.path("/archive"), &json!({})).await?;
    let list = format!("/api/tenants/{}/conversations", first.tenant);
    for (query, expected) in [("?status=active", vec![&first.id]), ("?status=archived", vec![&second.id])] {
        let page = api.get(&format!("{list}{query}")).await?.expect(200)?.json()?;
        let items = page["items"].as_array().cloned().unwrap_or_default();
        let ids: Vec<&str> = items.iter().filter_map(|item| item["conversation_id"].as_str()).collect();
        check_eq(format!("conversations with {query}"), ids, expected)?;
        check_eq(format!("total with {query}"), page["total"].as_u64(), Some(1))?;
    }
    check_eq("total without a filter", api.get(&list).await?.expect(200)?.json()?["total"].as_u64(), Some(2))?;
    api.get(&format!("{list}?status=bogus")).await?.expect_error(422, "VALIDATION_ERROR")?;
    api.get("/api/tenants/conformance-knows-nobody/conversations?status=active")
        .await?
        .expect_error(404, "NOT_FOUND")?;
    Ok(())
}
