//! Benchmark of the service as its clients see it: time to the first event of a run, throughput of events, memory per reader, and
//! latency of lists. It measures the real program with real rooms, with the driver that is a script (`DRIVER=script`).
//!
//! A measurement that fails is reported and makes the run fail; a missed goal does not.

mod client;
mod events;
mod listing;
mod served;
mod stage;

// Shared by all benchmarks; the files are in the egress and rooms benchmarks.
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
