//! Lists of conversations whose filters and pages are combined.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check_eq};
use crate::harness::scenario::Scenario;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "API-026",
    "Any user, status, time and page together list exactly the conversations that fit, whole and in order",
    "user_id, status, from_date and to_date all hold; total counts what fits; the latest first",
    body!(combined),
)
.limit(60)];

/// The user of each conversation, in the order of their creation, and whether it is archived.
const MADE: [(&str, bool); 6] =
    [("ada", false), ("bob", true), ("ada", true), ("ada", false), ("bob", false), ("ada", true)];

fn created(conversation: &Value) -> Timestamp {
    conversation["created_at"].as_str().and_then(|time| time.parse().ok()).unwrap_or_default()
}

async fn combined(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let api = &deployment.api;
    let any = deployment.conversation(context).await?;
    let mut all = Vec::new();
    for (user, archived) in MADE {
        let one = deployment.conversation_for(context, &any.tenant, &any.model, user).await?;
        if archived {
            api.put(&one.path(""), &json!({"status": "archived"})).await?.expect(200)?;
        }
        all.push(one);
    }
    let mut whole = Vec::new();
    for one in all.iter().rev() {
        whole.push(api.get(&one.path("")).await?.expect(200)?.json()?);
    }
    // The one that came with the tenant is the oldest.
    whole.push(any.created.clone());
    let list = format!("/api/tenants/{}/conversations", any.tenant);
    let time = |at: usize| all[at].created["created_at"].as_str().unwrap_or_default().to_owned();
    let times = [(None, None), (Some(time(1)), None), (None, Some(time(4))), (Some(time(2)), Some(time(4)))];
    for user in [Some("ada"), None] {
        for status in [None, Some("active"), Some("archived")] {
            for (from, to) in &times {
                let moment = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<Timestamp>().ok());
                let mut fitting = whole.clone();
                fitting.retain(|one| user.is_none_or(|user| one["user_id"] == user));
                fitting.retain(|one| status.is_none_or(|status| one["status"] == status));
                fitting.retain(|one| moment(from).is_none_or(|from| created(one) >= from));
                fitting.retain(|one| moment(to).is_none_or(|to| created(one) <= to));
                let given =
                    [("user_id", user), ("status", status), ("from_date", from.as_deref()), ("to_date", to.as_deref())];
                let given: Vec<String> =
                    given.iter().filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?))).collect();
                for (limit, offset) in [(100, 0), (2, 1)] {
                    let query = format!("{list}?{}&limit={limit}&offset={offset}", given.join("&")).replace("?&", "?");
                    let items: Vec<&Value> = fitting.iter().skip(offset).take(limit).collect();
                    let expected = json!({"items": items, "total": fitting.len(), "limit": limit, "offset": offset});
                    check_eq(format!("GET {query}"), api.get(&query).await?.expect(200)?.json()?, expected)?;
                }
            }
        }
    }
    Ok(())
}
