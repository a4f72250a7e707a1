//! Listing, uploading and downloading files.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::http::Reply;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::files::{listed, start_upload, upload, url};
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;

const NEEDS: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Files];

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "FILE-001",
        "A file uploaded before a run is in the workspace, and a file written there downloads byte for byte",
        "GET …/files, …/files/download?path=, …/files/presented; PUT/DELETE …/files?path=: workspace files",
        body!(round_trip),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(120),
    Scenario::new(
        "FILE-002",
        "No spelling of a path and no link leads out of the workspace, and an invalid path is refused",
        "any path that leaves the workspace: 403 PATH_TRAVERSAL",
        body!(traversal),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(120),
    Scenario::new(
        "FILE-003",
        "An upload that is cut off leaves nothing, and the previous file stays",
        "a fault in the middle of an upload leaves no partially stored file",
        body!(cut_upload),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(120),
    Scenario::new(
        "FILE-004",
        "100,000 files are listed page by page, and the server releases the memory this takes",
        "100,000 files",
        body!(many),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(120),
    Scenario::new(
        "FILE-005",
        "A file of 512 MiB is uploaded and downloaded whole, and the server releases the memory this takes",
        "a large file streams both ways",
        body!(large),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(120),
    Scenario::new(
        "FILE-006",
        "An upload that opened a workspace leaves none when its conversation is deleted meanwhile",
        "DELETE 204: stops the run, releases the workspace, deletes messages and stored files",
        body!(deleted_meanwhile),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Docker, Capability::Image, Capability::Files])
    .limit(120),
];

async fn download(deployment: &Deployment, of: &Conversation, path: &str) -> Result<Reply, Failure> {
    deployment.api.get(&url(of, "files/download", path)).await
}

async fn bash(deployment: &Deployment, conversation: &Conversation, line: &str) -> Result<String, Failure> {
    let tool = serde_json::json!({"command": line, "description": "Work"});
    let events = deployment.run_well(conversation, &format!("@tool Bash {tool}\n@say done")).await?;
    let results = events.iter().filter(|event| event.name == "tool_result");
    Ok(results.map(|event| event.data["content"].as_str().unwrap_or_default().to_owned()).collect())
}

async fn round_trip(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let other = deployment.another_conversation(context, &conversation.tenant, &conversation.model).await?;
    check_eq("files of a new conversation", listed(&deployment, &conversation, "").await?.1, 0)?;
    // All 256 byte values, and an unusual name.
    let every: Bytes = (0..=255u8).cycle().take(100_000).collect();
    let name = "in put/長屋 & \"co\".bin";
    upload(&deployment, &conversation, name, every.clone()).await?.expect(204)?;
    let seen = bash(
        &deployment,
        &conversation,
        &format!("wc -c < '{name}'; mkdir -p outputs; rev '{name}' | head -c 7 | wc -c; cp '{name}' outputs/back.bin"),
    )
    .await?;
    check(seen.contains("100000"), format!("the workspace does not see the file that was uploaded: {seen}"))?;
    let back = download(&deployment, &conversation, "outputs/back.bin").await?.expect(200)?;
    check(back.body == every, format!("{} bytes came back, or others than went in", back.body.len()))?;
    check_eq("Content-Type", back.header("content-type"), Some("application/octet-stream"))?;
    check(
        back.header("content-disposition").is_some_and(|how| how.starts_with("attachment")),
        "it is not to be saved",
    )?;
    let (paths, total) = listed(&deployment, &conversation, "").await?;
    check(paths.contains(&name.to_owned()) && paths.contains(&"outputs/back.bin".to_owned()), format!("{paths:?}"))?;
    check_eq("total", total, u64::try_from(paths.len()).unwrap_or_default())?;
    let (shown, _) = listed(&deployment, &conversation, "/presented").await?;
    check_eq("files that are presented", shown, vec!["outputs/back.bin".to_owned()])?;
    // Another conversation has none of these files.
    check_eq("files of another conversation", listed(&deployment, &other, "").await?.1, 0)?;
    download(&deployment, &other, name).await?.expect_error(404, "NOT_FOUND")?;
    // Replacement and deletion.
    upload(&deployment, &conversation, name, Bytes::from_static(b"new")).await?.expect(204)?;
    let replaced = download(&deployment, &conversation, name).await?.expect(200)?;
    check_eq("what replaced it", replaced.text(), "new".to_owned())?;
    deployment.api.delete(&url(&conversation, "files", name)).await?.expect(204)?;
    download(&deployment, &conversation, name).await?.expect_error(404, "NOT_FOUND")?;
    deployment.api.delete(&url(&conversation, "files", name)).await?.expect_error(404, "NOT_FOUND")?;
    let gone = bash(&deployment, &conversation, &format!("ls '{name}' 2>&1 || true")).await?;
    check(gone.contains("No such file"), format!("the workspace still has it: {gone}"))
}

async fn traversal(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    // Links that a workspace may create; the last one leads outside through a folder.
    let made = bash(
        &deployment,
        &conversation,
        "echo inside > real; ln -s /etc/passwd link; ln -s /etc dir; ln -s real near; mkfifo pipe; ls",
    )
    .await?;
    check(made.contains("link") && made.contains("pipe"), format!("the workspace has no links: {made}"))?;
    let outside = ["..", "../x", "a/../../x", "/etc/passwd", "a/..", "%2e%2e/x", "..%2fx", "..\\x", "//x"];
    let through = ["link", "dir/passwd", "pipe"];
    let api = &deployment.api;
    // The control: a file inside is read.
    download(&deployment, &conversation, "real").await?.expect(200)?;
    for path in outside.iter().chain(&through) {
        let replies = [
            download(&deployment, &conversation, path).await?,
            upload(
                &deployment,
                &conversation,
                if through.contains(path) { "dir/x" } else { path },
                Bytes::from_static(b"x"),
            )
            .await?,
        ];
        for reply in replies {
            reply.expect_error(403, "PATH_TRAVERSAL").map_err(|failure| failure.during(format!("{path:?}")))?;
        }
    }
    for path in outside {
        api.delete(&url(&conversation, "files", path)).await?.expect_error(403, "PATH_TRAVERSAL")?;
    }
    // Not encoded by the client, or encoded twice.
    for raw in ["../x", "%2e%2e/x", "%252e%252e/x", "/etc/passwd", "%2Fetc%2Fpasswd"] {
        let reply = api.get(&conversation.path(&format!("/files/download?path={raw}"))).await?;
        reply.expect_error(403, "PATH_TRAVERSAL").map_err(|failure| failure.during(raw))?;
    }
    let long = "x".repeat(256);
    for path in ["", "a\0b", "a//b", "a/./b", &long] {
        for reply in [
            download(&deployment, &conversation, path).await?,
            upload(&deployment, &conversation, path, Bytes::from_static(b"x")).await?,
        ] {
            reply.expect_error(422, "VALIDATION_ERROR").map_err(|failure| failure.during(format!("{path:?}")))?;
        }
    }
    // Replacing or deleting a link affects the link, never its target.
    upload(&deployment, &conversation, "near", Bytes::from_static(b"new")).await?.expect(204)?;
    let real = download(&deployment, &conversation, "real").await?.expect(200)?;
    check_eq("what the link led to", real.text(), "inside\n".to_owned())?;
    api.get(&conversation.path("/files/download")).await?.expect_error(422, "VALIDATION_ERROR")
}

async fn cut_upload(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    upload(&deployment, &conversation, "kept", Bytes::from_static(b"as it was")).await?.expect(204)?;
    for (path, framing) in [("kept", "Content-Length: 1000000"), ("new", "Transfer-Encoding: chunked")] {
        let part = "f".repeat(65_536);
        let part = if framing.contains("chunked") { format!("10000\r\n{part}\r\n") } else { part };
        let mut stream = start_upload(&deployment, &conversation, path, framing, &part).await?;
        // The control: it has begun to arrive.
        let room = deployment.only_room().await?;
        eventually(Duration::from_secs(10), "the upload in the workspace", async || {
            let found = room.shell("cd /workspace && find . -type f -size +1k | wc -l").await?;
            check(found.printed.trim() != "0", "nothing of it has arrived yet")
        })
        .await?;
        stream.shutdown().await?;
        let mut answer = String::new();
        let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut answer)).await;
        check(!answer.starts_with("HTTP/1.1 2"), format!("half an upload is answered with {answer:?}"))?;
        eventually(Duration::from_secs(20), "no partially stored file", async || {
            let found = room.shell("cd /workspace && find . -type f | sort").await?;
            check_eq("files in the workspace", found.printed.trim(), "./kept")
        })
        .await?;
    }
    let kept = download(&deployment, &conversation, "kept").await?.expect(200)?;
    check_eq("what was there before", kept.text(), "as it was".to_owned())
}

