//! Rate of refusals: a client may send any number of requests that are refused, but not at the expense of others.
//!
//! Beyond a rate per listener, refusals are delayed, which slows the client down, and recorded together: one record for each kind of
//! refusal and second, with their count.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::settings::Limits;
use crate::trail::{RequestRecord, Trail};

/// Longest delay of a refusal.
const LONGEST: Duration = Duration::from_secs(1);
/// Maximum number of kinds of refusals recorded separately in one second.
const MOST_KINDS: usize = 16;

/// When a refusal is answered, and how it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// At once, with its own record.
    Now,
    /// After this delay, recorded together with others.
    After(Duration),
    /// After this delay, as the last answer on its connection, recorded together with others.
    Last(Duration),
}

/// The refusals of one listener.
pub(crate) struct Denials {
    trail: Arc<dyn Trail>,
    /// Interval between two refusals at the permitted rate.
    interval: Duration,
    /// How far ahead of that rate refusals may be, as a time.
    burst: Duration,
    /// When the next refusal is due by the rate alone (the generic cell rate algorithm's theoretical arrival time).
    due: Mutex<Instant>,
    together: Mutex<Vec<RequestRecord>>,
}

impl Denials {
    pub(crate) fn new(trail: Arc<dyn Trail>, limits: &Limits) -> Self {
        let interval = Duration::from_secs(1) / limits.denials.max(1);
        let burst = interval.saturating_mul(limits.denials_burst.max(1));
        Self { trail, interval, burst, due: Mutex::new(Instant::now()), together: Mutex::default() }
    }

    /// Takes the next turn at the permitted rate.
    pub(crate) fn turn(&self, now: Instant) -> Turn {
        let mut due = self.due.lock();
        let next = (*due).max(now) + self.interval;
        let wait = next.saturating_duration_since(now + self.burst);
        if wait > LONGEST {
            return Turn::Last(LONGEST);
        }
        *due = next;
        if wait.is_zero() { Turn::Now } else { Turn::After(wait) }
    }

    /// Adds a record to those that are reported together.
    pub(crate) fn add(&self, record: &RequestRecord) {
        let mut together = self.together.lock();
        let same_kind = |other: &&mut RequestRecord| {
            (other.decision, other.status, other.port) == (record.decision, record.status, record.port)
                && (&other.method, &other.host, &other.rule) == (&record.method, &record.host, &record.rule)
                && (&other.layer, &other.policy) == (&record.layer, &record.policy)
                && (&other.credential, &other.operation) == (&record.credential, &record.operation)
                && other.identity == record.identity
        };
        if let Some(other) = together.iter_mut().find(same_kind) {
            other.join(record);
        } else if together.len() < MOST_KINDS {
            together.push(record.clone());
        } else {
            // A client can make up any number of hosts, so further refusals in this second are grouped by reason only.
            let mut record = record.clone();
            (record.host, record.port, record.rule) = (String::new(), 0, None);
            (record.layer, record.policy, record.credential, record.operation) = (None, None, None, None);
            match together.iter_mut().skip(MOST_KINDS).find(|other| other.decision == record.decision) {
                Some(other) => other.join(&record),
                None => together.push(record),
            }
        }
    }

    /// Reports the collected records.
    pub(crate) fn flush(&self) {
        let records = std::mem::take(&mut *self.together.lock());
        records.iter().for_each(|record| self.trail.request(record));
    }
}

impl Drop for Denials {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Trail for Nothing {
        fn request(&self, _: &RequestRecord) {}
    }

    #[test]
    fn refusals_beyond_the_rate_wait_their_turn() {
        let denials = Denials::new(Arc::new(Nothing), &Limits { denials: 10, denials_burst: 5, ..Limits::default() });
        let now = Instant::now() + Duration::from_secs(10);
        let turns: Vec<Turn> = (0..20).map(|_| denials.turn(now)).collect();
        assert_eq!(turns[..5], [Turn::Now; 5], "the burst");
        let tenths = |n: u64| Turn::After(Duration::from_millis(100 * n));
        let waits: Vec<Turn> = (1..=10).map(tenths).collect();
        assert_eq!(turns[5..15], waits, "one by one, at the rate");
        assert_eq!(turns[15..], [Turn::Last(LONGEST); 5], "beyond the longest delay");
        assert_eq!(denials.turn(now + Duration::from_secs(1)), tenths(1), "what was turned away takes no turn");
        assert_eq!(denials.turn(now + Duration::from_secs(60)), Turn::Now);
    }
}
