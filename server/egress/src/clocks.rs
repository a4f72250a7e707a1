//! The clocks of targets: requests to a target with a skewed clock are signed by that clock.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::DATE;
use parking_lot::Mutex;

use crate::host::Host;

/// Smallest skew that is corrected. AWS rejects signatures that are more than five minutes off.
const WORTH_CORRECTING: Duration = Duration::from_secs(120);
/// Largest skew that is accepted.
const FARTHEST: Duration = Duration::from_secs(24 * 3600);
/// Maximum number of hosts with a remembered skew.
const MOST_CLOCKS: usize = 1024;

/// The skew of targets' clocks against this host's, in seconds, for those that need correction.
#[derive(Debug, Default)]
pub(crate) struct Clocks(Mutex<HashMap<Host, i64>>);

impl Clocks {
    /// The current time by the target's clock.
    pub(crate) fn now(&self, host: &Host) -> SystemTime {
        let ahead = self.0.lock().get(host).copied().unwrap_or_default();
        let by = Duration::from_secs(ahead.unsigned_abs());
        if ahead < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
    }

    /// Forgets all skews.
    pub(crate) fn unlearn(&self, host: &Host) {
        self.0.lock().remove(host);
    }

    /// Learns the skew from the `Date` of a rejection. True if the skew may have been the reason, so that the request should be
    /// signed again.
    pub(crate) fn learn_from(&self, host: &Host, answer: &HeaderMap) -> bool {
        let date = answer.get(DATE).and_then(|value| value.to_str().ok());
        date.and_then(http_date).is_some_and(|theirs| self.learn(host, theirs))
    }

    /// True if the skew assumed so far was wrong by enough to matter.
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
        // Otherwise a target could obtain a signature for a time of its choice.
        if ahead.unsigned_abs() > FARTHEST.as_secs() || (clocks.len() >= MOST_CLOCKS && !clocks.contains_key(host)) {
            return false;
        }
        tracing::warn!(%host, ahead_s = ahead, "the target's clock is not this one's; signing by the target's");
        clocks.insert(host.clone(), ahead);
        true
    }
}

/// Parses a date such as `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, 5.6.7).
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
    #[test]
    fn clocks_are_forgotten_one_by_one_bounded_in_skew_and_in_number() {
        let clocks = Clocks::default();
        let host = |name: &str| Host::parse(name).expect("a host");
        let at = |seconds: i64| {
            let by = Duration::from_secs(seconds.unsigned_abs());
            if seconds < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
        };
        for (ahead, is_learned) in [
            (0, false),
            (110, false),
            (-110, false),
            (130, true),
            (-130, true),
            (86_390, true),
            (-86_390, true),
            (86_410, false),
            (-86_410, false),
        ] {
            assert_eq!(clocks.learn(&host("a.example"), at(ahead)), is_learned, "{ahead}");
            clocks.unlearn(&host("a.example"));
        }
        assert!(clocks.learn(&host("a.example"), at(3600)) && clocks.learn(&host("b.example"), at(3600)));
        clocks.unlearn(&host("a.example"));
        let skew = |name: &str| clocks.now(&host(name)).duration_since(SystemTime::now()).unwrap_or_default().as_secs();
        assert!(skew("a.example") < 60 && skew("b.example") > 3500, "only the one is forgotten");
        for number in 0..MOST_CLOCKS - 1 {
            assert!(clocks.learn(&host(&format!("h{number}.example")), at(3600)));
        }
        assert!(!clocks.learn(&host("one-too-many.example"), at(3600)));
        assert!(clocks.learn(&host("b.example"), at(-3600)), "one that is known changes all the same");
    }
}
