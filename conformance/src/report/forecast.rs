//! How long the rest of a run may take.

use std::time::Duration;

/// So many scenarios must have ended before there is a forecast.
const FIRST: usize = 3;

/// Scenarios use different parts of their time limits. The rest is expected to use the same part of theirs, on average, as those that have
/// ended.
#[derive(Debug, Clone)]
pub(super) struct Forecast {
    /// How many scenarios run at a time.
    jobs: u32,
    /// The limits of all that have not ended.
    limits_left: Duration,
    ended: usize,
    limits: Duration,
    took: Duration,
}

impl Forecast {
    /// A forecast for a run of scenarios with these limits altogether, so many at a time.
    pub(super) fn new(jobs: u32, limits_left: Duration) -> Self {
        Self { jobs: jobs.max(1), limits_left, ended: 0, limits: Duration::ZERO, took: Duration::ZERO }
    }

    /// A scenario with this limit has ended. One that could not run took no time, and says nothing about others.
    pub(super) fn ended(&mut self, limit: Duration, took: Duration) {
        self.limits_left = self.limits_left.saturating_sub(limit);
        if !took.is_zero() {
            self.ended += 1;
            self.limits += limit;
            self.took += took;
        }
    }

    /// The time until the end, where those that run have run for so long altogether. `None` as long as too few have ended.
    pub(super) fn left(&self, running_for: Duration) -> Option<Duration> {
        let part = self.took.as_secs_f64() / self.limits.as_secs_f64();
        let work = self.limits_left.as_secs_f64() * part - running_for.as_secs_f64();
        (self.ended >= FIRST && part.is_finite())
            .then(|| Duration::try_from_secs_f64((work / f64::from(self.jobs)).max(0.0)).unwrap_or(Duration::MAX))
    }
}

/// A duration that is not known exactly: to ten seconds, or to a minute.
pub(super) fn rough(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..90 => format!("{} s", (seconds.div_ceil(10) * 10).max(10)),
        seconds => format!("{} min", (seconds + 30) / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_rest_takes_the_same_part_of_its_limits() {
        let mut forecast = Forecast::new(2, 43 * MINUTE);
        for _ in 0..3 {
            assert_eq!(forecast.left(Duration::ZERO), None);
            forecast.ended(MINUTE, MINUTE / 10);
        }
        // 40 minutes of limits at a tenth, two at a time.
        assert_eq!(forecast.left(Duration::ZERO), Some(2 * MINUTE));
        assert_eq!(forecast.left(2 * MINUTE), Some(MINUTE), "what has been done counts");
        assert_eq!(forecast.left(60 * MINUTE), Some(Duration::ZERO));
        forecast.ended(20 * MINUTE, Duration::ZERO);
        assert_eq!(forecast.left(Duration::ZERO), Some(MINUTE), "one that could not run takes no time");
    }

    #[test]
    fn a_forecast_is_rough() {
        for (seconds, text) in [(0, "10 s"), (1, "10 s"), (31, "40 s"), (89, "90 s"), (90, "2 min"), (200, "3 min")] {
            assert_eq!(rough(Duration::from_secs(seconds)), text);
        }
    }
}
