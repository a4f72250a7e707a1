//! What callers of the service see: how soon a run tells something, how fast events come through, what a reader costs, how fast
//! lists are. The real program with real rooms, whose driver says what it is told to (`driver/`).
//!
//! What could not be measured is named, and makes the run fail; a missed goal does not.

mod client;
mod events;
mod listing;
mod stage;

// What all benchmarks need lies with the first that needed it.
#[path = "../../egress/benches/egress/lean.rs"]
mod lean;
#[path = "../../egress/benches/egress/load.rs"]
mod load;
#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "../../egress/benches/egress/net.rs"]
mod net;
#[path = "../../egress/benches/egress/process.rs"]
mod process;
#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "../../egress/benches/egress/report/mod.rs"]
mod report;
#[path = "../../egress/benches/egress/run.rs"]
mod run;
#[path = "../rooms/server.rs"]
mod server;
#[path = "../../egress/benches/egress/stats.rs"]
mod stats;

use std::process::ExitCode;

use report::Subject;
use run::Groups;

const SUBJECT: Subject = Subject { name: "service", title: "The service: speed and memory" };

const GROUPS: Groups<'_, stage::Stage> = &[
    (&["first-event"], events::first),
    (&["relay"], events::relay),
    (&["memory-reader"], events::readers),
    (&["listing", "listing-one-tenant"], listing::measure),
];

fn main() -> ExitCode {
    run::main(SUBJECT, GROUPS)
}
