//! Workspaces of the deployment under test, whoever launched it.

use std::time::Duration;

use bytes::Bytes;
use futures::future::{join_all, try_join_all};

use crate::harness::context::Context;
use crate::harness::engine::Room;
use crate::harness::failure::{Failure, check_eq};
use crate::harness::poll::eventually;
use crate::harness::vocabulary::Capability;
use crate::scenarios::common::files::upload;
use crate::target::deployment::{Conversation, Deployment, READY_LIMIT};
use crate::target::launch::Launch;

/// How long it may take to find the workspace with a conversation's file.
pub(crate) const FOUND_LIMIT: Duration = Duration::from_secs(5);

/// So many unused workspaces: from the pool of a launched deployment, else those of new conversations.
pub(crate) async fn rooms(
    context: &Context,
    count: usize,
    limit: Duration,
) -> Result<(Deployment, Vec<Room>), Failure> {
    if context.run.options.target.is_some() {
        let deployment = context.deployment().await?;
        let rooms = occupied(context, &deployment, count).await?.into_iter().map(|(_, room)| room).collect();
        return Ok((deployment, rooms));
    }
    context.run.capabilities.check(&[Capability::Image]).map_err(Failure::could_not_run)?;
    let launch =
        Launch::new().without_model().set("WARM_POOL_MIN_SIZE", count).set("WARM_POOL_MAX_SIZE", count.max(10));
    let deployment = context.launch(launch).await?;
    #[allow(clippy::cast_precision_loss, reason = "a handful of workspaces")]
    let full = count as f64;
    deployment.metric("workspace_warm_pool_size", |waiting| waiting >= full, limit).await?;
    let rooms = deployment.rooms().await?;
    check_eq("number of running workspaces", rooms.len(), count)?;
    Ok((deployment, rooms))
}

/// One unused workspace.
pub(crate) async fn room(context: &Context) -> Result<(Deployment, Room), Failure> {
    let (deployment, mut rooms) = rooms(context, 1, READY_LIMIT).await?;
    let room = rooms.pop().ok_or_else(|| Failure::harness("a workspace vanished from a list"))?;
    Ok((deployment, room))
}

/// New conversations, each with its workspace. The suite recognises the workspace by a file that it has uploaded to
/// the conversation.
pub(crate) async fn occupied(
    context: &Context,
    deployment: &Deployment,
    count: usize,
) -> Result<Vec<(Conversation, Room)>, Failure> {
    let first = deployment.conversation(context).await?;
    let mut conversations = Vec::new();
    for _ in 1..count {
        conversations.push(deployment.another_conversation(context, &first.tenant, &first.model).await?);
    }
    conversations.insert(0, first);
    let asks = conversations.iter().map(|conversation| put_mark(deployment, conversation));
    try_join_all(asks).await?;
    // With a bucket, the file may stay there until a run creates the workspace.
    let Ok(rooms) = found(deployment, &conversations).await else {
        let may_run = context.run.capabilities.check(&[Capability::Model]);
        may_run.map_err(|why| Failure::could_not_run(format!("a workspace is created only by a run, which {why}")))?;
        for conversation in &conversations {
            deployment.run(conversation, "Say hello.").await?;
        }
        let rooms = found(deployment, &conversations).await?;
        return Ok(conversations.into_iter().zip(rooms).collect());
    };
    Ok(conversations.into_iter().zip(rooms).collect())
}

/// A workspace and the names of its files; none for a workspace that is being removed.
pub(crate) async fn files_of(room: Room) -> (Room, String) {
    let files = room.exec(["ls", "-A", "/workspace"]).await.map(|done| done.printed).unwrap_or_default();
    (room, files)
}

/// The file that identifies a conversation's workspace.
pub(crate) fn mark(of: &Conversation) -> String {
    format!("conf-{}", of.id)
}

pub(crate) async fn put_mark(deployment: &Deployment, conversation: &Conversation) -> Result<(), Failure> {
    let reply = upload(deployment, conversation, &mark(conversation), Bytes::from_static(b"here")).await?;
    match reply.status.as_u16() {
        429 | 503 => Err(Failure::could_not_run(format!("it has no room for another conversation: {}", reply.text()))),
        _ => reply.expect(204).map(drop),
    }
}

/// The workspace of each conversation, once all exist.
pub(crate) async fn found(deployment: &Deployment, conversations: &[Conversation]) -> Result<Vec<Room>, Failure> {
    eventually(FOUND_LIMIT, "a workspace with the file of each conversation", || find(deployment, conversations)).await
}

pub(crate) async fn find(deployment: &Deployment, conversations: &[Conversation]) -> Result<Vec<Room>, Failure> {
    let listed = join_all(deployment.rooms().await?.into_iter().map(files_of)).await;
    let with = |conversation: &Conversation| {
        let mark = mark(conversation);
        let found = listed.iter().find(|(_, files)| files.lines().any(|file| file == mark));
        found
            .map(|(room, _)| room.clone())
            .ok_or_else(|| Failure::assertion(format!("none of {} workspaces has {mark}", listed.len())))
    };
    conversations.iter().map(with).collect()
}
