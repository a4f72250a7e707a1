//! Memory use and descriptor limit of a process, from the kernel.

use anyhow::{Context, Result};

/// Raises the limit of descriptors to the maximum.
pub(crate) fn raise_descriptors() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const WANTED: u64 = 100_000;
    let wanted = Rlimit { current: Some(WANTED), maximum: Some(WANTED) };
    let most = getrlimit(Resource::Nofile).maximum;
    if most.is_none_or(|most| most >= WANTED) || setrlimit(Resource::Nofile, wanted).is_err() {
        setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })?;
    }
    Ok(())
}

/// A figure of a process, in KiB.
pub(crate) fn status(pid: u32, field: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let figure = line.and_then(|rest| rest.split_whitespace().next()).with_context(|| format!("no {field}"))?;
    Ok(figure.parse()?)
}
