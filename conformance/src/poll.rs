//! Waiting for a condition, with a deadline and a memory of the last thing seen. Nothing here sleeps blindly: the pause is only
//! there so that a probe does not spin.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use crate::failure::Failure;

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Probes until the probe gives a value, for at most `limit`. A probe that is not there yet says what it saw.
///
/// # Errors
/// An assertion failure that names `what` and the last thing seen.
pub async fn eventually<T, S, P, F>(limit: Duration, what: impl Display, mut probe: P) -> Result<T, Failure>
where
    S: Display,
    P: FnMut() -> F,
    F: Future<Output = Result<T, S>>,
{
    let deadline = Instant::now() + limit;
    let mut last = "nothing".to_owned();
    let mut pause = FIRST_PAUSE;
    loop {
        match tokio::time::timeout_at(deadline, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(seen)) => last = seen.to_string(),
            Err(_) => last = format!("{last} (and one more look that did not come back)"),
        }
        if Instant::now() + pause >= deadline {
            return Err(Failure::mismatch(
                format!("waited in vain for {what}"),
                format!("within {limit:?}: {what}"),
                format!("last seen: {last}"),
            ));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reports_the_last_thing_seen() {
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
    async fn gives_the_value_once_it_is_there() {
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
