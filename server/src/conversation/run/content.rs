//! What the run's message has beside its text, for the driver.

use std::time::Duration;

use futures::TryStreamExt;
use nagaya_driver::Block;

use super::Run;
use crate::conversation::content::LARGEST_CONTENT;
use nagaya_workspace::Lease;

/// How long the workspace may take to send all files.
const DEADLINE: Duration = Duration::from_secs(60);
/// Size of a turn's input as it is sent to the agent, in bytes. The agent takes requests of 16 MiB.
const LARGEST_INPUT: usize = 15 << 20;

/// Why a turn's input cannot be sent: its size counts as it is written in JSON.
///
/// # Errors
/// It is too large.
pub(super) fn fits(lines: &[String]) -> Result<(), String> {
    let written = |line: &String| serde_json::to_vec(line).map_or(usize::MAX, |text| text.len());
    match lines.iter().map(written).fold(0, usize::saturating_add) {
        0..=LARGEST_INPUT => Ok(()),
        _ => Err(format!("the message is too large: written as JSON it has more than {} MiB", LARGEST_INPUT >> 20)),
    }
}

impl Run {
    /// The blocks of the message, with the files in the workspace to which they refer.
    ///
    /// # Errors
    /// A file cannot be read, or is not what it must be; the text names the block.
    pub(super) async fn blocks(&self, lease: &Lease) -> Result<Vec<Block>, String> {
        if self.order.content.is_empty() {
            return Ok(Vec::new());
        }
        let read = tokio::time::timeout(DEADLINE, self.read_blocks(lease));
        let read = self.cancel.run_until_cancelled(read).await.ok_or("the run was cancelled")?;
        read.unwrap_or_else(|_| Err(format!("the workspace has not sent the content within {DEADLINE:?}")))
    }

    async fn read_blocks(&self, lease: &Lease) -> Result<Vec<Block>, String> {
        let (mut blocks, mut left) = (Vec::new(), LARGEST_CONTENT);
        for (at, part) in self.order.content.iter().enumerate() {
            let named = |why: String| format!("content[{at}]: {why}");
            let file = match part.path() {
                Some(path) => {
                    let file = read(lease, path, part.largest()).await;
                    file.map_err(|why| named(format!("the file {path:?} in the workspace {why}")))?
                }
                None => Vec::new(),
            };
            left = left
                .checked_sub(file.len())
                .ok_or_else(|| named(format!("the files have more than {LARGEST_CONTENT} bytes together")))?;
            blocks.push(part.block(&file).map_err(named)?);
        }
        Ok(blocks)
    }
}

/// A file of the workspace, which has at most `most` bytes.
async fn read(lease: &Lease, path: &str, most: usize) -> Result<Vec<u8>, String> {
    let (size, mut chunks) = lease.read_file(path).await.map_err(|error| format!("cannot be read: {error}"))?;
    if size > most as u64 {
        return Err(format!("has more than {most} bytes"));
    }
    let mut content = Vec::new();
    // The agent is not trusted to send as much as it has said.
    while let Some(chunk) = chunks.try_next().await.map_err(|error| format!("cannot be read: {error}"))? {
        content.extend_from_slice(&chunk);
        if content.len() > most {
            return Err(format!("has more than {most} bytes"));
        }
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_counts_as_it_is_written_in_json() {
        // Two bytes are its quotes.
        assert!(fits(&["x".repeat(LARGEST_INPUT - 2)]).is_ok());
        assert!(fits(&["x".repeat(LARGEST_INPUT - 1)]).is_err());
        assert!(fits(&["x".repeat(LARGEST_INPUT / 2 - 2), "x".repeat(LARGEST_INPUT / 2 - 2)]).is_ok());
        assert!(fits(&["x".repeat(LARGEST_INPUT / 2), "x".repeat(LARGEST_INPUT / 2)]).is_err());
        assert!(fits(&["\"".repeat(LARGEST_INPUT / 2)]).is_err(), "each is written as two");
        assert!(fits(&[]).is_ok());
    }
}
