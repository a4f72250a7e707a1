//! The resources that a scenario has made, released in reverse order. A resource that cannot be released, or that the deployment
//! should have removed and did not, fails the scenario.

use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::harness::failure::Failure;
use crate::harness::pace::within;

/// How long the release of one resource may take.
const RELEASE_LIMIT: Duration = Duration::from_secs(45);

type Release = Box<dyn FnOnce() -> BoxFuture<'static, Result<(), Failure>> + Send>;

/// The resources of one scenario.
#[derive(Default)]
pub struct Resources(Mutex<Vec<(String, Release)>>);

impl std::fmt::Debug for Resources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let held = self.0.lock();
        f.debug_list().entries(held.iter().map(|(what, _)| what)).finish()
    }
}

impl Resources {
    /// Registers a resource before it is made. `release` must succeed if it never was made.
    pub fn add<F>(&self, what: impl Into<String>, release: impl FnOnce() -> F + Send + 'static)
    where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let release: Release = Box::new(move || Box::pin(release()));
        self.0.lock().push((what.into(), release));
    }

    /// Releases everything, the latest first, and returns a description of each resource that was left over or could not be released.
    pub async fn release(&self) -> Vec<String> {
        self.release_within(RELEASE_LIMIT).await
    }

    async fn release_within(&self, limit: Duration) -> Vec<String> {
        let mut leftovers = Vec::new();
        loop {
            let next = self.0.lock().pop();
            let Some((what, release)) = next else {
                return leftovers;
            };
            match within(limit, release()).await {
                Ok(Ok(())) => {}
                Ok(Err(failure)) => leftovers.push(format!("{what}: {failure}")),
                Err(_) => leftovers.push(format!("{what}: not released within {limit:?}")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn resources_are_released_in_reverse_order_and_failures_are_reported() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let resources = Resources::default();
        for name in ["first", "second", "third"] {
            let order = order.clone();
            resources.add(name, move || async move {
                order.lock().push(name);
                if name == "second" { Err(Failure::assertion("still there")) } else { Ok(()) }
            });
        }
        assert_eq!(resources.release().await, ["second: still there"]);
        assert_eq!(*order.lock(), ["third", "second", "first"]);
        assert!(resources.release().await.is_empty());
    }

    #[tokio::test]
    async fn a_release_that_hangs_is_abandoned_and_the_others_continue() {
        let (resources, gone) = (Resources::default(), Arc::new(Mutex::new(false)));
        let seen = gone.clone();
        resources.add("the last to go", move || async move {
            *seen.lock() = true;
            Ok(())
        });
        resources.add("one that hangs", std::future::pending);
        let left = resources.release_within(Duration::from_millis(30)).await;
        assert_eq!(left, ["one that hangs: not released within 30ms"]);
        assert!(*gone.lock());
    }
}
