//! The edges of the API: the first and the last page, what is too much, and what errors must not tell. API; RUN.

use std::time::Duration;

use bytes::Bytes;
use http::Method;

use crate::context::Context;
use crate::failure::{Failure, check, check_eq};
use crate::scenario::{Capability, Profile, Scenario, Severity};

/// Conversations that are listed.
const LISTED: usize = 5;
/// Bytes of a body that no such API takes.
const HUGE: usize = 24 << 20;
/// What tells a client how a server is made inside.
const INSIDE: [&str; 7] = ["panicked", "stack backtrace", "Traceback", ".rs:", ".py\"", "at async ", "goroutine "];
/// A piece of text whose letters have one, three and four bytes, and how often it is said: a MiB in all.
const PIECE: &str = "\u{9577}\u{5c4b}\u{1f3e0}x";
const TIMES: usize = 96_000;

const SCENARIO: Scenario = Scenario {
    id: "API",
    title: "",
    severity: Severity::Medium,
    requirement: "",
    requires: &[],
    profile: Profile::Core,
    destructive: false,
    limit: Duration::from_secs(60),
    body: body!(pages),
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        id: "API-007",
        title: "pages of a list are whole and do not overlap; a limit or an offset that is none is 422",
        requirement: "{items, total, limit, offset}; limit 1–100 (50), offset",
        ..SCENARIO
    },
    Scenario {
        id: "API-008",
        title: "a body that is too large, or no text, is refused with the error envelope",
        requirement: "PAYLOAD_TOO_LARGE 413; VALIDATION_ERROR 422",
        body: body!(too_much),
        ..SCENARIO
    },
    Scenario {
        id: "API-009",
        title: "no error tells a client how the server is made inside",
        severity: Severity::High,
        requirement: "no stack traces to clients",
        body: body!(nothing_of_the_inside),
        ..SCENARIO
    },
    Scenario {
        id: "RUN-005",
        title: "an answer of a MiB in letters of several bytes arrives whole: in pieces, in one event, in the end, and in the messages",
        severity: Severity::High,
        requirement: "1 MiB event; UTF-8 split across chunks",
        requires: &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model],
        profile: Profile::Full,
        body: body!(large_answer),
        ..SCENARIO
    },
];

async fn pages(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let first = deployment.conversation(context).await?;
    let mut made = vec![first.id.clone()];
    for _ in 1..LISTED {
        made.push(deployment.another_conversation(context, &first.tenant, &first.model).await?.id);
    }
    made.sort();
    let list = format!("/api/tenants/{}/conversations", first.tenant);
    let page = async |query: String| -> Result<Vec<String>, Failure> {
        let page = deployment.api.get(&format!("{list}{query}")).await?.expect(200)?.json()?;
        check_eq(format!("total with {query:?}"), page["total"].as_u64(), u64::try_from(LISTED).ok())?;
        let items = page["items"].as_array().cloned().unwrap_or_default();
        Ok(items.iter().map(|item| item["conversation_id"].as_str().unwrap_or_default().to_owned()).collect())
    };
    for size in [1, 2, LISTED, 100] {
        let mut seen = Vec::new();
        for offset in (0..LISTED).step_by(size) {
            let ids = page(format!("?limit={size}&offset={offset}")).await?;
            check_eq(format!("conversations from {offset} on, at most {size}"), ids.len(), size.min(LISTED - offset))?;
            seen.extend(ids);
        }
        let in_order = seen.clone();
        seen.sort();
        check_eq(format!("conversations on all pages of {size}"), &seen, &made)?;
        check_eq(format!("order over pages of {size}"), &in_order, &page(String::new()).await?)?;
    }
    for offset in [LISTED, 1_000_000] {
        check_eq(format!("conversations from {offset} on"), page(format!("?offset={offset}")).await?.len(), 0)?;
    }
    let defaults = deployment.api.get(&list).await?.expect(200)?.json()?;
    check_eq("limit where none is given", defaults["limit"].as_u64(), Some(50))?;
    check_eq("offset where none is given", defaults["offset"].as_u64(), Some(0))?;
    for query in ["limit=0", "limit=101", "limit=-1", "limit=many", "limit=", "offset=-1", "offset=x", "limit=99999999999999999999"] {
        let reply = deployment.api.get(&format!("{list}?{query}")).await?;
        reply.expect_error(422, "VALIDATION_ERROR").map_err(|failure| failure.during(query))?;
    }
    Ok(())
}

