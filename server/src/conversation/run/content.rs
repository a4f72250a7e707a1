//! What the run's message has beside its text, for the driver.

use futures::TryStreamExt;
use nagaya_driver::Block;

use super::Run;
use crate::conversation::content::LARGEST_CONTENT;
use nagaya_workspace::Lease;

impl Run {
    /// The blocks of the message, with the files in the workspace to which they refer.
    ///
    /// # Errors
    /// A file cannot be read, or is not what it must be; the text names the block.
    pub(super) async fn blocks(&self, lease: &Lease) -> Result<Vec<Block>, String> {
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
    let mut content = Vec::new();
    // The agent is not trusted to send as much as it has said.
    while let Some(chunk) = chunks.try_next().await.map_err(|error| format!("cannot be read: {error}"))? {
        content.extend_from_slice(&chunk);
        if content.len() > most || size > most as u64 {
            return Err(format!("has more than {most} bytes"));
        }
    }
    Ok(content)
}
