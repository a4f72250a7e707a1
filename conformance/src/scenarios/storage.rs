//! Rooms' files in a bucket: BUG-11 with one, FILE-1xx, and what health says of it.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::transfer;
use crate::client::stream::RunEvent;
use crate::context::Context;
use crate::failure::{Failure, check, check_eq};
use crate::poll::eventually;
use crate::scenario::{Capability, Profile, Scenario, Severity};
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;
use crate::target::storage::{Object, Storage};

const NEEDS: &[Capability] = &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model];
/// How long what happens by itself may take.
const SOON: Duration = Duration::from_secs(20);

macro_rules! scenario {
    ($id:literal, $title:literal, $severity:ident, $requirement:literal, $body:ident) => {
        Scenario {
            id: $id,
            title: $title,
            severity: Severity::$severity,
            requirement: $requirement,
            requires: NEEDS,
            profile: Profile::Full,
            destructive: false,
            limit: Duration::from_secs(120),
            body: body!($body),
        }
    };
}

pub(super) const SCENARIOS: &[Scenario] = &[
    scenario!(
        "BUG-11-REFUSED",
        "with a bucket that refuses, a run ends well, the client is told, the counter moves, and nothing is lost",
        High,
        "bucket that refuses: the run still ends success, error counter moves, the client is told",
        refused
    ),
    scenario!(
        "BUG-11-DOWN",
        "with a bucket that is down, a run ends well, and a deletion says that files may be left",
        High,
        "bucket that is down: the run still ends success, error counter moves, the client is told",
        down
    ),
    scenario!(
        "BUG-11-SLOW",
        "with a bucket that never answers, a run ends well after no more than the documented wait",
        High,
        "a bucket that is slow delays a run no longer than twice S3_SYNC_TIMEOUT",
        slow
    ),
    scenario!(
        "BUG-03-S3",
        "/health with the bucket up, refusing and down: degraded, never unhealthy, and back",
        Medium,
        "/health in each combination: s3 is not critical",
        health
    ),
    scenario!(
        "FILE-101",
        "what a run wrote is in the bucket after it, under any name; what it deleted is not",
        High,
        "with a bucket, files return after the run",
        written
    ),
    scenario!(
        "FILE-102",
        "the files of a room that was killed are in the conversation's next room, with their modes",
        Critical,
        "with a bucket, files arrive in the container before the run",
        next_room
    ),
    scenario!(
        "FILE-103",
        "two tenants' files do not meet, in the bucket or in rooms",
        Critical,
        "tenant isolation",
        two_tenants
    ),
    scenario!(
        "FILE-104",
        "deleting a conversation leaves nothing of it in the bucket, and all of another's",
        High,
        "DELETE 204: stops the run, releases the workspace, deletes messages and stored files",
        deleted
    ),
    scenario!(
        "FILE-105",
        "a server killed while it takes a run's files out: the next one completes it",
        High,
        "after kill -9 at any moment, nothing leaks and nothing is lost",
        killed_in_between
    ),
    scenario!(
        "FILE-106",
        "an upload that is under way when its conversation is deleted leaves nothing, in the bucket or in a room",
        High,
        "DELETE 204: stops the run, releases the workspace, deletes messages and stored files",
        deleted_meanwhile
    ),
    scenario!(
        "FILE-107",
        "a file that was replaced while its conversation had no room is what a later room makes of it, also what it once was",
        High,
        "with a bucket, files return after the run",
        replaced_without_room
    ),
];

fn shell(command: &str) -> String {
    let input = serde_json::json!({"command": command, "description": "Work"});
    format!("@tool Bash {input}\n@say done")
}

/// The files of a conversation in the bucket; the manifest is none.
async fn files(storage: &Storage, of: &Conversation) -> Result<Vec<Object>, Failure> {
    let below = format!("workspaces/{}/{}/", of.tenant, of.id);
    let mut objects = storage.objects().await?;
    objects.retain(|object| object.key.starts_with(&below) && !object.key.ends_with("/manifest.json"));
    Ok(objects)
}

fn told(objects: &[Object]) -> Vec<(&str, &str)> {
    let name = |key: &'_ str| key.rfind("/files/").map_or(0, |at| at + "/files/".len());
    objects.iter().map(|object| (&object.key[name(&object.key)..], object.text.as_deref().unwrap_or("?"))).collect()
}

fn storage_errors(events: &[RunEvent]) -> Vec<&Value> {
    let of_storage = |event: &&RunEvent| event.name == "error" && event.data["error_type"] == "storage_error";
    events.iter().filter(of_storage).map(|event| &event.data).collect()
}

