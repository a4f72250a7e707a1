//! What the engine has been asked to make. It goes on with that for a client that has left, so whoever is to remove it must not come
//! before: not in this process, and not in a later one, which learns of it from the ledger.

use std::collections::HashSet;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::sync::watch;

use crate::failure::Failure;
use crate::run::Run;

/// How long the engine may go on with what a client asked for that has left. The longest is a commit, which compares whole images on
/// some storage drivers.
pub const ENGINE_LIMIT: Duration = Duration::from_secs(60);

/// The names of what is being made for this process.
static UNDERWAY: LazyLock<watch::Sender<HashSet<String>>> = LazyLock::new(|| watch::Sender::new(HashSet::new()));

/// One name among them, until this is dropped.
struct Underway(String);

impl Underway {
    fn begin(name: &str) -> Self {
        UNDERWAY.send_modify(|names| _ = names.insert(name.to_owned()));
        Self(name.to_owned())
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        UNDERWAY.send_modify(|names| _ = names.remove(&self.0));
    }
}

/// Takes a request that makes `name` to its end, also if nobody waits for that any more. The ledger has that it was asked for, and
/// that it is there.
///
/// # Errors
/// The request's, or the ledger cannot be written.
pub async fn to_its_end<T, E>(
    run: &Run,
    name: &str,
    request: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, Failure>
where
    T: Send + 'static,
    E: Into<Failure> + Send + 'static,
{
    let (ledger, underway) = (run.ledger(), Underway::begin(name));
    ledger.write(&format!("asked {name}\n"))?;
    let to_its_end = tokio::spawn(async move {
        let made = request.await.map_err(Into::into)?;
        ledger.write(&format!("there {}\n", underway.0))?;
        Ok(made)
    });
    to_its_end.await.map_err(Failure::harness)?
}

/// Waits until nothing of that name is being made for this process.
pub async fn ended(name: &str) {
    let mut names = UNDERWAY.subscribe();
    // It fails only where there is no sender, and that one is for ever.
    let _ = names.wait_for(|names| !names.contains(name)).await;
}

/// What a ledger has that was asked for and of which it does not have that it is there.
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
    fn what_is_there_is_not_waited_for() {
        let ledger = "image a\nasked a\nasked b\nthere a\ncontainer c\nasked c\nthere c\nasked c\nask";
        assert_eq!(unanswered(ledger), HashSet::from(["b", "c"]));
    }
}
