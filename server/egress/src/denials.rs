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
    #[derive(Default)]
    struct Kept(Mutex<Vec<RequestRecord>>);

    impl Trail for Kept {
        fn request(&self, record: &RequestRecord) {
            self.0.lock().push(record.clone());
        }
    }

    fn record(host: &str) -> RequestRecord {
        use crate::trail::{Decision, Identity};
        RequestRecord {
            identity: Identity { workspace: "w".into(), conversation: Some("c".into()), tenant: Some("t".into()) },
            method: "GET".into(),
            host: host.into(),
            port: 80,
            decision: Decision::Denied("not_allowed"),
            rule: Some("r".into()),
            layer: Some("l".into()),
            policy: Some("p".into()),
            credential: Some("k".into()),
            operation: Some("o".into()),
            status: 403,
            bytes_up: 1,
            bytes_down: 2,
            duration: Duration::from_millis(3),
            count: 1,
        }
    }

    #[test]
    fn refusals_that_differ_in_anything_are_reported_apart_and_others_as_their_sum() {
        use crate::trail::Decision;
        let kept = Arc::new(Kept::default());
        let denials = Denials::new(kept.clone(), &Limits::default());
        let changes: [fn(&mut RequestRecord); 13] = [
            |_| {},
            |record| record.identity.workspace = "other".into(),
            |record| record.identity.conversation = None,
            |record| record.identity.tenant = None,
            |record| record.method = "POST".into(),
            |record| record.host = "b".into(),
            |record| record.port = 81,
            |record| record.decision = Decision::Denied("closed"),
            |record| record.rule = None,
            |record| record.layer = None,
            |record| record.policy = None,
            |record| record.credential = None,
            |record| record.status = 429,
        ];
        for change in changes.iter().chain(&changes) {
            let mut record = record("a");
            change(&mut record);
            denials.add(&record);
        }
        denials.flush();
        let told = std::mem::take(&mut *kept.0.lock());
        assert_eq!(told.len(), changes.len());
        for (record, change) in told.iter().zip(&changes) {
            let mut expected = self::record("a");
            change(&mut expected);
            (expected.bytes_up, expected.bytes_down, expected.count) = (2, 4, 2);
            expected.duration = Duration::from_millis(6);
            assert_eq!(format!("{record:?}"), format!("{expected:?}"));
        }
        denials.flush();
        assert!(kept.0.lock().is_empty(), "each is reported once");
        let mut other = record("a");
        other.operation = None;
        [record("a"), other].iter().for_each(|record| denials.add(record));
        drop(denials);
        assert_eq!(kept.0.lock().len(), 2, "what is left is reported at the end");
    }

    #[test]
    fn beyond_the_most_kinds_only_the_reason_is_told() {
        use crate::trail::Decision;
        let kept = Arc::new(Kept::default());
        let denials = Denials::new(kept.clone(), &Limits::default());
        for number in 0..MOST_KINDS + 3 {
            denials.add(&record(&number.to_string()));
        }
        let mut other = record("x");
        other.decision = Decision::Denied("closed");
        denials.add(&other);
        // One of a kind that is listed already still counts there.
        denials.add(&record("0"));
        denials.flush();
        let told = kept.0.lock();
        let short: Vec<_> = told.iter().map(|record| (record.host.as_str(), record.decision, record.count)).collect();
        assert_eq!(short.len(), MOST_KINDS + 2);
        assert_eq!(
            (short[0], short[1]),
            (("0", Decision::Denied("not_allowed"), 2), ("1", Decision::Denied("not_allowed"), 1))
        );
        assert_eq!(
            short[MOST_KINDS..],
            [("", Decision::Denied("not_allowed"), 3), ("", Decision::Denied("closed"), 1)]
        );
        let merged = &told[MOST_KINDS];
        assert_eq!((merged.port, merged.status, merged.method.as_str()), (0, 403, "GET"));
        assert!(
            [&merged.layer, &merged.policy, &merged.credential, &merged.operation].iter().all(|name| name.is_none())
        );
        assert!(merged.rule.is_none() && merged.identity == record("x").identity);
    }
}