async fn sync_errors(deployment: &Deployment, direction: &str) -> Result<f64, Failure> {
    let metrics = deployment.api.metrics().await?;
    Ok(metrics.get("workspace_s3_sync_errors_total", &[("direction", direction)]).unwrap_or_default())
}

/// A run that writes while the bucket has a fault: it ends well, and it is told that files are not stored.
async fn run_with_fault(deployment: &Deployment, conversation: &Conversation) -> Result<(), Failure> {
    let before = sync_errors(deployment, "out").await?;
    let events = deployment.run_well(conversation, &shell("printf kept > /workspace/kept.txt")).await?;
    let told = storage_errors(&events);
    check(!told.is_empty(), "no event of the run tells that files are not stored")?;
    check(told.iter().all(|error| error["recoverable"] == true), format!("not recoverable: {told:?}"))?;
    let after = sync_errors(deployment, "out").await?;
    check(after > before, format!("workspace_s3_sync_errors_total{{direction=\"out\"}} was {before}, is {after}"))
}

async fn refused(context: &Context) -> Result<(), Failure> {
    let storage = context.storage().await?;
    let deployment = context.launch(Launch::new().bucket(&storage).set("S3_SYNC_TIMEOUT", 5)).await?;
    let conversation = deployment.conversation(context).await?;
    storage.fault("refuse").await?;
    run_with_fault(&deployment, &conversation).await?;
    let refusals = storage.requests().await?.iter().filter(|asked| asked.status == 403).count();
    check(refusals > 0, "the bucket was asked nothing: nothing was refused")?;
    storage.fault("none").await?;
    let events = deployment.run_well(&conversation, "@say and now").await?;
    check_eq("storage errors once the bucket takes files again", storage_errors(&events).len(), 0)?;
    check_eq("files in the bucket", told(&files(&storage, &conversation).await?), vec![("kept.txt", "kept")])
}

async fn down(context: &Context) -> Result<(), Failure> {
    let storage = context.storage().await?;
    let deployment = context.launch(Launch::new().bucket(&storage).set("S3_SYNC_TIMEOUT", 5)).await?;
    let conversation = deployment.conversation(context).await?;
    deployment.run_well(&conversation, &shell("printf first > /workspace/first.txt")).await?;
    check_eq("files before", files(&storage, &conversation).await?.len(), 1)?;
    storage.fault("down").await?;
    run_with_fault(&deployment, &conversation).await?;
    deployment.api.delete(&conversation.path("")).await?.expect_error(503, "SERVICE_UNAVAILABLE")?;
    deployment.api.get(&conversation.path("")).await?.expect(200)?;
    storage.fault("none").await?;
    deployment.api.delete(&conversation.path("")).await?.expect(204)?;
    check_eq("objects once it was deleted again", storage.objects().await?.len(), 0)
}

async fn slow(context: &Context) -> Result<(), Failure> {
    let storage = context.storage().await?;
    let deployment = context.launch(Launch::new().bucket(&storage).set("S3_SYNC_TIMEOUT", 2)).await?;
    let conversation = deployment.conversation(context).await?;
    storage.fault("hang").await?;
    run_with_fault(&deployment, &conversation).await?;
    let hanging = storage.requests().await?.iter().filter(|asked| asked.status == 0).count();
    check(hanging > 0, "no request hangs: nothing was slow")?;
    storage.fault("none").await?;
    deployment.run_well(&conversation, "@say and now").await?;
    check_eq("files in the bucket", told(&files(&storage, &conversation).await?), vec![("kept.txt", "kept")])
}

async fn health(context: &Context) -> Result<(), Failure> {
    let storage = context.storage().await?;
    let deployment = context.launch(Launch::new().bucket(&storage)).await?;
    for (fault, component, whole) in [
        ("none", "healthy", "healthy"),
        ("refuse", "unhealthy", "degraded"),
        ("none", "healthy", "healthy"),
        ("down", "unhealthy", "degraded"),
        ("hang", "unhealthy", "degraded"),
        ("none", "healthy", "healthy"),
    ] {
        storage.fault(fault).await?;
        let health = deployment.api.get("/health").await?.expect(200)?.json()?;
        check_eq(format!("s3 with fault {fault}: {health}"), health["checks"]["s3"]["status"].as_str(), Some(component))?;
        check_eq(format!("status with fault {fault}: {health}"), health["status"].as_str(), Some(whole))?;
        deployment.api.get("/health/ready").await?.expect(200)?;
    }
    Ok(())
}

