//! The clocks of targets: who signs for one whose clock is wrong signs by that clock.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::DATE;
use parking_lot::Mutex;

use crate::host::Host;

/// AWS refuses what is dated more than five minutes off; less than this is not worth correcting.
const WORTH_CORRECTING: Duration = Duration::from_secs(120);
/// No clock is believed to be farther off than this.
const FARTHEST: Duration = Duration::from_secs(24 * 3600);
/// Hosts whose clocks are remembered.
const MOST_CLOCKS: usize = 1024;

/// How far the clocks of targets are from this one, in seconds; of those where it matters.
#[derive(Debug, Default)]
pub(crate) struct Clocks(Mutex<HashMap<Host, i64>>);

impl Clocks {
    /// The time there.
    pub(crate) fn now(&self, host: &Host) -> SystemTime {
        let ahead = self.0.lock().get(host).copied().unwrap_or_default();
        let by = Duration::from_secs(ahead.unsigned_abs());
        if ahead < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
    }

    /// Forgets what was learned.
    pub(crate) fn unlearn(&self, host: &Host) {
        self.0.lock().remove(host);
    }

    /// Learns from an answer's `Date`. True if a request that was refused may have been refused for its time, and is worth
    /// signing again.
    pub(crate) fn learn_from(&self, host: &Host, answer: &HeaderMap) -> bool {
        let date = answer.get(DATE).and_then(|value| value.to_str().ok());
        date.and_then(http_date).is_some_and(|theirs| self.learn(host, theirs))
    }

    /// True if what was believed so far was wrong by enough to matter.
    fn learn(&self, host: &Host, theirs: SystemTime) -> bool {
        let off = match theirs.duration_since(self.now(host)) {
            Ok(ahead) => ahead,
            Err(behind) => behind.duration(),
        };
        if off < WORTH_CORRECTING {
            return false;
        }
        let ahead = match theirs.duration_since(SystemTime::now()) {
            Ok(ahead) => i64::try_from(ahead.as_secs()).unwrap_or_default(),
            Err(behind) => -i64::try_from(behind.duration().as_secs()).unwrap_or_default(),
        };
        let mut clocks = self.0.lock();
        // Nobody gets a signature for a time of their choice.
        if ahead.unsigned_abs() > FARTHEST.as_secs() || (clocks.len() >= MOST_CLOCKS && !clocks.contains_key(host)) {
            return false;
        }
        tracing::warn!(%host, ahead_s = ahead, "the target's clock is not this one's; signing by the target's");
        clocks.insert(host.clone(), ahead);
        true
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, 5.6.7).
fn http_date(text: &str) -> Option<SystemTime> {
    let time = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(time.as_second().try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skewed_clock_is_learned_once() {
        let clocks = Clocks::default();
        let host = Host::parse("a.example").expect("a host");
        let now = SystemTime::now();
        assert!(!clocks.learn(&host, now + WORTH_CORRECTING / 2), "close enough");
        for theirs in [now + Duration::from_secs(3600), now - Duration::from_secs(3600)] {
            assert!(clocks.learn(&host, theirs));
            assert!(!clocks.learn(&host, theirs), "it is known now");
            let off = clocks.now(&host).duration_since(theirs).unwrap_or_else(|error| error.duration());
            assert!(off < Duration::from_secs(60), "{off:?}");
        }
        let other = Host::parse("b.example").expect("a host");
        assert!(
            clocks.now(&other).duration_since(now).expect("later") < Duration::from_secs(60),
            "a clock is a host's own"
        );
    }

    #[test]
    fn dates_of_answers_are_read() {
        let date = http_date("Sun, 06 Nov 1994 08:49:37 GMT").expect("a date");
        assert_eq!(date.duration_since(SystemTime::UNIX_EPOCH).expect("later").as_secs(), 784_111_777);
        assert_eq!(http_date("yesterday"), None);
    }
}
