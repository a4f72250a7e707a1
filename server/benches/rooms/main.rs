//! What rooms cost, in time and memory; measured in one run beside the least that the same could cost.
//!
//! Contenders of a table are measured in turn, so that what else the machine does hits all of them alike. What could not be
//! measured is named, and makes the run fail; a missed goal does not.
//!
//! Containers are real, and of a deployment of the run's own; none is left, however the run ends.

mod agent;
mod cold;
mod collection;
mod deployment;
mod engine;
mod memory;
mod server;
mod stage;
mod start;
mod warm;

// What both benchmarks need lies with the first of them.
#[path = "../../egress/benches/egress/process.rs"]
mod process;
#[path = "../../egress/benches/egress/report/mod.rs"]
mod report;
#[path = "../../egress/benches/egress/run.rs"]
mod run;
#[path = "../../egress/benches/egress/stats.rs"]
mod stats;

use std::process::ExitCode;

use report::Subject;
use run::Groups;

const SUBJECT: Subject = Subject { name: "rooms", title: "Rooms: speed and memory" };

const GROUPS: Groups<'_, stage::Stage> = &[
    (&["warm", "warm-p99", "warm-engine-calls"], warm::measure),
    (&["cold"], cold::measure),
    (&["memory-agent"], agent::measure),
    (&["start"], start::measure),
    (&["collection"], collection::measure),
    (&["memory-room"], memory::measure),
];

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some(memory::ROLE) => run::exit(memory::play()),
        Some(memory::AGENTS) => run::exit(memory::play_agents()),
        _ => run::main(SUBJECT, GROUPS),
    }
}
