//! Notices that a target changes while it is tested: it is restarted, or gets another version. What was seen is then of two targets.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::client::http::Api;

/// The time between two looks.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long one look may take. A target that does not answer is looked at again later.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// Looks before the run, which tell whether one server answers.
const FIRST_LOOKS: usize = 4;

/// What identifies a running server, as far as it can be seen from outside.
#[derive(Debug, Clone, PartialEq, Default)]
struct Look {
    /// The version on the front page.
    version: Option<String>,
    /// Sums of all counters, and of the counts of all histograms: they fall only if the process is another.
    counters: BTreeMap<String, f64>,
}

impl Look {
    async fn take(api: &Api) -> Option<Self> {
        let look = async {
            let front = api.get("/").await.ok().filter(|reply| reply.status == 200);
            let version = front.and_then(|reply| reply.json().ok()?["version"].as_str().map(str::to_owned));
            let mut counters = BTreeMap::new();
            if let Ok(page) = api.metrics().await {
                for (name, kind) in &page.types {
                    let counted = match kind.as_str() {
                        "counter" => name.clone(),
                        "histogram" | "summary" => format!("{name}_count"),
                        _ => continue,
                    };
                    counters.extend(page.sum(&counted).map(|sum| (counted, sum)));
                }
            }
            Self { version, counters }
        };
        let look = tokio::time::timeout(LOOK_LIMIT, look).await.ok()?;
        (look != Self::default()).then_some(look)
    }

    /// A counter that is lower now, which happens only if another process answers.
    fn fallen(&self, now: &Self) -> Option<String> {
        self.counters.iter().find_map(|(name, before)| {
            let now = now.counters.get(name)?;
            (now < before).then(|| format!("{name} fell from {before} to {now}"))
        })
    }

    /// What has changed, as far as it may not during a run.
    fn change(&self, now: &Self, is_one_server: bool) -> Option<String> {
        match (&self.version, &now.version) {
            (Some(before), Some(now)) if before != now => Some(format!("its version was {before} and is {now}")),
            _ if is_one_server => self.fallen(now).map(|counter| format!("it was restarted: {counter}")),
            _ => None,
        }
    }
}

/// Watches a target until the end of a run.
#[derive(Debug)]
pub struct Watch {
    end: CancellationToken,
    task: JoinHandle<Vec<String>>,
}

impl Watch {
    /// Begins to watch the target of this client.
    pub async fn begin(api: Api) -> Self {
        let mut first = Vec::new();
        for _ in 0..FIRST_LOOKS {
            first.extend(Look::take(&api).await);
        }
        // Behind a load balancer counters rise and fall with the server that happens to answer.
        let is_one_server = first.windows(2).all(|two| two[0].fallen(&two[1]).is_none());
        let end = CancellationToken::new();
        let task = tokio::spawn(watch(api, first.pop(), is_one_server, end.clone()));
        Self { end, task }
    }

    /// Looks once more, and returns all changes, each with its time.
    pub async fn end(self) -> Vec<String> {
        self.end.cancel();
        self.task.await.unwrap_or_default()
    }
}

async fn watch(api: Api, first: Option<Look>, is_one_server: bool, end: CancellationToken) -> Vec<String> {
    let (begun, mut before, mut changes) = (Instant::now(), first, Vec::new());
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_last = tokio::select! {
            () = end.cancelled() => true,
            _ = ticks.tick() => false,
        };
        if let Some(now) = Look::take(&api).await {
            let change = before.as_ref().and_then(|before| before.change(&now, is_one_server));
            changes.extend(change.map(|change| format!("after {} s {change}", begun.elapsed().as_secs())));
            before = Some(now);
        }
        if is_last {
            return changes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(version: &str, counters: &[(&str, f64)]) -> Look {
        let counters = counters.iter().map(|(name, value)| ((*name).to_owned(), *value));
        Look { version: Some(version.to_owned()), counters: counters.collect() }
    }

    #[test]
    fn another_version_and_a_fallen_counter_are_changes_and_growth_is_none() {
        let before = look("1.0", &[("a_total", 7.0), ("b_count", 2.0)]);
        assert_eq!(before.change(&look("1.0", &[("a_total", 9.0), ("b_count", 2.0), ("c_total", 1.0)]), true), None);
        let upgraded = before.change(&look("1.1", &[("a_total", 9.0)]), true).expect("another version");
        assert_eq!(upgraded, "its version was 1.0 and is 1.1");
        let restarted = look("1.0", &[("a_total", 1.0), ("b_count", 3.0)]);
        assert_eq!(before.change(&restarted, true).expect("a restart"), "it was restarted: a_total fell from 7 to 1");
        assert_eq!(before.change(&restarted, false), None, "several servers behind one address");
        let unknown = Look { version: None, counters: BTreeMap::new() };
        assert_eq!(before.change(&unknown, true), None, "a page that did not load is no change");
    }
}
