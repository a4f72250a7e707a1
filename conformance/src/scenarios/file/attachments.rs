//! Files attached to a run.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::form::{BOUNDARY, Form, content_type};
use crate::client::stream::{EventStream, RunEvent, names};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::poll::eventually;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::files::listed;
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;
use crate::target::process::peak_memory;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "FILE-010",
        "Files attached to a run are in the workspace before it begins, and the prompt names them to the model",
        "POST …/stream also takes multipart: request_data (that JSON), files, file_metadata",
        body!(before_the_run),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[Capability::Docker, Capability::Image, Capability::Model, Capability::Files])
    .limit(90),
    Scenario::new(
        "FILE-011",
        "An attachment form that is cut off or unacceptable leaves no run, message, workspace or file",
        "a fault in the middle of an upload leaves no partially stored file",
        body!(nothing_left),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Files])
    .limit(90),
    Scenario::new(
        "FILE-012",
        "Attachments of 256 MiB arrive whole, and the server does not keep them in memory",
        "upload with the run: streamed, size limits",
        body!(large),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Files])
    .limit(90),
    Scenario::new(
        "FILE-013",
        "Attachments survive a server that is killed before the run has its workspace",
        "after kill -9 at any moment, nothing leaks and nothing is lost",
        body!(killed),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(&[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Files])
    .limit(90),
];

async fn start(deployment: &Deployment, conversation: &Conversation, form: Form) -> Result<EventStream, Failure> {
    deployment.api.open_stream_of(&conversation.path("/stream"), form).await
}

/// The output of the run's tools, after checking that it succeeded.
fn printed(events: &[RunEvent]) -> Result<String, Failure> {
    let done = events.last().map(|done| done.data.clone()).unwrap_or_default();
    check_eq(format!("status in done: {done} ({})", names(events)), done["status"].as_str(), Some("success"))?;
    let results = events.iter().filter(|event| event.name == "tool_result");
    Ok(results.map(|event| event.data["content"].as_str().unwrap_or_default().to_owned()).collect())
}

fn bash(line: &str) -> String {
    format!("@tool Bash {}\n@say done", json!({"command": line, "description": "Look"}))
}

async fn before_the_run(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let every: Vec<u8> = (0..=255u8).cycle().take(100_000).collect();
    let form = deployment
        .api
        .form_of_run(&bash("sha256sum '長屋 & co.bin'; cat notes.txt; ls | wc -l"))
        .file("長屋 & co.bin", &every)
        .file("notes.txt", b"a line\r\n--of dashes\r\n");
    let run_output = printed(&start(&deployment, &conversation, form).await?.finish().await?)?;
    check(
        run_output.contains("--of dashes"),
        format!("the run does not see the files that came with it: {run_output}"),
    )?;
    check(run_output.contains(&sha256(&every)), format!("the run sees other bytes than were sent: {run_output}"))?;
    let (paths, _) = listed(&deployment, &conversation, "").await?;
    check_eq("files of the workspace", paths, vec!["notes.txt".to_owned(), "長屋 & co.bin".to_owned()])?;

    // To other paths, and over existing files.
    let form = deployment
        .api
        .form_of_run(&bash("cat notes.txt in/put/b.csv"))
        .file("one", b"newer\n")
        .file("two", b"1,2\n")
        .metadata(&json!([{"path": "notes.txt"}, {"path": "in/put/b.csv"}]).to_string());
    let run_output = printed(&start(&deployment, &conversation, form).await?.finish().await?)?;
    check(run_output.contains("newer\n1,2"), format!("the files are not at the paths of the metadata: {run_output}"))?;

    let messages = deployment.api.get(&conversation.path("/messages")).await?.expect(200)?.json()?;
    let of_user = messages.as_array().into_iter().flatten().filter(|message| message["message_type"] == "user");
    let files: Vec<&Value> = of_user.map(|message| &message["content"]["files"]).collect();
    check(
        files.len() == 2 && files[1].to_string().contains("in/put/b.csv"),
        format!("files in the messages: {files:?}"),
    )?;
    // The prompt names them to the model; a form without files is a normal run.
    for (form, known) in [
        (deployment.api.form_of_run("@recall c-told.csv"), "c-told.csv: unknown"),
        // Another name: the first one is in what was said before.
        (deployment.api.form_of_run("@recall d-told.csv").file("d-told.csv", b"3"), "d-told.csv: remembered"),
    ] {
        let events = start(&deployment, &conversation, form).await?.finish().await?;
        printed(&events)?;
        check_eq("what the model says of a file", events.last().map_or("", |done| done.text("result")), known)?;
    }
    Ok(())
}

