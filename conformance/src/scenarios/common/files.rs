//! A conversation's files over the API.

use bytes::Bytes;
use http::Method;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::client::http::Reply;
use crate::harness::failure::Failure;
use crate::target::deployment::{Conversation, Deployment};

pub(crate) fn url(conversation: &Conversation, route: &str, path: &str) -> String {
    let path: String = path.bytes().map(|byte| format!("%{byte:02X}")).collect();
    conversation.path(&format!("/{route}?path={path}"))
}

pub(crate) async fn upload(
    deployment: &Deployment,
    to: &Conversation,
    path: &str,
    content: Bytes,
) -> Result<Reply, Failure> {
    deployment.api.upload(&url(to, "files", path), content).await
}

/// The paths on a page of the list, and the total number.
pub(crate) async fn listed(
    deployment: &Deployment,
    of: &Conversation,
    query: &str,
) -> Result<(Vec<String>, u64), Failure> {
    let page = deployment.api.get(&of.path(&format!("/files{query}"))).await?.expect(200)?.json()?;
    let items = page["items"].as_array().ok_or_else(|| Failure::assertion(format!("no items in {page}")))?;
    let paths = items.iter().map(|item| item["path"].as_str().unwrap_or_default().to_owned()).collect();
    Ok((paths, page["total"].as_u64().unwrap_or_default()))
}

/// An upload whose beginning has been sent.
pub(crate) async fn start_upload(
    deployment: &Deployment,
    to: &Conversation,
    path: &str,
    framing: &str,
    beginning: &str,
) -> Result<TcpStream, Failure> {
    let mut stream = deployment.api.connect().await?;
    let head = deployment.api.head_of(&Method::PUT, &url(to, "files", path))?;
    let head = format!("{head}{framing}\r\nConnection: close\r\n\r\n");
    stream.write_all(format!("{head}{beginning}").as_bytes()).await?;
    Ok(stream)
}
