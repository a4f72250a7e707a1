//! A result that is expensive to obtain, shared by all who ask for it within a short time.

use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::time::Instant;

/// The result, or `None` if obtaining it panicked, and when it was there.
type Flight<T> = Shared<BoxFuture<'static, Option<(T, Instant)>>>;

/// The latest result of a piece of work. The work is done at most once at a time, and again only when its result is too old.
pub(super) struct Fresh<T: Clone> {
    latest: Mutex<Option<Flight<T>>>,
    age: Duration,
}

impl<T: Clone> std::fmt::Debug for Fresh<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fresh({:?})", self.age)
    }
}

impl<T: Clone + Send + Sync + 'static> Fresh<T> {
    /// Results may be used until they are this old.
    pub(super) fn new(age: Duration) -> Self {
        Self { latest: Mutex::new(None), age }
    }

    /// The latest result; where that is too old, the result of `work`, or of the work in progress. The work goes on when those who
    /// wait for it leave, so that clients that give up at once cannot start it again and again.
    ///
    /// # Panics
    /// If the work panicked.
    pub(super) async fn get<F>(&self, work: impl FnOnce() -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
    {
        let flight = {
            let mut latest = self.latest.lock();
            match latest.as_ref().filter(|flight| self.is_usable(flight)) {
                Some(flight) => flight.clone(),
                None => {
                    let work = work();
                    let task = tokio::spawn(async move { (work.await, Instant::now()) });
                    latest.insert(task.map(Result::ok).boxed().shared()).clone()
                }
            }
        };
        match flight.await {
            Some((result, _)) => result,
            None => panic!("the work panicked"),
        }
    }

    /// Whether the work is in progress, or its result not too old.
    fn is_usable(&self, flight: &Flight<T>) -> bool {
        match flight.clone().now_or_never() {
            None => true,
            Some(Some((_, at))) => at.elapsed() < self.age,
            Some(None) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    /// An age that no result reaches during a test.
    const LONG: Duration = Duration::from_secs(3600);

    /// Work that counts how often it is begun and ends when `gate` is open; its result is its number.
    struct Work {
        begun: Arc<AtomicUsize>,
        gate: Arc<Semaphore>,
        fresh: Fresh<usize>,
    }

    impl Work {
        fn new(age: Duration, open: usize) -> Self {
            Self { begun: Arc::default(), gate: Arc::new(Semaphore::new(open)), fresh: Fresh::new(age) }
        }

        async fn ask(&self) -> usize {
            let (begun, gate) = (self.begun.clone(), self.gate.clone());
            let work = async move || {
                let number = begun.fetch_add(1, Ordering::SeqCst) + 1;
                gate.acquire().await.expect("open").forget();
                number
            };
            self.fresh.get(work).await
        }

        fn begun(&self) -> usize {
            self.begun.load(Ordering::SeqCst)
        }
    }

    #[tokio::test]
    async fn all_who_ask_at_the_same_time_share_one_result() {
        let work = Work::new(Duration::ZERO, 0);
        let asked = futures::future::join_all((0..500).map(|_| work.ask()));
        let opened = async {
            tokio::task::yield_now().await;
            work.gate.add_permits(1);
        };
        let (results, ()) = tokio::join!(asked, opened);
        assert!(results.iter().all(|result| *result == 1));
        assert_eq!(work.begun(), 1);
    }

    #[tokio::test]
    async fn a_result_is_used_until_it_is_too_old() {
        let work = Work::new(LONG, 10);
        assert_eq!((work.ask().await, work.ask().await, work.begun()), (1, 1, 1));
        let work = Work::new(Duration::ZERO, 10);
        assert_eq!((work.ask().await, work.ask().await, work.begun()), (1, 2, 2));
    }

    #[tokio::test]
    async fn those_who_leave_start_nothing_anew_and_leave_no_old_result_behind() {
        let work = Work::new(Duration::ZERO, 0);
        for _ in 0..50 {
            // Polled once, and dropped.
            assert!(work.ask().now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        assert_eq!(work.begun(), 1);
        work.gate.add_permits(2);
        // Nobody waits while the work ends.
        while work.gate.available_permits() > 1 {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        assert_eq!(work.ask().await, 2);
    }

    #[tokio::test]
    async fn work_that_panicked_is_done_again() {
        let fresh = Arc::new(Fresh::<usize>::new(LONG));
        let broken = tokio::spawn({
            let fresh = fresh.clone();
            async move { fresh.get(async || panic!("on purpose")).await }
        });
        assert!(broken.await.is_err_and(|error| error.is_panic()));
        assert_eq!(fresh.get(async || 7).await, 7);
    }
}
