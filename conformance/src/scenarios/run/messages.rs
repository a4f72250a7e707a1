//! The messages of a conversation.

use serde_json::{Value, json};

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "RUN-035",
    "Messages come in pages, and the pages together have every message once",
    "GET .../messages: limit, after, Link",
    body!(paged),
)
.severity(Severity::High)
.profile(Profile::Full)
.requires(RUN)
.limit(90)];

async fn paged(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    for word in ["one", "two"] {
        let tool = format!("@tool Bash {{\"command\": \"echo {word}\", \"description\": \"Say {word}\"}}");
        deployment.run_well(&conversation, &format!("{tool}\n@say {word}")).await?;
    }
    let path = conversation.path("/messages");
    let whole = pages(&deployment.api, &path).await?;
    let messages: Vec<&Value> = whole.iter().flatten().collect();
    let numbers: Vec<_> = messages.iter().map(|message| message["message_seq"].as_u64()).collect();
    let expected: Vec<_> = (1..=numbers.len() as u64).map(Some).collect();
    check_eq("numbers of the messages", &numbers, &expected)?;
    check(whole.len() == 1 && messages.len() > 6, format!("{} messages on {} pages", messages.len(), whole.len()))?;
    for limit in [1, 3, messages.len()] {
        let small = pages(&deployment.api, &format!("{path}?limit={limit}")).await?;
        check(small.iter().all(|page| page.len() <= limit), format!("a page of more than {limit} messages"))?;
        let ids = |pages: &[Vec<Value>]| -> Vec<Value> {
            pages.iter().flatten().map(|message| message["message_id"].clone()).collect()
        };
        check_eq(format!("messages on all pages of {limit}"), ids(&small), ids(&whole))?;
    }
    for (query, field) in [("limit=0", "limit"), ("limit=1001", "limit"), ("after=-1", "after")] {
        let refused = deployment.api.get(&format!("{path}?{query}")).await?;
        refused.expect_error(422, "VALIDATION_ERROR")?;
        check_eq("the invalid field", refused.json()?["error"]["details"][0]["field"].clone(), json!(field))?;
    }
    Ok(())
}

/// All pages from `path` on, as their links lead from one to the next.
async fn pages(api: &crate::client::http::Api, path: &str) -> Result<Vec<Vec<Value>>, Failure> {
    let (mut pages, mut next) = (Vec::new(), Some(path.to_owned()));
    while let Some(path) = next {
        let reply = api.get(&path).await?.expect(200)?;
        let link = reply.header("link").map(str::to_owned);
        next = match link.as_deref() {
            Some(link) => {
                let address = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
                Some(address.ok_or_else(|| Failure::assertion(format!("Link: {link}")))?.to_owned())
            }
            None => None,
        };
        let page: Vec<Value> = serde_json::from_value(reply.json()?).map_err(|e| Failure::assertion(e.to_string()))?;
        check(!page.is_empty() || pages.is_empty(), format!("{path}: an empty page"))?;
        pages.push(page);
        check(pages.len() < 200, "there is always a next page")?;
    }
    Ok(pages)
}
