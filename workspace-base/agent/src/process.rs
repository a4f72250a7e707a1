//! Kills the processes of an execution. The agent is the first process of its container, so every orphan becomes its child, and all of
//! its descendants belong to the execution.

use std::collections::{HashMap, HashSet};
use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::AbortOnDropHandle;

/// Time limit for killing all descendants.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// Pause between two lists of the processes that are left.
const PAUSE: Duration = Duration::from_millis(5);

/// Makes this process the parent of orphans even if it is not the first process (prctl(2), `PR_SET_CHILD_SUBREAPER`).
pub(crate) fn adopt_orphans() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// A process as /proc shows it (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy)]
struct Seen {
    pid: i32,
    parent: i32,
    zombie: bool,
}

fn processes() -> io::Result<Vec<Seen>> {
    let mut seen = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process that has exited meanwhile is skipped.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        seen.extend(parse(pid, &stat));
    }
    Ok(seen)
}

/// Parses a stat line. The command's name can contain spaces and parentheses, so fields are counted from the last parenthesis.
fn parse(pid: i32, stat: &str) -> Option<Seen> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    Some(Seen { pid, parent, zombie: matches!(state, "Z" | "X") })
}

/// The descendants of this process that still run, without `spared` itself.
fn descendants(spared: Option<i32>) -> io::Result<HashSet<i32>> {
    let processes = processes()?;
    let mut children: HashMap<i32, Vec<Seen>> = HashMap::new();
    for process in &processes {
        children.entry(process.parent).or_default().push(*process);
    }
    let mut found = HashSet::new();
    let mut parents = vec![own_pid()];
    while let Some(parent) = parents.pop() {
        for child in children.get(&parent).into_iter().flatten() {
            parents.push(child.pid);
            if !child.zombie && Some(child.pid) != spared {
                found.insert(child.pid);
            }
        }
    }
    Ok(found)
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// Kills all descendants of this process but `spared`. Once it returns `Ok`, none of the others runs.
///
/// They are stopped before they are killed, so that a process that forks quickly cannot outrun the listing of processes.
pub(crate) async fn kill_descendants_except(spared: Option<i32>) -> io::Result<()> {
    let began = Instant::now();
    let mut stopped = HashSet::new();
    loop {
        let running = descendants(spared)?;
        if running.is_empty() {
            return Ok(());
        }
        let fresh: Vec<i32> = running.difference(&stopped).copied().collect();
        if fresh.is_empty() {
            running.iter().for_each(|pid| send(*pid, Signal::KILL));
            tokio::time::sleep(PAUSE).await;
            reap(None);
        } else {
            fresh.iter().for_each(|pid| send(*pid, Signal::STOP));
            stopped.extend(fresh);
        }
        if began.elapsed() > KILL_DEADLINE {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{} processes are still running", running.len()),
            ));
        }
    }
}

fn send(pid: i32, signal: Signal) {
    // An error means that the process has exited.
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

thread_local! {
    /// Children whose exit status other code waits for; the reaper must not take it.
    static AWAITED: std::cell::RefCell<HashSet<i32>> = std::cell::RefCell::default();
}

/// Keeps the reaper from a child for as long as it lives, so that its own waiter receives the exit status.
#[derive(Debug)]
pub(crate) struct Awaited(i32);

impl Awaited {
    pub(crate) fn new(pid: u32) -> Self {
        let pid = i32::try_from(pid).unwrap_or_default();
        AWAITED.with_borrow_mut(|awaited| awaited.insert(pid));
        Self(pid)
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        AWAITED.with_borrow_mut(|awaited| awaited.remove(&self.0));
    }
}

/// Reaps the children that have exited, except those with a waiter of their own.
fn reap(log: Option<&str>) {
    let own = own_pid();
    let Ok(processes) = processes() else { return };
    for zombie in processes.iter().filter(|process| process.zombie && process.parent == own) {
        if AWAITED.with_borrow(|awaited| awaited.contains(&zombie.pid)) {
            continue;
        }
        if let Some(pid) = Pid::from_raw(zombie.pid) {
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
            tracing::trace!(pid = zombie.pid, log, "reaped");
        }
    }
}

/// Reaps orphans when they exit.
#[derive(Debug)]
pub(crate) struct Reaper(AbortOnDropHandle<()>);

impl Reaper {
    pub(crate) fn start() -> io::Result<Self> {
        let mut ended = signal(SignalKind::child())?;
        Ok(Self(AbortOnDropHandle::new(tokio::spawn(async move {
            while ended.recv().await.is_some() {
                reap(Some("orphan"));
            }
        }))))
    }

    pub(crate) fn stop(self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_parentheses_and_spaces_is_skipped() {
        let seen = parse(7, "7 (a) Z (b) c) S 3 7 7 0").expect("parses");
        assert_eq!((seen.parent, seen.zombie), (3, false));
        assert!(parse(7, "7 (x) Z 1").is_some_and(|seen| seen.zombie));
        assert!(parse(7, "junk").is_none());
    }
}
