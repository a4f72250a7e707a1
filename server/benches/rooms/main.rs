//! Benchmark of rooms: time and memory, compared in the same run with the minimum that the same work needs.
//!
//! The contenders of a table take turns, so that other load on the machine affects all of them alike. A measurement that fails is
//! reported and makes the run fail; a missed goal does not.
//!
//! Containers are real and belong to a deployment of this run; all are removed however the run ends.

mod agent;
mod cold;
mod collection;
mod deployment;
mod engine;
mod memory;
mod server;
mod stage;
mod start;
mod tenancy;
mod warm;

// Shared by all benchmarks; the files are in the egress benchmark.
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
    (&["resolver", "policy-memory", "policy-update"], tenancy::measure),
];

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some(memory::ROLE) => run::exit(memory::play()),
        Some(memory::AGENTS) => run::exit(memory::play_agents()),
        _ => run::main(SUBJECT, GROUPS),
    }
}