async fn written(context: &Context) -> Result<(), Failure> {
    let storage = context.storage().await?;
    let deployment = context.launch(Launch::new().bucket(&storage)).await?;
    let conversation = deployment.conversation(context).await?;
    let write = "mkdir -p src/deep && printf one > one.txt && printf two > 'src/deep/a b%.txt' && printf gone > gone.txt \
                 && ln -s /etc/passwd link";
    let events = deployment.run_well(&conversation, &shell(write)).await?;
    check_eq("storage errors", storage_errors(&events).len(), 0)?;
    let expected = vec![("gone.txt", "gone"), ("one.txt", "one"), ("src/deep/a%20b%25.txt", "two")];
    check_eq("files after the run", told(&files(&storage, &conversation).await?), expected)?;
    deployment.run_well(&conversation, &shell("rm gone.txt && printf three > one.txt")).await?;
    let expected = vec![("one.txt", "three"), ("src/deep/a%20b%25.txt", "two")];
    check_eq("files after the second run", told(&files(&storage, &conversation).await?), expected)?;
    let before = storage.requests().await?.len();
    deployment.run_well(&conversation, "@say nothing changes").await?;
    check_eq("requests for a run that changes nothing", storage.requests().await?.len(), before)
}

async fn next_room(context: &Context) -> Result<(), Failure> {
    let storage = context.storage().await?;
    let deployment = context.launch(Launch::new().bucket(&storage)).await?;
    let conversation = deployment.conversation(context).await?;
    let write = "mkdir -p bin && printf '#!/bin/sh\\necho it runs' > bin/tool && chmod 755 bin/tool && printf data > data";
    deployment.run_well(&conversation, &shell(write)).await?;
    let room = deployment.only_room().await?;
    room.kill("SIGKILL").await?;
    eventually(SOON, "the room does not run", async || match room.is_running().await {
        Ok(false) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    deployment.run_well(&conversation, &shell("cat data && ./bin/tool > ran")).await?;
    let next = deployment.only_room().await?;
    check(next.id != room.id, "the room that was killed is the only one")?;
    let read = next.shell("cat /workspace/data /workspace/ran").await?;
    check(read.printed.contains("data") && read.printed.contains("it runs"), format!("in the next room: {}", read.printed))
}

async fn two_tenants(context: &Context) -> Result<(), Failure> {
    let storage = context.storage().await?;
    let deployment = context.launch(Launch::new().bucket(&storage)).await?;
    let (one, two) = (deployment.conversation(context).await?, deployment.conversation(context).await?);
    check(one.tenant != two.tenant, "both conversations are of one tenant")?;
    for (conversation, text) in [(&one, "first"), (&two, "second")] {
        deployment.run_well(conversation, &shell(&format!("printf {text} > mine"))).await?;
    }
    check_eq("the first's", told(&files(&storage, &one).await?), vec![("mine", "first")])?;
    check_eq("the second's", told(&files(&storage, &two).await?), vec![("mine", "second")])?;
    let strange = |object: &&Object| ![&one, &two].iter().any(|of| object.key.starts_with(&format!("workspaces/{}/{}/", of.tenant, of.id)));
    let objects = storage.objects().await?;
    check(!objects.iter().any(|object| strange(&object)), format!("objects of nobody: {objects:?}"))
}

async fn deleted(context: &Context) -> Result<(), Failure> {
    let storage = context.storage().await?;
    let deployment = context.launch(Launch::new().bucket(&storage)).await?;
    let (one, two) = (deployment.conversation(context).await?, deployment.conversation(context).await?);
    for conversation in [&one, &two] {
        deployment.run_well(conversation, &shell("seq 1 20 | split -l 1 - part-")).await?;
        check_eq("files after the run", files(&storage, conversation).await?.len(), 20)?;
    }
    deployment.api.delete(&one.path("")).await?.expect(204)?;
    let left = storage.objects().await?;
    check(!left.iter().any(|object| object.key.contains(&one.id)), format!("left of it: {left:?}"))?;
    check_eq("files of the other", files(&storage, &two).await?.len(), 20)
}

async fn killed_in_between(context: &Context) -> Result<(), Failure> {
    let storage = context.storage().await?;
    let mut deployment = context.launch(Launch::new().bucket(&storage)).await?;
    let conversation = deployment.conversation(context).await?;
    let mut stream = deployment.start(&conversation, &shell("printf kept > kept.txt")).await?;
    stream.until("init").await?;
    storage.fault("hang").await?;
    stream.until("title").await?;
    eventually(SOON, "a request of the sync hangs", async || {
        let asked = storage.requests().await.map_err(|failure| failure.to_string())?;
        if asked.iter().any(|asked| asked.status == 0) { Ok(()) } else { Err(format!("{asked:?}")) }
    })
    .await?;
    deployment.kill().await?;
    check_eq("files when the server was killed", files(&storage, &conversation).await?.len(), 0)?;
    storage.fault("none").await?;
    deployment.start_again(context).await?;
    eventually(SOON, "the file is in the bucket", async || {
        let files = files(&storage, &conversation).await.map_err(|failure| failure.to_string())?;
        if told(&files) == [("kept.txt", "kept")] { Ok(()) } else { Err(format!("{files:?}")) }
    })
    .await
}

async fn deleted_meanwhile(context: &Context) -> Result<(), Failure> {
    let storage = context.storage().await?;
    let deployment = context.launch(Launch::new().bucket(&storage)).await?;
    let conversation = deployment.conversation(context).await?;
    let (half, size) = ("h".repeat(1000), "Content-Length: 2000");
    let mut upload = transfer::begun(&deployment, &conversation, "late", size, &half).await?;
    // The control: an upload to a conversation that stays is taken, by the same way.
    let other = deployment.another_conversation(context, &conversation.tenant, &conversation.model).await?;
    let mut well = transfer::begun(&deployment, &other, "late", size, &half).await?;
    well.write_all(half.as_bytes()).await?;
    let mut answer = String::new();
    tokio::time::timeout(SOON, well.read_to_string(&mut answer)).await.map_err(Failure::assertion)??;
    check(answer.starts_with("HTTP/1.1 204 "), format!("an upload is answered {answer:?}"))?;
    check_eq("the other's files", files(&storage, &other).await?.len(), 1)?;

    deployment.api.delete(&conversation.path("")).await?.expect(204)?;
    upload.write_all(half.as_bytes()).await?;
    let mut answer = String::new();
    tokio::time::timeout(SOON, upload.read_to_string(&mut answer)).await.map_err(Failure::assertion)??;
    check(answer.starts_with("HTTP/1.1 4"), format!("an upload to what is deleted is answered {answer:?}"))?;
    let left = storage.objects().await?;
    check(!left.iter().any(|object| object.key.contains(&conversation.id)), format!("left of it: {left:?}"))?;
    check_eq("rooms", deployment.all_rooms().await?.len(), 0)
}

async fn replaced_without_room(context: &Context) -> Result<(), Failure> {
    let storage = context.storage().await?;
    let deployment = context.launch(Launch::new().bucket(&storage)).await?;
    let conversation = deployment.conversation(context).await?;
    deployment.run_well(&conversation, &shell("printf aaaa > it && printf same > other")).await?;
    let room = deployment.only_room().await?.workspace.unwrap_or_default();
    deployment.api.delete(&format!("/api/admin/workspaces/{room}")).await?.expect(204)?;
    check_eq("rooms", deployment.all_rooms().await?.len(), 0)?;

    let put = |text: &'static str| transfer::upload(&deployment, &conversation, "it", bytes::Bytes::from_static(text.as_bytes()));
    put("bbbb").await?.expect(204)?;
    let expected = vec![("it", "bbbb"), ("other", "same")];
    check_eq("files in the bucket", told(&files(&storage, &conversation).await?), expected)?;
    let back = deployment.api.get(&transfer::url(&conversation, "files/download", "it")).await?.expect(200)?;
    check_eq("the file without a room", back.text(), "bbbb".to_owned())?;
    deployment.run_well(&conversation, &shell("grep -q bbbb it && printf aaaa > it")).await?;
    let expected = vec![("it", "aaaa"), ("other", "same")];
    check_eq("files once a room has made it what it was", told(&files(&storage, &conversation).await?), expected)?;
    // Deleted without a room, it does not come back with the next.
    let room = deployment.only_room().await?.workspace.unwrap_or_default();
    deployment.api.delete(&format!("/api/admin/workspaces/{room}")).await?.expect(204)?;
    deployment.api.delete(&transfer::url(&conversation, "files", "it")).await?.expect(204)?;
    deployment.api.delete(&transfer::url(&conversation, "files", "it")).await?.expect_error(404, "NOT_FOUND")?;
    deployment.run_well(&conversation, &shell("test ! -e it && test -e other && printf seen > seen")).await?;
    let expected = vec![("other", "same"), ("seen", "seen")];
    check_eq("files after the next run", told(&files(&storage, &conversation).await?), expected)
}
