//! Many living sessions for many turns: what a server holds must not grow with the turns.

use std::path::Path;

use crate::harness::context::Context;
use crate::harness::engine::Room;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::needs::RUN;
use crate::target::deployment::Deployment;
use crate::target::launch::Launch;
use futures::stream::TryStreamExt;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "LIVE-050",
    "However many turns living sessions have, the server's descriptors, threads, memory and files do not grow",
    "50 living sessions, 1,000 turns: nothing grows",
    body!(nothing_grows),
)
.severity(Severity::Medium)
.profile(Profile::Full)
.requires(RUN)
.limit(150)];

/// Variables that set how many sessions and turns there are.
const SESSIONS: &str = "NAGAYA_SOAK_SESSIONS";
const TURNS: &str = "NAGAYA_SOAK_TURNS";
/// How many there are without.
const FEW: (usize, usize) = (2, 30);
/// Name of the directory of the log.
const LOG: &str = "log";
/// Turns at the same time.
const AT_ONCE: usize = 4;
/// How often it is looked what the server holds.
const LOOKS: usize = 10;

/// What may grow, and by how much it may differ between two looks of the same server: connections of the suite come and go, and memory is
/// freed late.
const HELD: [(&str, u64); 7] = [
    ("descriptors of the server", 24),
    ("threads of the server", 8),
    ("memory of the server, in KiB", 8 * 1024),
    ("files of the server's state, beside the log", 8),
    ("files of the workspaces' sockets", 8),
    ("descriptors of an agent", 8),
    ("memory of an agent, in KiB", 2 * 1024),
];

type Look = [u64; HELD.len()];

/// What has grown from the middle third of the looks to the last: the largest of each are compared.
fn grown(looks: &[Look]) -> Vec<String> {
    let third = looks.len() / 3;
    let largest = |part: &[Look], what: usize| part.iter().map(|look| look[what]).max().unwrap_or_default();
    let (middle, last) = (&looks[third..looks.len() - third], &looks[looks.len() - third..]);
    let grows = |(what, (name, slack)): (usize, &(&str, u64))| {
        let (before, after) = (largest(middle, what), largest(last, what));
        (after > before + slack).then(|| format!("{name}: {before}, then {after}"))
    };
    HELD.iter().enumerate().filter_map(grows).collect()
}

fn number(name: &str, default: usize) -> Result<usize, Failure> {
    match std::env::var(name) {
        Ok(text) => text.parse().map_err(|_| Failure::harness(format!("{name}={text:?} is not a number"))),
        Err(_) => Ok(default),
    }
}

async fn nothing_grows(context: &Context) -> Result<(), Failure> {
    let (sessions, turns) = (number(SESSIONS, FEW.0)?, number(TURNS, FEW.1)?);
    let launch = Launch::new().set("DRIVER_KEEP_ALIVE", "1h").set("DRIVER_KEEP_ALIVE_MAX", sessions + 1);
    let deployment = context.launch(launch).await?;
    let first = deployment.conversation(context).await?;
    deployment.run_well(&first, "@say hello").await?;
    let room = deployment.only_room().await?;
    let mut conversations = vec![first.clone()];
    for _ in 1..sessions {
        conversations.push(deployment.another_conversation(context, &first.tenant, &first.model).await?);
    }
    let mut looks = Vec::new();
    // Of one conversation one turn at a time, of several conversations together.
    let each = turns.div_ceil(LOOKS * sessions);
    for _ in 0..LOOKS {
        futures::stream::iter(conversations.iter().map(Ok))
            .try_for_each_concurrent(AT_ONCE, async |conversation| {
                for _ in 0..each {
                    deployment.run_well(conversation, "@say one more turn").await?;
                }
                Ok::<_, Failure>(())
            })
            .await?;
        looks.push(look(&deployment, &room).await?);
    }
    let had = LOOKS * sessions * each;
    let waiting = driver_count(&deployment).await?;
    check_eq("drivers that live at the end", waiting, sessions)?;
    let shown: Vec<String> = HELD
        .iter()
        .enumerate()
        .map(|(what, (name, _))| format!("{name} {:?}", looks.iter().map(|look| look[what]).collect::<Vec<_>>()))
        .collect();
    context.note(format!("{sessions} sessions, {had} turns: {}", shown.join("; ")));
    let grown = grown(&looks);
    check(grown.is_empty(), format!("after {had} turns of {sessions} sessions this has grown: {}", grown.join("; ")))
}

/// What is held while no turn is under way.
async fn look(deployment: &Deployment, room: &Room) -> Result<Look, Failure> {
    let server = deployment.server()?;
    let pid = server.process.pid();
    let count = |path: String| -> Result<u64, Failure> { Ok(std::fs::read_dir(path)?.count() as u64) };
    let state = server.program.env.get("STATE_DIR").cloned().unwrap_or_default();
    let sockets = server.program.env.get("WORKSPACE_SOCKET_BASE_PATH").cloned().unwrap_or_default();
    let agent = room.shell("ls /proc/1/fd | wc -l; grep VmRSS /proc/1/status | tr -dc 0-9").await?;
    let mut agent = agent.printed.split_whitespace().map(|number| number.parse::<u64>().unwrap_or_default());
    Ok([
        count(format!("/proc/{pid}/fd"))?,
        count(format!("/proc/{pid}/task"))?,
        resident(pid)?,
        files(Path::new(&state)),
        files(Path::new(&sockets)),
        agent.next().unwrap_or_default(),
        agent.next().unwrap_or_default(),
    ])
}

/// The memory of a process in KiB (`VmRSS`, proc_pid_status(5)).
fn resident(pid: u32) -> Result<u64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let found = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    found.ok_or_else(|| Failure::harness(format!("no VmRSS of process {pid}")))
}

/// Files below a directory, however deep, but not those of the log: it keeps each run.
fn files(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let counted = entries.filter(|entry| entry.file_name() != LOG);
    counted.map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
}

/// Drivers in all workspaces.
async fn driver_count(deployment: &Deployment) -> Result<usize, Failure> {
    let mut count = 0;
    for room in deployment.rooms().await? {
        let found = room.shell("pgrep -c -f '[c]laude.*--input-format' || true").await?;
        count += found.printed.trim().parse::<usize>().unwrap_or_default();
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_with_the_turns_is_found_and_what_settles_is_not() {
        let looks = |of: &dyn Fn(u64) -> u64| -> Vec<Look> { (0..10).map(|n| [of(n); HELD.len()]).collect() };
        assert!(grown(&looks(&|n| 100 + n % 3)).is_empty(), "noise");
        assert!(grown(&looks(&|n| if n < 2 { n * 5_000 } else { 10_000 })).is_empty(), "what it needs at first");
        assert_eq!(grown(&looks(&|n| n * 4_000)).len(), HELD.len(), "{:?}", grown(&looks(&|n| n * 4_000)));
        assert_eq!(grown(&looks(&|n| n * 30)).len(), HELD.len() - 2, "memory may");
    }
}
