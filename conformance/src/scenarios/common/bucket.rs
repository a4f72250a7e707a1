//! Runs that write files, and a conversation's files in object storage.

use serde_json::Value;

use crate::client::stream::RunEvent;
use crate::harness::failure::Failure;
use crate::target::deployment::Conversation;
use crate::target::storage::{Object, Storage};

pub(crate) fn shell(command: &str) -> String {
    let input = serde_json::json!({"command": command, "description": "Work"});
    format!("@tool Bash {input}\n@say done")
}

/// The files of a conversation in the bucket, without the manifest.
pub(crate) async fn files(storage: &Storage, of: &Conversation) -> Result<Vec<Object>, Failure> {
    let below = format!("workspaces/{}/{}/", of.tenant, of.id);
    let mut objects = storage.objects().await?;
    objects.retain(|object| object.key.starts_with(&below) && !object.key.ends_with("/manifest.json"));
    Ok(objects)
}

pub(crate) fn names_and_texts(objects: &[Object]) -> Vec<(&str, &str)> {
    let name = |key: &'_ str| key.rfind("/files/").map_or(0, |at| at + "/files/".len());
    objects.iter().map(|object| (&object.key[name(&object.key)..], object.text.as_deref().unwrap_or("?"))).collect()
}

pub(crate) fn storage_errors(events: &[RunEvent]) -> Vec<&Value> {
    let of_storage = |event: &&RunEvent| event.name == "error" && event.data["error_type"] == "storage_error";
    events.iter().filter(of_storage).map(|event| &event.data).collect()
}