async fn many(context: &Context) -> Result<(), Failure> {
    const FILES: u64 = 100_000;
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let line = "mkdir many && cd many && seq -f f%06g 0 99999 | xargs touch && ls | wc -l";
    let made = bash(&deployment, &conversation, line).await?;
    check(made.contains("100000"), format!("the workspace has not made them: {made}"))?;
    let (first, total) = listed(&deployment, &conversation, "?limit=10000").await?;
    check_eq("total", total, FILES)?;
    check_eq("files of the first page", first.len(), 10_000)?;
    let (last, _) = listed(&deployment, &conversation, "?limit=10&offset=99995").await?;
    let expected: Vec<String> = (99_995..100_000).map(|number| format!("many/f{number:06}")).collect();
    check_eq("files of the last page", last, expected)?;
    let (beyond, _) = listed(&deployment, &conversation, "?offset=100000").await?;
    check_eq("files beyond the end", beyond, Vec::<String>::new())?;
    for bad in ["?limit=0", "?limit=10001", "?offset=-1", "?limit=x"] {
        let reply = deployment.api.get(&conversation.path(&format!("/files{bad}"))).await?;
        reply.expect_error(422, "VALIDATION_ERROR")?;
    }
    deployment.run_well(&conversation, "@say still well").await.map(|_| ())
}

