//! Messages with images and documents.

use serde_json::{Value, json};

use crate::client::stream::RunEvent;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::target::deployment::{Conversation, Deployment};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "TOOL-040",
        "Images and documents, in the request or in the workspace, reach the model; messages describe them",
        "content: text, images, documents (base64 or a path in the workspace)",
        body!(sent),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
    Scenario::new(
        "TOOL-041",
        "Content that breaks the rules is refused with its place, and a file that is not what it must be ends the run",
        "content limited in number and bytes, media types checked: 422; a path outside the workspace is refused",
        body!(refused),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(90),
];

/// A PNG of one pixel.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
/// The beginning of a PDF.
const PDF: &str = "JVBERi0xLjEKMSAwIG9iajw8L1R5cGUvQ2F0YWxvZz4+ZW5kb2JqCg==";

fn inline(kind: &str, media_type: &str, data: &str) -> Value {
    json!({"type": kind, "source": {"type": "base64", "media_type": media_type, "data": data}})
}

fn file(kind: &str, path: &str) -> Value {
    json!({"type": kind, "source": {"type": "path", "path": path}})
}

async fn run(
    deployment: &Deployment,
    conversation: &Conversation,
    prompt: &str,
    content: &Value,
) -> Result<Vec<RunEvent>, Failure> {
    let body = json!({"user_input": prompt, "content": content});
    deployment.api.open_stream(&conversation.path("/stream"), &body).await?.finish().await
}

fn status(events: &[RunEvent]) -> &str {
    events.last().map_or("", |done| done.text("status"))
}

async fn sent(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let words = context.unique("words");
    // Backwards, so that no message has the bytes of the image.
    let backwards: String = PNG.chars().rev().collect();
    let make = format!("echo {backwards} | rev | base64 -d > a.png");
    let make = json!({"command": make, "description": "Make files"});
    deployment.run_well(&conversation, &format!("@tool Bash {make}\n@say made")).await?;
    // Nor has the conversation the words of the file.
    deployment.api.upload(&conversation.path("/files?path=notes.txt"), words.clone().into()).await?.expect(204)?;
    let content = json!([{"type": "text", "text": "First."}, inline("image", "image/png", PNG), file("image", "a.png"),
        inline("document", "application/pdf", PDF), file("document", "notes.txt")]);
    let before = deployment.model()?.requests().await?.len();
    let events = run(&deployment, &conversation, &format!("@recall {words}"), &content).await?;
    check_eq("status", status(&events), "success")?;
    let said = events.last().map(|done| done.text("result").to_owned()).unwrap_or_default();
    check_eq("what the model was sent of the text file", said, format!("{words}: remembered"))?;
    let requests = deployment.model()?.requests().await?;
    let media: Vec<Vec<&str>> = requests[before..].iter().map(|request| request.media()).collect();
    let expected = vec!["image/png", "image/png", "application/pdf", "text/plain"];
    check(media.contains(&expected), format!("media in the model's requests: {media:?}"))?;
    // The messages say what was sent, and do not have it again.
    let messages = deployment.api.get(&conversation.path("/messages")).await?.expect(200)?.text();
    check(!messages.contains(PNG) && !messages.contains(PDF), "the messages have the bytes of an image or a document")?;
    for described in ["image/png", "a.png", "application/pdf", "notes.txt"] {
        check(messages.contains(described), format!("the messages do not name {described}: {messages}"))?;
    }
    // The next turn, of the same driver, has none.
    let plain = deployment.run_well(&conversation, "@say plain").await?;
    check_eq("status of a run without content", status(&plain), "success")
}

async fn refused(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let many: Vec<Value> = (0..21).map(|_| json!({"type": "text", "text": "x"})).collect();
    for (content, place) in [
        (json!([{"type": "text", "text": " "}]), "content[0].text"),
        (json!([{"type": "text", "text": "x"}, inline("image", "image/jpeg", PNG)]), "content[1].source.media_type"),
        (json!([inline("image", "image/svg+xml", "PHN2Zy8+")]), "content[0].source.data"),
        (json!([inline("document", "application/pdf", "AAAA")]), "content[0].source.data"),
        (json!([inline("image", "image/png", "not base 64")]), "content[0].source.data"),
        (json!([file("image", "../etc/passwd")]), "content[0].source.path"),
        (json!([file("document", "/etc/passwd")]), "content[0].source.path"),
        (json!([{"type": "image", "source": {"type": "url", "url": "http://example.com/a.png"}}]), "content[0]"),
        (json!([{"type": "video"}]), "content[0]"),
        (json!(many), "content"),
    ] {
        let body = json!({"user_input": "@say no", "content": content});
        for route in ["/stream", "/messages"] {
            let reply = deployment.api.post(&conversation.path(route), &body).await?;
            check_eq(format!("status of POST {route} with {place}"), reply.status.as_u16(), 422)?;
            check(reply.text().contains(place), format!("the answer does not name {place}: {}", reply.text()))?;
        }
    }
    let make = json!({"command": "echo text > a.png; head -c 4000000 /dev/zero | tr '\\0' x > long.txt; (echo iVBORw0KGgo= | base64 -d; head -c 6000000 /dev/zero) > large.png; ln -s /etc/passwd link.txt", "description": "Make files"});
    deployment.run_well(&conversation, &format!("@tool Bash {make}\n@say made")).await?;
    let before = deployment.model()?.requests().await?.len();
    for (path, kind) in [("a.png", "image"), ("large.png", "image"), ("missing.png", "image"), ("link.txt", "document")]
    {
        let events = run(&deployment, &conversation, "@say no", &json!([file(kind, path)])).await?;
        check_eq(format!("status of a run with {path}"), status(&events), "error")?;
        let error = events.iter().find(|event| event.name == "error").map_or("", |event| event.text("message"));
        check(error.contains("content[0]"), format!("the error does not name the block: {error}"))?;
    }
    // Each is small enough, and together they are not.
    let three = json!([file("document", "long.txt"), file("document", "long.txt"), file("document", "long.txt")]);
    let events = run(&deployment, &conversation, "@say no", &three).await?;
    let error = events.iter().find(|event| event.name == "error").map_or("", |event| event.text("message"));
    check(status(&events) == "error" && error.contains("content[2]"), format!("12 MB of documents: {error}"))?;
    check_eq("requests to the model", deployment.model()?.requests().await?.len(), before)?;
    deployment.run_well(&conversation, "@say and on we go").await.map(drop)
}
