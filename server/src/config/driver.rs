//! Settings of the drivers of conversations.

use std::time::Duration;

use nagaya_driver::Kind;

use super::reader::Reader;
use super::units;

/// Longest wait for a decision: thirty days.
const LONGEST_WAIT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Settings of the drivers of conversations.
#[derive(Debug, Clone, Copy)]
pub struct Drivers {
    /// `DRIVER`: what conducts the conversations.
    pub kind: Kind,
    /// `DRIVER_KEEP_ALIVE`: how long a driver waits for its conversation's next turn; zero ends it after each.
    pub keep_alive: Duration,
    /// `DRIVER_KEEP_ALIVE_MAX`: how many drivers may wait at the same time.
    pub most_waiting: usize,
    /// `APPROVAL_TIMEOUT`: how long a decision is waited for.
    pub approval_timeout: Duration,
}

impl Drivers {
    pub(super) fn read(r: &mut Reader) -> Self {
        let kinds = Kind::ALL.map(Kind::as_str).join(", ");
        let kind = r.get("DRIVER", Kind::default().as_str(), &kinds, Kind::from_text);
        let time = format!("0, or {}", units::DURATION);
        let keep_alive = r.get("DRIVER_KEEP_ALIVE", "5m", &time, |text| match text {
            "0" => Some(Duration::ZERO),
            text => units::duration(text),
        });
        let most_waiting = r.get("DRIVER_KEEP_ALIVE_MAX", "32", "a whole number from 0 to 100000", |text| {
            text.parse().ok().filter(|number| *number <= 100_000)
        });
        let accepted = "a time above zero, at most 30 days: seconds (60), or with a unit (500ms, 60s, 5m, 1h)";
        let approval_timeout = r
            .get("APPROVAL_TIMEOUT", "1h", accepted, |text| units::duration(text).filter(|time| *time <= LONGEST_WAIT));
        Self { kind, keep_alive, most_waiting, approval_timeout }
    }
}
