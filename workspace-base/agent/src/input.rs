//! What is written to the driver's standard input: lines in the order in which they came, each batch once.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::io::AsyncWriteExt;
use tokio::process::ChildStdin;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Ids of batches that are remembered, so that a request that is repeated writes nothing twice.
const REMEMBERED: usize = 1_024;
/// Bytes that may wait to be written.
const MOST_WAITING: usize = 32 * 1024 * 1024;

/// Why lines are not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The input has been closed.
    Closed,
    /// The driver does not read what it has been sent.
    Full,
}

/// The lines for one driver's input.
#[derive(Debug, Default)]
pub(crate) struct Input {
    queue: Mutex<Queue>,
    changed: Notify,
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    waiting: usize,
    seen: VecDeque<String>,
}

impl Input {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a batch of lines, unless one with this id has been taken before. A line feed in a line would make two of it, so it is
    /// replaced by a space; JSON has none outside its texts.
    pub(crate) fn push(&self, id: &str, lines: &[String]) -> Result<(), Refusal> {
        let mut queue = self.queue();
        if queue.seen.iter().any(|seen| seen == id) {
            return Ok(());
        }
        if self.closed.is_cancelled() {
            return Err(Refusal::Closed);
        }
        let more: usize = lines.iter().map(|line| line.len() + 1).sum();
        if queue.waiting + more > MOST_WAITING {
            return Err(Refusal::Full);
        }
        queue.waiting += more;
        queue.lines.extend(lines.iter().map(|line| format!("{}\n", line.replace('\n', " ")).into_bytes()));
        queue.seen.push_back(id.to_owned());
        if queue.seen.len() > REMEMBERED {
            queue.seen.pop_front();
        }
        drop(queue);
        self.changed.notify_one();
        Ok(())
    }

    /// Closes the driver's input once everything so far is written.
    pub(crate) fn close(&self) {
        self.closed.cancel();
        self.changed.notify_one();
    }

    /// Waits until the input is closed.
    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// The next line; `None` once the input is closed and everything is written.
    async fn next(&self) -> Option<Vec<u8>> {
        loop {
            {
                let mut queue = self.queue();
                if let Some(line) = queue.lines.pop_front() {
                    queue.waiting -= line.len();
                    return Some(line);
                }
                if self.closed.is_cancelled() {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }

    /// Writes the lines to the driver until the input is closed or the driver no longer reads.
    pub(crate) async fn write(&self, mut stdin: ChildStdin) {
        while let Some(line) = self.next().await {
            // A driver that exits without reading everything reports the reason in its output.
            if let Err(error) = stdin.write_all(&line).await {
                return tracing::warn!(%error, "the driver did not read all of its input");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn batches_are_taken_once_in_order_and_bounded() {
        let input = Input::default();
        let lines = |text: &str| vec![text.to_owned()];
        assert_eq!(input.push("a", &lines("1")), Ok(()));
        assert_eq!(input.push("a", &lines("1")), Ok(()));
        assert_eq!(input.push("b", &lines("2\n3")), Ok(()));
        assert_eq!(input.push("c", &lines(&"x".repeat(MOST_WAITING))), Err(Refusal::Full));
        input.close();
        assert_eq!(input.push("d", &lines("4")), Err(Refusal::Closed));
        assert_eq!(input.push("b", &lines("2")), Ok(()), "a repetition is not refused");
        assert_eq!(input.next().await.as_deref(), Some(&b"1\n"[..]));
        assert_eq!(input.next().await.as_deref(), Some(&b"2 3\n"[..]));
        assert_eq!(input.next().await, None);
    }
}