async fn large(context: &Context) -> Result<(), Failure> {
    const SIZE: usize = 512 << 20;
    let launch = Launch::new().set("CONTAINER_MEMORY", "2GiB").set("CONTAINER_DISK", "1GiB");
    let deployment = context.launch(launch).await?;
    let conversation = deployment.conversation(context).await?;
    let server = deployment.server()?.process.clone();
    let before = crate::target::process::peak_memory(server.pid())?;
    let content = Bytes::from(vec![b'n'; SIZE]);
    upload(&deployment, &conversation, "big", content.clone()).await?.expect(204)?;
    let seen = bash(&deployment, &conversation, "stat -c %s big; tail -c 1 big").await?;
    check(seen.contains(&SIZE.to_string()), format!("the workspace's file is another: {seen}"))?;
    let back = download(&deployment, &conversation, "big").await?.expect(200)?;
    check(back.body == content, format!("{} bytes came back, or others", back.body.len()))?;
    let grown = crate::target::process::peak_memory(server.pid())?.saturating_sub(before);
    check(grown < 64 << 20, format!("the server's memory grew by {} MiB at its peak", grown >> 20))
}

async fn deleted_meanwhile(context: &Context) -> Result<(), Failure> {
    const SOON: Duration = Duration::from_secs(20);
    let deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    let half = "h".repeat(1000);
    let mut stream = start_upload(&deployment, &conversation, "late", "Content-Length: 2000", &half).await?;
    eventually(SOON, "the workspace that the upload opens", async || deployment.only_room().await.map(drop)).await?;
    // The conversation is deleted at once, or not before the upload has ended.
    let path = conversation.path("");
    let deleted = deployment.api.delete(&path);
    let ended = async {
        let refused = deployment.api.get(&path).await?.status != 200;
        stream.write_all(half.as_bytes()).await?;
        let mut answer = String::new();
        tokio::time::timeout(SOON, stream.read_to_string(&mut answer)).await.map_err(Failure::assertion)??;
        Ok::<_, Failure>((refused, answer))
    };
    let (deleted, ended) = tokio::join!(deleted, ended);
    let (status, (refused, answer)) = (deleted?.status, ended?);
    context.note(format!("DELETE {status}; deleted before the upload's end: {refused}; the upload: {answer:?}"));
    check(matches!(status.as_u16(), 204 | 409), format!("DELETE answered {status}"))?;
    if status == 409 {
        deployment.api.delete(&path).await?.expect(204)?;
    } else if refused {
        check(answer.starts_with("HTTP/1.1 4"), format!("an upload to what is deleted is answered {answer:?}"))?;
    }
    eventually(SOON, "no workspace", async || {
        check_eq("rooms", deployment.all_rooms().await?.len(), 0)?;
        check_eq("directories", std::fs::read_dir(&deployment.server()?.sockets)?.count(), 0)
    })
    .await?;
    deployment.api.get(&path).await?.expect_error(404, "NOT_FOUND")
}
