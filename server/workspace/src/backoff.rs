//! Pauses between attempts that grow up to a limit.

use std::time::Duration;

/// Doubles a pause from its first to its longest value.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses from `first` to `longest`.
    #[must_use]
    pub fn new((first, longest): (Duration, Duration)) -> Self {
        Self { first, longest, next: first }
    }

    /// Whether no pause has been taken since the start or the last reset.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.next == self.first
    }

    /// The next pause, in case the caller waits for something else as well.
    pub fn take(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause
    }

    /// The next pause, lengthened at random by up to half, so that several servers do not try in step.
    pub fn take_with_jitter(&mut self) -> Duration {
        self.take().mul_f64(1.0 + rand::random::<f64>() / 2.0)
    }

    /// Takes the next pause.
    pub async fn pause(&mut self) {
        tokio::time::sleep(self.take()).await;
    }

    /// Starts again with the first pause.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::new((seconds(1), seconds(5)));
        assert!(backoff.is_first());
        assert_eq!([1, 2, 4, 5, 5].map(seconds), [(); 5].map(|()| backoff.take()));
        assert!(!backoff.is_first());
        let jittered = backoff.take_with_jitter();
        assert!(jittered >= seconds(5) && jittered <= Duration::from_millis(7_500), "{jittered:?}");
        backoff.reset();
        assert_eq!(backoff.take(), seconds(1));
    }
}
