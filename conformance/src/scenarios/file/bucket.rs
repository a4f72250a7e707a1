//! Workspaces' files in object storage.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::bucket::{files, names_and_texts, shell, storage_errors};
use crate::scenarios::common::files;
use crate::scenarios::common::needs::RUN;
use crate::target::launch::Launch;
use crate::target::storage::Object;

/// How long background work may take.
const SOON: Duration = Duration::from_secs(20);

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "FILE-101",
        "Files that a run writes are in the bucket after it, under any name; files that it deletes are not",
        "with a bucket, files return after the run",
        body!(written),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "FILE-102",
        "The files of a killed workspace are in the conversation's next workspace, with their modes",
        "with a bucket, files arrive in the container before the run",
        body!(next_room),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "FILE-103",
        "The files of two tenants stay separate, in the bucket and in workspaces",
        "tenant isolation",
        body!(two_tenants),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "FILE-104",
        "Deleting a conversation removes all its files from the bucket, and none of another conversation",
        "DELETE 204: stops the run, releases the workspace, deletes messages and stored files",
        body!(deleted),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "FILE-105",
        "After a server is killed while it collects a run's files, the next server completes it",
        "after kill -9 at any moment, nothing leaks and nothing is lost",
        body!(killed_in_between),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "FILE-106",
        "An upload in progress when its conversation is deleted leaves nothing, in the bucket or in a workspace",
        "DELETE 204: stops the run, releases the workspace, deletes messages and stored files",
        body!(deleted_meanwhile),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
    Scenario::new(
        "FILE-107",
        "A file replaced or deleted without a workspace stays so in the next one, which may restore its old content",
        "with a bucket, files return after the run",
        body!(replaced_without_room),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(RUN)
    .limit(120),
];

async fn written(context: &Context) -> Result<(), Failure> {
    let storage = context.storage().await?;
    let deployment = context.launch(Launch::new().bucket(&storage)).await?;
    let conversation = deployment.conversation(context).await?;
    let write = "mkdir -p src/deep && printf one > one.txt && printf two > 'src/deep/a b%.txt' && printf gone > gone.txt \
                 && ln -s /etc/passwd link";
    let events = deployment.run_well(&conversation, &shell(write)).await?;
    check_eq("storage errors", storage_errors(&events).len(), 0)?;
    let expected = vec![("gone.txt", "gone"), ("one.txt", "one"), ("src/deep/a%20b%25.txt", "two")];
    check_eq("files after the run", names_and_texts(&files(&storage, &conversation).await?), expected)?;
    deployment.run_well(&conversation, &shell("rm gone.txt && printf three > one.txt")).await?;
    let expected = vec![("one.txt", "three"), ("src/deep/a%20b%25.txt", "two")];
    check_eq("files after the second run", names_and_texts(&files(&storage, &conversation).await?), expected)?;
    let before = storage.requests().await?.len();
    deployment.run_well(&conversation, "@say nothing changes").await?;
    check_eq("requests for a run that changes nothing", storage.requests().await?.len(), before)?;
    // What clients put into the workspace is saved without a run, time and again.
    for name in ["first.txt", "second.txt"] {
        deployment.api.upload(&conversation.path(&format!("/files?path={name}")), "put".into()).await?.expect(204)?;
        eventually(SOON, format!("{name} in the bucket"), async || {
            let objects = files(&storage, &conversation).await?;
            check(names_and_texts(&objects).contains(&(name, "put")), format!("{objects:?}"))
        })
        .await?;
    }
    Ok(())
}

