//! Deadlines of the current task: longer on a slow machine, and extended by pauses that the deployment asks for.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio::time::error::Elapsed;

tokio::task_local! {
    static PACE: Pace;
}

#[derive(Debug, Clone)]
struct Pace {
    /// Factor for deadlines.
    factor: f64,
    pauses: Arc<Mutex<Pauses>>,
}

/// The time in which at least one request pauses.
#[derive(Debug, Default)]
struct Pauses {
    now: usize,
    since: Option<Instant>,
    before: Duration,
}

impl Pauses {
    fn total(&self) -> Duration {
        self.before + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// Performs `work` with all its deadlines multiplied by `factor`: more than 1 on a slow machine.
pub fn at_pace<F: Future>(factor: f64, work: F) -> impl Future<Output = F::Output> {
    // On the heap, here and below: futures of scenarios are large.
    PACE.scope(Pace { factor, pauses: Arc::default() }, Box::pin(work))
}

/// A deadline of the suite's, multiplied by the factor of the current task.
#[must_use]
pub fn patient(limit: Duration) -> Duration {
    PACE.try_with(|pace| limit.mul_f64(pace.factor)).unwrap_or(limit)
}

/// How long the current task has paused so far. Pauses that overlap count once.
#[must_use]
pub fn paused() -> Duration {
    PACE.try_with(|pace| pace.pauses.lock().total()).unwrap_or_default()
}

/// Waits as long as the deployment asks for. Deadlines of the current task are extended by that time.
pub async fn pause(time: Duration) {
    let _counted = Counted::begin();
    #[expect(clippy::disallowed_methods, reason = "the deployment names the time after which it will answer")]
    tokio::time::sleep(time).await;
}

/// A pause that is counted, even if it is abandoned.
struct Counted(Option<Arc<Mutex<Pauses>>>);

impl Counted {
    fn begin() -> Self {
        let pauses = PACE.try_with(|pace| pace.pauses.clone()).ok();
        if let Some(pauses) = &pauses {
            let mut pauses = pauses.lock();
            pauses.now += 1;
            pauses.since.get_or_insert_with(Instant::now);
        }
        Self(pauses)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(pauses) = &self.0 {
            let mut pauses = pauses.lock();
            pauses.now -= 1;
            if pauses.now == 0 {
                pauses.before = pauses.total();
                pauses.since = None;
            }
        }
    }
}

/// A deadline that moves while the current task pauses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    begun: Instant,
    limit: Duration,
    paused_before: Duration,
}

impl Deadline {
    /// So long from now, as [`patient`] says of `limit`.
    pub(super) fn after(limit: Duration) -> Self {
        Self { begun: Instant::now(), limit: patient(limit), paused_before: paused() }
    }

    /// The time at which it passes, as far as is known now.
    pub(super) fn at(&self) -> Instant {
        self.begun + self.limit + paused().saturating_sub(self.paused_before)
    }

    /// How long it leaves for the work, without pauses.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// Waits for `work` until it passes.
    pub(super) async fn bound<F: Future>(&self, mut work: Pin<Box<F>>) -> Result<F::Output, Elapsed> {
        loop {
            let ended = tokio::time::timeout_at(self.at(), &mut work).await;
            if ended.is_ok() || Instant::now() >= self.at() {
                return ended;
            }
        }
    }
}

/// Waits for `work` no longer than [`patient`] says of `limit`, besides pauses.
///
/// # Errors
/// It has not ended by then.
pub fn within<F: Future>(limit: Duration, work: F) -> impl Future<Output = Result<F::Output, Elapsed>> {
    let work = Box::pin(work);
    async move { Deadline::after(limit).bound(work).await }
}

/// As [`within`], but with no less than `limit`: less patience must not cut short what would end in time.
///
/// # Errors
/// As [`within`].
pub fn within_at_least<F: Future>(limit: Duration, work: F) -> impl Future<Output = Result<F::Output, Elapsed>> {
    let work = Box::pin(work);
    async move { Deadline { limit: patient(limit).max(limit), ..Deadline::after(limit) }.bound(work).await }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn the_factor_holds_for_every_deadline_of_the_task() {
        assert_eq!(at_pace(2.0, async { patient(SECOND) }).await, 2 * SECOND);
        assert_eq!(patient(SECOND), SECOND, "outside, deadlines are as they are written");
        assert!(at_pace(1e-5, within(3600 * SECOND, std::future::pending::<()>())).await.is_err());
    }

    #[tokio::test]
    async fn little_patience_does_not_cut_work_short() {
        let work = async { pause_uncounted().await };
        assert!(at_pace(1e-5, within_at_least(60 * SECOND, work)).await.is_ok());
        assert_eq!(at_pace(2.0, async { Deadline::after(SECOND).limit() }).await, 2 * SECOND);
    }

    /// Takes longer than a deadline of 60 seconds that is multiplied by 1e-5.
    async fn pause_uncounted() {
        let _ = tokio::time::timeout(SECOND / 20, std::future::pending::<()>()).await;
    }

    #[tokio::test]
    async fn pauses_extend_deadlines_and_count_once_where_they_overlap() {
        let begun = Instant::now();
        let work = async {
            // Two requests pause at the same time, a third one later: longer than the limit altogether.
            tokio::join!(pause(SECOND * 2 / 3), pause(SECOND * 2 / 3));
            pause(SECOND * 2 / 3).await;
            paused()
        };
        let waited = at_pace(1.0, within(SECOND, work)).await.expect("pauses do not count");
        assert!(waited > SECOND && waited <= begun.elapsed(), "{waited:?} of {:?}", begun.elapsed());
        let endless = async {
            pause(SECOND / 10).await;
            std::future::pending::<()>().await;
        };
        assert!(at_pace(1.0, within(SECOND / 20, endless)).await.is_err(), "what comes after the pause counts");
    }

    #[tokio::test]
    async fn an_abandoned_pause_ends() {
        let abandoned = async {
            assert!(tokio::time::timeout(SECOND / 20, pause(9 * SECOND)).await.is_err());
            let before = paused();
            pause(Duration::ZERO).await;
            assert!(before >= SECOND / 20 && paused() < 9 * SECOND);
        };
        at_pace(1.0, abandoned).await;
    }
}
