//! Describes the machine on which the measurements were made.

use std::fmt;
use std::fs;
use std::time::SystemTime;

use serde::Serialize;

/// The machine as its kernel describes it.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    memory_mib: u64,
    kernel: String,
    date: String,
    /// Load average of the minute before.
    load_before: String,
    commit: String,
}

impl Machine {
    pub(crate) fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| -> String {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let date = jiff::Timestamp::from_second(i64::try_from(now).unwrap_or_default());
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(0, Into::into),
            memory_mib: memory.split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            date: date.map(|date| date.to_string()).unwrap_or_default(),
            load_before: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            // Set by the script that starts this program, because the build does not know it.
            commit: std::env::var("BENCH_COMMIT").unwrap_or_default(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, cores, memory_mib, kernel, date, load_before, commit } = self;
        write!(f, "{cpu}, {cores} cores, {memory_mib} MiB, Linux {kernel}, load {load_before}; {date}")?;
        if commit.is_empty() { Ok(()) } else { write!(f, "; {commit}") }
    }
}