fn sha256(content: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The total size of the files in a directory.
fn weight(dir: &Path) -> std::io::Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        sum += match entry.file_type()?.is_dir() {
            true => weight(&entry.path())?,
            false => entry.metadata()?.len(),
        };
    }
    Ok(sum)
}

async fn nothing_left(context: &Context) -> Result<(), Failure> {
    const LARGE: usize = 8 << 20;
    let deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    let path = conversation.path("/stream");
    let state = deployment.server()?.program.env.get("STATE_DIR").cloned().unwrap_or_default();
    let state = Path::new(&state);
    let begins = || deployment.api.form_of_run("@say never").file("good", b"good").file("large", &vec![b'x'; LARGE]);
    let many =
        (0..101).fold(deployment.api.form_of_run("@say never"), |form, number| form.file(&format!("f{number}"), b"x"));
    let head = format!("--{BOUNDARY}\r\nX-Long: {}", "x".repeat(300_000));
    let refused: [(&str, Bytes, u16, &str); 13] = [
        ("a path that leads out, in the last file", begins().file("../out", b"x").whole(), 403, "PATH_TRAVERSAL"),
        (
            "the same in the metadata",
            begins().metadata(r#"[{"path":"a"},{"path":"/etc/passwd"}]"#).whole(),
            403,
            "PATH_TRAVERSAL",
        ),
        ("two files of one name", begins().file("good", b"x").whole(), 422, "VALIDATION_ERROR"),
        ("a file that is another's folder", begins().file("good/x", b"x").whole(), 422, "VALIDATION_ERROR"),
        ("a file without a name", begins().file("", b"x").whole(), 422, "VALIDATION_ERROR"),
        ("metadata for fewer files", begins().metadata(r#"[{"path":"a"}]"#).whole(), 422, "VALIDATION_ERROR"),
        ("a part that nobody knows", begins().field("other", "x").whole(), 422, "VALIDATION_ERROR"),
        ("101 files", many.whole(), 422, "VALIDATION_ERROR"),
        ("no request_data", deployment.api.form().file("good", b"x").whole(), 422, "VALIDATION_ERROR"),
        ("request_data twice", begins().request("{}").whole(), 422, "VALIDATION_ERROR"),
        (
            "request_data that is no request",
            deployment.api.form().request("{}").file("good", b"x").whole(),
            422,
            "VALIDATION_ERROR",
        ),
        ("no end", begins().unfinished(), 422, "VALIDATION_ERROR"),
        ("a part whose head does not end", head.into(), 422, "VALIDATION_ERROR"),
    ];
    for (what, body, status, code) in refused {
        let reply = deployment.api.post_form(&path, body).await?;
        reply.expect_error(status, code).map_err(|failure| failure.during(what))?;
    }
    let text = "x".repeat(4_000_000);
    let reply = deployment.api.post_form(&path, deployment.api.form_of_run(&text).whole()).await?;
    reply.expect_error(413, "PAYLOAD_TOO_LARGE")?;

    // A client that disconnects in the middle of a file.
    let mut stream = deployment.api.connect().await?;
    let head = deployment.api.head_of(&Method::POST, &path)?;
    let head = format!("{head}Content-Type: {}\r\nContent-Length: 100000000\r\n\r\n", content_type());
    stream.write_all(head.as_bytes()).await?;
    stream
        .write_all(&deployment.api.form_of_run("@say never").file_begun("cut", &vec![b'x'; LARGE]).unfinished())
        .await?;
    // The control: it has begun to arrive.
    let arrives = async || check(weight(state)? > LARGE as u64 / 2, "nothing of it has arrived yet");
    eventually(Duration::from_secs(10), "the form in the state directory", arrives).await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut answer)).await;
    check(!answer.starts_with("HTTP/1.1 2"), format!("half a form is answered with {answer:?}"))?;
    let gone = async || {
        let left = weight(state)?;
        check(left < LARGE as u64 / 2, format!("{left} bytes in the state directory"))
    };
    eventually(Duration::from_secs(10), "nothing of it in the state directory", gone).await?;

    check_eq("rooms", deployment.all_rooms().await?.len(), 0)?;
    deployment.api.get(&path).await?.expect_error(404, "NOT_FOUND")?;
    let messages = deployment.api.get(&conversation.path("/messages")).await?.expect(200)?.json()?;
    check_eq("messages", messages.as_array().map(Vec::len), Some(0))?;
    check_eq("files", listed(&deployment, &conversation, "").await?.1, 0)?;
    // And a valid form is accepted.
    let events = start(&deployment, &conversation, deployment.api.form_of_run(&bash("ls")).file("good", b"x"))
        .await?
        .finish()
        .await?;
    check(printed(&events)?.contains("good"), "the file of a good form is not in the workspace")?;

    // The files of a run that gets no workspace go with it.
    let launch = Launch::new().set("CONTAINER_IMAGE", "conformance/no-such-image:1").without_waiting();
    let homeless = context.launch(launch).await?;
    let conversation = homeless.conversation(context).await?;
    let state = homeless.server()?.program.env.get("STATE_DIR").cloned().unwrap_or_default();
    let form = homeless.api.form_of_run("@say never").file("large", &vec![b'x'; LARGE]);
    let events = start(&homeless, &conversation, form).await?.finish().await?;
    check_eq("status without an image", events.last().map(|done| done.text("status")), Some("error"))?;
    let gone = async || {
        let left = weight(Path::new(&state))?;
        check(left < LARGE as u64 / 2, format!("{left} bytes in the state directory"))
    };
    eventually(Duration::from_secs(10), "nothing of a run without a workspace", gone).await
}

async fn large(context: &Context) -> Result<(), Failure> {
    const SIZE: usize = 256 << 20;
    let launch = Launch::new().set("CONTAINER_MEMORY", "2GiB").set("CONTAINER_DISK", "1GiB");
    let deployment = context.launch(launch).await?;
    let conversation = deployment.conversation(context).await?;
    let server = deployment.server()?.process.clone();
    let before = peak_memory(server.pid())?;
    let form = deployment.api.form_of_run(&bash("stat -c %s big; tail -c 1 big")).file("big", &vec![b'n'; SIZE]);
    let run_output = printed(&start(&deployment, &conversation, form).await?.finish().await?)?;
    check(run_output.contains(&SIZE.to_string()), format!("the workspace's file is another: {run_output}"))?;
    let grown = peak_memory(server.pid())?.saturating_sub(before);
    check(grown < 64 << 20, format!("the server's memory grew by {} MiB at its peak", grown >> 20))?;
    let state = deployment.server()?.program.env.get("STATE_DIR").cloned().unwrap_or_default();
    let left = weight(Path::new(&state))?;
    check(left < 64 << 20, format!("{} MiB are in the state directory after the run", left >> 20))
}

async fn killed(context: &Context) -> Result<(), Failure> {
    const ATTEMPTS: usize = 5;
    let mut deployment = context.launch(Launch::new().set("SHUTDOWN_WORKSPACES", "keep")).await?;
    let first = deployment.conversation(context).await?;
    for attempt in 1..=ATTEMPTS {
        let conversation = deployment.another_conversation(context, &first.tenant, &first.model).await?;
        let form = deployment.api.form_of_run(&bash("cat with-it")).file("with-it", b"still here\n");
        let mut stream = start(&deployment, &conversation, form).await?;
        // It has been accepted; creating a workspace takes longer than this.
        stream.until("progress").await?;
        deployment.kill().await?;
        drop(stream);
        deployment.restart(context).await?;
        let events = deployment.follow(&conversation, "0").await?;
        let openings = events.iter().filter(|event| event.data.to_string().contains("Opening")).count();
        if openings < 2 {
            context.note(format!("attempt {attempt}: the workspace existed before the kill"));
            continue;
        }
        let run_output = printed(&events)?;
        check(
            run_output.contains("still here"),
            format!("the run does not see the file that came with it: {run_output}"),
        )?;
        deployment.api.put("/api/admin/pool", &json!({"min_size": 0, "max_size": 0})).await?.expect(200)?;
        for conversation in [&first, &conversation] {
            deployment.api.delete(&conversation.path("")).await?.expect(204)?;
        }
        deployment
            .server
            .as_mut()
            .map(|server| server.program.env.insert("SHUTDOWN_WORKSPACES".into(), "destroy".into()));
        deployment.stop().await?;
        return deployment.restart(context).await;
    }
    Err(Failure::could_not_run(format!("in {ATTEMPTS} attempts every workspace existed before the server was killed")))
}
