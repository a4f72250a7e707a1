//! Waits for a condition, with a deadline. Nothing in the suite sleeps for a fixed time; the pause between two probes is the only
//! sleep, and `clippy.toml` forbids any other.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use crate::harness::failure::Failure;
use crate::harness::pace::Deadline;

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Probes until the probe returns a value, for at most `limit`, or as [`Deadline`] extends it. A probe that has no value yet returns what it saw instead.
///
/// # Errors
/// An assertion failure with `what` was expected and what the last probe saw.
pub async fn eventually<T, S, P, F>(limit: Duration, what: impl Display, mut probe: P) -> Result<T, Failure>
where
    S: Display,
    P: FnMut() -> F,
    F: Future<Output = Result<T, S>>,
{
    let deadline = Deadline::after(limit);
    let limit = deadline.limit();
    let mut last = "nothing".to_owned();
    let mut pause = FIRST_PAUSE;
    loop {
        match deadline.bound(Box::pin(probe())).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(seen)) => last = seen.to_string(),
            Err(_) => last = format!("{last} (a further probe did not return in time)"),
        }
        if Instant::now() + pause >= deadline.at() {
            return Err(Failure::mismatch(
                format!("timed out waiting for {what}"),
                format!("within {limit:?}: {what}"),
                format!("last seen: {last}"),
            ));
        }
        #[expect(clippy::disallowed_methods, reason = "the pause between two probes of a condition with a deadline")]
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_timeout_reports_what_the_last_probe_saw() {
        let mut looks = 0;
        let failure = eventually(Duration::from_millis(100), "a thousand", || {
            looks += 1;
            std::future::ready(if looks == 1000 { Ok(()) } else { Err(looks) })
        })
        .await
        .expect_err("too late");
        let (expected, actual) = (failure.expected.expect("shown"), failure.actual.expect("shown"));
        assert!(expected.contains("within 100ms: a thousand"), "{expected}");
        assert!(looks > 1 && actual == format!("last seen: {looks}"), "{actual}");
    }

    #[tokio::test]
    async fn the_value_is_returned_once_there_is_one() {
        let mut looks = 0;
        let found = eventually(Duration::from_secs(5), "three", || {
            looks += 1;
            std::future::ready(if looks == 3 { Ok(looks) } else { Err("not yet") })
        });
        assert_eq!(found.await.expect("in time"), 3);
    }

    #[tokio::test]
    async fn a_probe_that_hangs_does_not_hang_the_wait() {
        let waited = eventually(Duration::from_millis(50), "an answer", std::future::pending::<Result<(), String>>);
        assert!(waited.await.is_err());
    }
}