async fn too_much(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let api = &deployment.api;
    let conversation = deployment.conversation(context).await?;
    let routes = ["/api/tenants".to_owned(), "/api/models".to_owned(), conversation.path("/stream")];
    let field = ["tenant_id", "model_id", "user_input"];
    for (route, field) in routes.iter().zip(field) {
        let huge = format!("{{\"{field}\": \"{}\"}}", "x".repeat(HUGE));
        let reply = api.post_bytes(route, huge.into()).await?;
        reply.expect_error(413, "PAYLOAD_TOO_LARGE").map_err(|failure| failure.during("24 MiB"))?;
        let no_text = [b"{\"", field.as_bytes(), b"\": \"\xff\xfe\xc3\"}"].concat();
        let reply = api.post_bytes(route, Bytes::from(no_text)).await?;
        reply.expect_error(422, "VALIDATION_ERROR").map_err(|failure| failure.during("bytes that are no UTF-8"))?;
    }
    // All is as it was.
    api.get(&conversation.path("")).await?.expect(200).map(drop)
}

async fn nothing_of_the_inside(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let api = &deployment.api;
    let conversation = deployment.conversation(context).await?;
    let path = |rest: &str| conversation.path(rest);
    let long = "x".repeat(4_000);
    let mut told = Vec::new();
    for (method, path, body) in [
        (Method::GET, "/no/such/route".to_owned(), None),
        (Method::PATCH, "/api/tenants".to_owned(), Some("{}")),
        (Method::POST, "/api/tenants".to_owned(), Some("{\"tenant_id\": ")),
        (Method::POST, "/api/models".to_owned(), Some("{\"model_id\": {}, \"context_window\": -1}")),
        (Method::POST, path("/stream"), Some("{\"user_input\": [[[]]]}")),
        (Method::GET, path("/messages/%00"), None),
        (Method::GET, format!("/api/tenants/{long}"), None),
        (Method::GET, "/api/tenants/%ff%fe".to_owned(), None),
        (Method::GET, path("/../../.."), None),
        (Method::GET, path("?limit=%00"), None),
        (Method::DELETE, path("/no-such-part"), None),
        (Method::PUT, path(""), Some("{\"status\": \"bogus\", \"title\": 1}")),
    ] {
        let reply = api.send(method, &path, body, &[]).await?;
        check(reply.status.as_u16() < 500, format!("{}: {} {}", reply.asked, reply.status, reply.text()))?;
        told.push((reply.asked.clone(), reply.text()));
    }
    for (asked, text) in &told {
        let found = INSIDE.iter().find(|word| text.contains(**word));
        check(found.is_none(), format!("the answer to {asked} tells of the inside ({found:?}): {text}"))?;
    }
    check(told.iter().any(|(_, text)| text.contains("NOT_FOUND")), "no answer was an error: nothing was looked at")
}

async fn large_answer(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let whole = PIECE.repeat(TIMES);
    let events = deployment.run_well(&conversation, &format!("@chunk 997\n@repeat {TIMES} {PIECE}")).await?;
    // Not by equality: nobody wants to read a MiB twice.
    let same = |text: &str, what: &str| {
        let at = text.bytes().zip(whole.bytes()).take_while(|(one, other)| one == other).count();
        check(text == whole, format!("{what}: {} bytes of {}, the same up to byte {at}", text.len(), whole.len()))
    };
    let pieces: Vec<&str> = events.iter().filter(|event| event.name == "text_delta").map(|event| event.text("text")).collect();
    check(pieces.len() > 100, format!("it came in {} pieces", pieces.len()))?;
    same(&pieces.concat(), "the pieces, put together")?;
    let assistant: String = events
        .iter()
        .filter(|event| event.name == "assistant")
        .flat_map(|event| event.data["content_blocks"].as_array().cloned().unwrap_or_default())
        .filter_map(|block| block["text"].as_str().map(str::to_owned))
        .collect();
    same(&assistant, "assistant")?;
    let done = events.last().map_or("", |done| done.text("result"));
    same(done, "result in done")?;
    let messages = deployment.api.get(&conversation.path("/messages")).await?.expect(200)?.json()?;
    let kept = messages.as_array().into_iter().flatten().find(|message| message["message_type"] == "assistant");
    let kept = kept.map(|message| message["content"].to_string()).unwrap_or_default();
    check(kept.contains(&whole), format!("the messages do not have the whole text, but {} bytes", kept.len()))
}
