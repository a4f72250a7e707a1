//! Requests to the Docker engine that are still in progress. The engine completes a request after its client has disconnected, so
//! clean-up must wait until the object exists before it can remove it: within this process through a set of pending names, and in a
//! later process (`gc`) through the ledger.

use std::collections::HashSet;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::sync::watch;

use crate::harness::failure::Failure;
use crate::harness::ledger::Ledger;

/// How long the engine may take to complete a request whose client has disconnected. A commit takes longest: some storage drivers
/// compare whole images for it.
pub const ENGINE_LIMIT: Duration = Duration::from_secs(60);

/// The names of the objects that the engine is making for this process.
static PENDING: LazyLock<watch::Sender<HashSet<String>>> = LazyLock::new(|| watch::Sender::new(HashSet::new()));

/// Keeps a name in [`PENDING`] until it is dropped.
struct Pending(String);

impl Pending {
    fn begin(name: &str) -> Self {
        PENDING.send_modify(|names| _ = names.insert(name.to_owned()));
        Self(name.to_owned())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        PENDING.send_modify(|names| _ = names.remove(&self.0));
    }
}

/// Completes a request that makes the object `name`, even if the caller is cancelled meanwhile. The ledger records that the object
/// was asked for, and then that it exists.
///
/// # Errors
/// The request fails, or the ledger cannot be written.
pub async fn complete<T, E>(
    ledger: &Ledger,
    name: &str,
    request: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, Failure>
where
    T: Send + 'static,
    E: Into<Failure> + Send + 'static,
{
    let (ledger, pending) = (ledger.clone(), Pending::begin(name));
    ledger.write(&format!("asked {name}\n"))?;
    let completion = tokio::spawn(async move {
        let made = request.await.map_err(Into::into)?;
        ledger.write(&format!("there {}\n", pending.0))?;
        Ok(made)
    });
    completion.await.map_err(Failure::harness)?
}

/// Waits until no request of this process that makes `name` is in progress.
pub async fn completed(name: &str) {
    let mut names = PENDING.subscribe();
    // Waiting fails only when the sender is dropped, and this one is static.
    let _ = names.wait_for(|names| !names.contains(name)).await;
}

/// The objects that a ledger records as asked for but not as existing.
#[must_use]
pub fn unanswered(ledger: &str) -> HashSet<&str> {
    let mut names = HashSet::new();
    for line in ledger.lines() {
        match line.split_once(' ') {
            Some(("asked", name)) => _ = names.insert(name),
            Some(("there", name)) => _ = names.remove(name),
            _ => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_objects_that_do_not_exist_yet_are_unanswered() {
        let ledger = "image a\nasked a\nasked b\nthere a\ncontainer c\nasked c\nthere c\nasked c\nask";
        assert_eq!(unanswered(ledger), HashSet::from(["b", "c"]));
    }
}
