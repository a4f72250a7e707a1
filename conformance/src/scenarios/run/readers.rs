//! Readers of a run that follow it late, slowly, or again.

use crate::client::stream::names;
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::target::deployment::Server;
use crate::target::launch::Launch;
use crate::target::process::peak_memory;

const NEEDS: &[Capability] =
    &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Model, Capability::Resume];
/// Number of concurrent readers of one run.
const READERS: usize = 100;
/// Memory in bytes that one reader may cost the server.
const READER_LIMIT: u64 = 256 << 10;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "RUN-023",
        "The last run of a conversation can be read again after a restart, and is deleted with the conversation",
        "GET …/stream follows the current or last run; DELETE deletes what is stored of a conversation",
        body!(read_again),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(120),
    Scenario::new(
        "RUN-024",
        "A hundred readers that join at any moment, one of which never reads, receive the same events at little cost",
        "readers live, replaying, both at once; a slow reader does not stall others",
        body!(hundred_readers),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(120),
];

async fn read_again(context: &Context) -> Result<(), Failure> {
    let mut deployment = context.launch(Launch::new()).await?;
    let conversation = deployment.conversation(context).await?;
    deployment.run_well(&conversation, "@say first").await?;
    let events = deployment.run_well(&conversation, "@say second").await?;
    deployment.kill().await?;
    deployment.restart(context).await?;
    let run = events[0].id.rsplit_once(':').map_or("", |(run, _)| run).to_owned();
    let again = deployment.follow(&conversation, &format!("{run}:0")).await?;
    check(again == events, format!("read again: {}, at first: {}", names(&again), names(&events)))?;
    let middle = events.len() / 2;
    let rest = deployment.follow(&conversation, &events[middle].id).await?;
    check(rest == events[middle + 1..], format!("after event {}: {}", middle + 1, names(&rest)))?;
    let state = deployment.server()?.program.env.get("STATE_DIR").cloned().unwrap_or_default();
    let own = |path: &std::path::PathBuf| path.to_string_lossy().contains(&conversation.id);
    // The control.
    let kept = files_below(std::path::Path::new(&state))?;
    check(kept.iter().any(own), format!("no file is the conversation's: {kept:?}"))?;
    deployment.api.delete(&conversation.path("")).await?.expect(204)?;
    let left: Vec<_> = files_below(std::path::Path::new(&state))?;
    let left: Vec<_> = left.iter().filter(|path| own(path)).collect();
    check(left.is_empty(), format!("left of a deleted conversation: {left:?}"))
}

/// Every file below a directory.
fn files_below(dir: &std::path::Path) -> Result<Vec<std::path::PathBuf>, Failure> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)?.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files.extend(files_below(&entry.path())?),
            _ => files.push(entry.path()),
        }
    }
    Ok(files)
}

async fn hundred_readers(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let words: Vec<String> = (0..400).map(|word| format!("word{word}")).collect();
    let prompt = format!("@delay 10\n@chunk 8\n@say {}", words.join(" "));
    let mut first = deployment.start(&conversation, &prompt).await?;
    let run = first.until("init").await?.id.rsplit_once(':').map_or("", |(run, _)| run).to_owned();
    // It has sent its request and does not read.
    let beginning = format!("{run}:0");
    let stuck = deployment.api.follow_stream(&conversation.path("/stream"), &beginning).await?;
    let server = deployment.server.as_ref().map(Server::pid);
    let before = server.map(peak_memory).transpose()?;
    let readers = (0..READERS).map(|_| deployment.follow(&conversation, &beginning));
    let all = futures::future::try_join_all(readers).await?;
    if let (Some(server), Some(before)) = (server, before) {
        let each = peak_memory(server)?.saturating_sub(before) / READERS as u64;
        check(each < READER_LIMIT, format!("each of {READERS} readers cost the server {} KiB", each >> 10))?;
    }
    let events = first.finish().await?;
    check(events.len() > 100, format!("only {} events", events.len()))?;
    for (reader, read) in all.iter().enumerate() {
        check(
            *read == events,
            format!("reader {reader} received {} of {} events, or different ones", read.len(), events.len()),
        )?;
    }
    drop(stuck);
    Ok(())
}
