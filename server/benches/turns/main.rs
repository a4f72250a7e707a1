//! Benchmark of turns: how long it takes until the first text, and what sessions and their log cost. Workspaces are real, the CLI in them is
//! the real one, and the model is scripted and answers at once. Beside it the same CLI is measured at its own standard input and output,
//! which asks the same model without a proxy.
//!
//! A measurement that fails is reported and makes the run fail; a missed goal does not.

mod appends;
mod cli;
mod sessions;
mod stage;
mod turns;

// Shared by all benchmarks; the files are in the egress, rooms and service benchmarks.
#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "../service/client.rs"]
mod client;
#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "../../egress/benches/egress/process.rs"]
mod process;
#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "../../egress/benches/egress/report/mod.rs"]
mod report;
#[path = "../../egress/benches/egress/run.rs"]
mod run;
#[path = "../service/served.rs"]
mod served;
#[path = "../rooms/server.rs"]
mod server;
#[path = "../../egress/benches/egress/stats.rs"]
mod stats;

use std::process::ExitCode;

use report::Subject;
use run::Groups;

const SUBJECT: Subject = Subject { name: "turns", title: "Turns: speed and memory" };

const GROUPS: Groups<'_, stage::Stage> = &[
    (&["turn-later"], turns::later),
    (&["turn-first"], turns::first),
    (&["approval"], turns::approval),
    (&["memory-session"], sessions::measure),
    (&["append-file"], appends::file),
    (&["append-postgres", "append-postgres-p99"], appends::postgres),
];

fn main() -> ExitCode {
    run::main(SUBJECT, GROUPS)
}
