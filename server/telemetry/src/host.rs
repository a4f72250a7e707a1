//! CPU and memory use of the host, from `/proc/stat` and `/proc/meminfo` (proc(5)). In a container these files still describe
//! the host, which is what workspaces share.

use std::fs;

use parking_lot::Mutex;

/// Ticks of all processors since the host started.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Ticks {
    busy: u64,
    all: u64,
}

/// Use of the host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// CPU time in use since the last reading, in percent of all processors; `NaN` where it cannot be read.
    pub cpu_percent: f64,
    /// Memory that is not available to new programs, in percent; `NaN` where it cannot be read.
    pub memory_percent: f64,
}

/// Reads the host's use. The first reading covers the time since this was created.
#[derive(Debug)]
pub struct Host {
    last: Mutex<(Ticks, f64)>,
}

impl Host {
    /// Takes the first reading.
    #[must_use]
    pub fn new() -> Self {
        Self { last: Mutex::new((ticks().unwrap_or_default(), f64::NAN)) }
    }

    /// CPU use since the last reading, and memory use now.
    pub fn load(&self) -> Load {
        let memory_percent = fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(memory).unwrap_or(f64::NAN);
        let mut last = self.last.lock();
        if let Some(now) = ticks() {
            // Two readings within one clock tick have no time between them, so the last result stands.
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
    fn this_hosts_use_is_reported() {
        let memory = Host::new().load().memory_percent;
        assert!((0.0..=100.0).contains(&memory), "{memory}");
    }
}
