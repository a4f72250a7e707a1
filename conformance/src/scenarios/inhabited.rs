//! Rooms of the deployment under test, whoever launched it: what scenarios that look at rooms have in common.

use std::time::Duration;

use bytes::Bytes;
use futures::future::{join_all, try_join_all};

use super::transfer::upload;
use crate::context::Context;
use crate::failure::{Failure, check_eq};
use crate::poll::eventually;
use crate::scenario::Capability;
use crate::target::deployment::{Conversation, Deployment, READY_LIMIT};
use crate::target::engine::Room;
use crate::target::launch::Launch;

/// How long a room with a new conversation's file may take to be found.
const FOUND_LIMIT: Duration = Duration::from_secs(5);

/// So many rooms that nothing has happened in: those that wait in a launched deployment's pool, else those of new conversations.
pub(super) async fn rooms(
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
    #[allow(clippy::cast_precision_loss, reason = "a handful of rooms")]
    let full = count as f64;
    deployment.metric("workspace_warm_pool_size", |waiting| waiting >= full, limit).await?;
    let rooms = deployment.rooms().await?;
    check_eq("number of running rooms", rooms.len(), count)?;
    Ok((deployment, rooms))
}

/// One of them.
pub(super) async fn room(context: &Context) -> Result<(Deployment, Room), Failure> {
    let (deployment, mut rooms) = rooms(context, 1, READY_LIMIT).await?;
    let room = rooms.pop().ok_or_else(|| Failure::harness("a room vanished from a list"))?;
    Ok((deployment, room))
}

/// New conversations, each with its room. Which room is whose nobody but the deployment knows: it is the one with the file that was
/// put into the conversation.
pub(super) async fn occupied(
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
    // Where there is a bucket, a file may wait in it for the room that comes with a run.
    let Ok(rooms) = found(deployment, &conversations).await else {
        let may_run = context.run.capabilities.check(&[Capability::Model]);
        may_run.map_err(|why| Failure::could_not_run(format!("a room comes with a run only, which {why}")))?;
        for conversation in &conversations {
            deployment.run(conversation, "Say hello.").await?;
        }
        let rooms = found(deployment, &conversations).await?;
        return Ok(conversations.into_iter().zip(rooms).collect());
    };
    Ok(conversations.into_iter().zip(rooms).collect())
}

/// A room, and the names of its files; one that goes at this moment is nobody's.
async fn files_of(room: Room) -> (Room, String) {
    let files = room.exec(["ls", "-A", "/workspace"]).await.map(|done| done.printed).unwrap_or_default();
    (room, files)
}

/// The file that tells a conversation's room from others.
fn mark(of: &Conversation) -> String {
    format!("conf-{}", of.id)
}

async fn put_mark(deployment: &Deployment, conversation: &Conversation) -> Result<(), Failure> {
    let reply = upload(deployment, conversation, &mark(conversation), Bytes::from_static(b"here")).await?;
    match reply.status.as_u16() {
        429 | 503 => Err(Failure::could_not_run(format!("it has no room for another conversation: {}", reply.text()))),
        _ => reply.expect(204).map(drop),
    }
}

/// The room of each conversation, once all are there.
async fn found(deployment: &Deployment, conversations: &[Conversation]) -> Result<Vec<Room>, Failure> {
    eventually(FOUND_LIMIT, "a room with the file of each conversation", || find(deployment, conversations)).await
}

async fn find(deployment: &Deployment, conversations: &[Conversation]) -> Result<Vec<Room>, Failure> {
    let listed = join_all(deployment.rooms().await?.into_iter().map(files_of)).await;
    let with = |conversation: &Conversation| {
        let mark = mark(conversation);
        let found = listed.iter().find(|(_, files)| files.lines().any(|file| file == mark));
        found
            .map(|(room, _)| room.clone())
            .ok_or_else(|| Failure::assertion(format!("none of {} rooms has {mark}", listed.len())))
    };
    conversations.iter().map(with).collect()
}
