//! How busy the host is, as the kernel tells it (proc(5): `/proc/stat`, `/proc/meminfo`). In a container it is still the
//! host that is told of: that is what rooms share.

use std::fs;
use std::sync::{Mutex, PoisonError};

/// Ticks of all processors since the host started.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Ticks {
    busy: u64,
    all: u64,
}

/// What is told of the host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Busy processors since the last look, in percent of all; `NaN` where the kernel does not tell.
    pub cpu_percent: f64,
    /// Memory that new programs could not have, in percent of all; `NaN` where the kernel does not tell.
    pub memory_percent: f64,
}

/// Looks at the host; the first look tells of the time since this was made.
#[derive(Debug)]
pub struct Host {
    last: Mutex<(Ticks, f64)>,
}

impl Host {
    /// Begins to look.
    #[must_use]
    pub fn new() -> Self {
        Self { last: Mutex::new((ticks().unwrap_or_default(), f64::NAN)) }
    }

    /// How busy it was since the last look, and how full it is now.
    pub fn load(&self) -> Load {
        let memory_percent = fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(memory).unwrap_or(f64::NAN);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(now) = ticks() {
            // Two looks within one tick have nothing between them: what was told last still stands.
            if let Some(percent) = share(last.0, now) {
                *last = (now, percent);
            }
        }
        Load { cpu_percent: last.1, memory_percent }
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

fn ticks() -> Option<Ticks> {
    parse_ticks(&fs::read_to_string("/proc/stat").ok()?)
}

/// The line `cpu user nice system idle iowait irq softirq steal guest …`; guests are within user.
fn parse_ticks(stat: &str) -> Option<Ticks> {
    let numbers = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace().take(8).map(str::parse::<u64>);
    let numbers = numbers.collect::<Result<Vec<_>, _>>().ok()?;
    let all = numbers.iter().sum::<u64>();
    let resting = numbers.get(3)? + numbers.get(4).copied().unwrap_or_default();
    Some(Ticks { busy: all - resting, all })
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 * 100.0 / whole as f64)
}

fn share(before: Ticks, now: Ticks) -> Option<f64> {
    let all = now.all.checked_sub(before.all)?;
    // The kernel's idle time may step back a little (proc(5)).
    percent(now.busy.saturating_sub(before.busy).min(all), all)
}

fn memory(meminfo: &str) -> Option<f64> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    let (all, available) = (field("MemTotal:")?, field("MemAvailable:")?);
    percent(all.saturating_sub(available), all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_and_memory_are_read() {
        let stat = "cpu  10 0 30 50 10 0 0 0 5 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        let before = parse_ticks(stat).expect("ticks");
        assert_eq!(before, Ticks { busy: 40, all: 100 });
        assert_eq!(share(before, Ticks { busy: 65, all: 200 }), Some(25.0));
        assert_eq!(share(before, before), None, "no time has passed");
        assert_eq!(share(before, Ticks { busy: 39, all: 110 }), Some(0.0), "idle time stepped back");
        assert_eq!(parse_ticks("intr 1 2 3"), None);
        assert_eq!(memory("MemTotal: 200 kB\nMemFree: 1 kB\nMemAvailable: 50 kB\n"), Some(75.0));
        assert_eq!(memory("MemTotal: 200 kB\n"), None);
    }

    #[test]
    fn this_host_is_told_of() {
        let memory = Host::new().load().memory_percent;
        assert!((0.0..=100.0).contains(&memory), "{memory}");
    }
}
