//! Processes: the agent is the first in its room, so every orphan becomes its child, and everything that descends from it
//! belongs to the execution.

use std::collections::{HashMap, HashSet};
use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::AbortOnDropHandle;

/// How long killing everything may take.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks at what is left.
const PAUSE: Duration = Duration::from_millis(5);

/// Makes orphans children of this process also where it is not the first (prctl(2), `PR_SET_CHILD_SUBREAPER`).
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
        // One that ended meanwhile is not there any more, and that is all.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        seen.extend(parse(pid, &stat));
    }
    Ok(seen)
}

/// The command's name may hold spaces and brackets, so fields are counted from its last bracket.
fn parse(pid: i32, stat: &str) -> Option<Seen> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    Some(Seen { pid, parent, zombie: matches!(state, "Z" | "X") })
}

/// Everything that descends from this process and still runs.
fn descendants() -> io::Result<HashSet<i32>> {
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
            if !child.zombie {
                found.insert(child.pid);
            }
        }
    }
    Ok(found)
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// Kills everything that descends from this process; when it returns well, nothing of it runs.
///
/// They are stopped before they are killed: a process that forks faster than one can look finds its children stopped, too.
pub(crate) async fn kill_descendants() -> io::Result<()> {
    let began = Instant::now();
    let mut stopped = HashSet::new();
    loop {
        let running = descendants()?;
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
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{} processes do not die", running.len())));
        }
    }
}

fn send(pid: i32, signal: Signal) {
    // One that is gone needs no signal.
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

thread_local! {
    /// Children whose exit status somebody waits for: theirs are not to be taken.
    static AWAITED: std::cell::RefCell<HashSet<i32>> = std::cell::RefCell::default();
}

/// While this lives, the reaper leaves a child to whoever waits for it.
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

/// Buries children that ended and that nobody waits for.
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

/// Buries orphans as they end.
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
    fn a_name_with_brackets_and_spaces_is_no_trap() {
        let seen = parse(7, "7 (a) Z (b) c) S 3 7 7 0").expect("parses");
        assert_eq!((seen.parent, seen.zombie), (3, false));
        assert!(parse(7, "7 (x) Z 1").is_some_and(|seen| seen.zombie));
        assert!(parse(7, "junk").is_none());
    }
}
