//! What a scenario has made, taken down in the reverse order. A resource that does not go by itself, or that the deployment should
//! have removed and has not, makes the scenario fail.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;

use crate::failure::Failure;

/// How long one resource may take to go.
const RELEASE_LIMIT: Duration = Duration::from_secs(45);

type Release = Box<dyn FnOnce() -> BoxFuture<'static, Result<(), Failure>> + Send>;

/// The resources of one scenario.
#[derive(Default)]
pub struct Resources(Mutex<Vec<(String, Release)>>);

impl std::fmt::Debug for Resources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_list().entries(held.iter().map(|(what, _)| what)).finish()
    }
}

impl Resources {
    /// Registers a resource, before it is made. `release` must bear that it never was.
    pub fn add<F>(&self, what: impl Into<String>, release: impl FnOnce() -> F + Send + 'static)
    where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let release: Release = Box::new(move || Box::pin(release()));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((what.into(), release));
    }

    /// Takes everything down, the latest first, and tells what was left over or would not go.
    pub async fn release(&self) -> Vec<String> {
        self.release_within(RELEASE_LIMIT).await
    }

    async fn release_within(&self, limit: Duration) -> Vec<String> {
        let mut leftovers = Vec::new();
        loop {
            let next = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some((what, release)) = next else {
                return leftovers;
            };
            match tokio::time::timeout(limit, release()).await {
                Ok(Ok(())) => {}
                Ok(Err(failure)) => leftovers.push(format!("{what}: {failure}")),
                Err(_) => leftovers.push(format!("{what}: not gone after {limit:?}")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn the_latest_goes_first_and_one_that_stays_is_told() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let resources = Resources::default();
        for name in ["first", "second", "third"] {
            let order = order.clone();
            resources.add(name, move || async move {
                order.lock().expect("no panic").push(name);
                if name == "second" { Err(Failure::assertion("still there")) } else { Ok(()) }
            });
        }
        assert_eq!(resources.release().await, ["second: still there"]);
        assert_eq!(*order.lock().expect("no panic"), ["third", "second", "first"]);
        assert!(resources.release().await.is_empty());
    }

    #[tokio::test]
    async fn one_that_never_goes_is_given_up_and_the_others_go() {
        let (resources, gone) = (Resources::default(), Arc::new(Mutex::new(false)));
        let seen = gone.clone();
        resources.add("the last to go", move || async move {
            *seen.lock().expect("no panic") = true;
            Ok(())
        });
        resources.add("one that hangs", std::future::pending);
        let left = resources.release_within(Duration::from_millis(30)).await;
        assert_eq!(left, ["one that hangs: not gone after 30ms"]);
        assert!(*gone.lock().expect("no panic"));
    }
}