async fn next_room(context: &Context) -> Result<(), Failure> {
    let storage = context.storage().await?;
    let deployment = context.launch(Launch::new().bucket(&storage)).await?;
    let conversation = deployment.conversation(context).await?;
    let write =
        "mkdir -p bin && printf '#!/bin/sh\\necho it runs' > bin/tool && chmod 755 bin/tool && printf data > data";
    deployment.run_well(&conversation, &shell(write)).await?;
    let room = deployment.only_room().await?;
    room.kill("SIGKILL").await?;
    eventually(SOON, "the workspace does not run", async || match room.is_running().await {
        Ok(false) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    deployment.run_well(&conversation, &shell("cat data && ./bin/tool > ran")).await?;
    let next = deployment.only_room().await?;
    check(next.id != room.id, "only the killed workspace exists")?;
    let read = next.shell("cat /workspace/data /workspace/ran").await?;
    check(
        read.printed.contains("data") && read.printed.contains("it runs"),
        format!("in the next workspace: {}", read.printed),
    )
}

async fn two_tenants(context: &Context) -> Result<(), Failure> {
    let storage = context.storage().await?;
    let deployment = context.launch(Launch::new().bucket(&storage)).await?;
    let (one, two) = (deployment.conversation(context).await?, deployment.conversation(context).await?);
    check(one.tenant != two.tenant, "both conversations are of one tenant")?;
    for (conversation, text) in [(&one, "first"), (&two, "second")] {
        deployment.run_well(conversation, &shell(&format!("printf {text} > mine"))).await?;
    }
    check_eq("the first's", names_and_texts(&files(&storage, &one).await?), vec![("mine", "first")])?;
    check_eq("the second's", names_and_texts(&files(&storage, &two).await?), vec![("mine", "second")])?;
    let strange = |object: &&Object| {
        ![&one, &two].iter().any(|of| object.key.starts_with(&format!("workspaces/{}/{}/", of.tenant, of.id)))
    };
    let objects = storage.objects().await?;
    check(!objects.iter().any(|object| strange(&object)), format!("objects of neither tenant: {objects:?}"))
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
    check(!left.iter().any(|object| object.key.contains(&one.id)), format!("objects left of it: {left:?}"))?;
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
    deployment.restart(context).await?;
    eventually(SOON, "the file is in the bucket", async || {
        let files = files(&storage, &conversation).await.map_err(|failure| failure.to_string())?;
        if names_and_texts(&files) == [("kept.txt", "kept")] { Ok(()) } else { Err(format!("{files:?}")) }
    })
    .await
}

async fn deleted_meanwhile(context: &Context) -> Result<(), Failure> {
    let storage = context.storage().await?;
    let deployment = context.launch(Launch::new().bucket(&storage)).await?;
    let conversation = deployment.conversation(context).await?;
    let (half, size) = ("h".repeat(1000), "Content-Length: 2000");
    let mut upload = files::start_upload(&deployment, &conversation, "late", size, &half).await?;
    // The control: an upload to a conversation that is not deleted is accepted.
    let other = deployment.another_conversation(context, &conversation.tenant, &conversation.model).await?;
    let mut well = files::start_upload(&deployment, &other, "late", size, &half).await?;
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
    check(!left.iter().any(|object| object.key.contains(&conversation.id)), format!("objects left of it: {left:?}"))?;
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

    let put = |text: &'static str| {
        files::upload(&deployment, &conversation, "it", bytes::Bytes::from_static(text.as_bytes()))
    };
    put("bbbb").await?.expect(204)?;
    let expected = vec![("it", "bbbb"), ("other", "same")];
    check_eq("files in the bucket", names_and_texts(&files(&storage, &conversation).await?), expected)?;
    let back = deployment.api.get(&files::url(&conversation, "files/download", "it")).await?.expect(200)?;
    check_eq("the file without a workspace", back.text(), "bbbb".to_owned())?;
    deployment.run_well(&conversation, &shell("grep -q bbbb it && printf aaaa > it")).await?;
    let expected = vec![("it", "aaaa"), ("other", "same")];
    check_eq(
        "files after a workspace restored the old content",
        names_and_texts(&files(&storage, &conversation).await?),
        expected,
    )?;
    // A file deleted while there is no workspace does not come back with the next one.
    let room = deployment.only_room().await?.workspace.unwrap_or_default();
    deployment.api.delete(&format!("/api/admin/workspaces/{room}")).await?.expect(204)?;
    deployment.api.delete(&files::url(&conversation, "files", "it")).await?.expect(204)?;
    deployment.api.delete(&files::url(&conversation, "files", "it")).await?.expect_error(404, "NOT_FOUND")?;
    deployment.run_well(&conversation, &shell("test ! -e it && test -e other && printf seen > seen")).await?;
    let expected = vec![("other", "same"), ("seen", "seen")];
    check_eq("files after the next run", names_and_texts(&files(&storage, &conversation).await?), expected)
}
