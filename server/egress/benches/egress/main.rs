//! The proxy's speed and memory beside its peers', measured in one run.
//!
//! Every contender of a table is measured once per round, one after the other, so that what else the machine does hits all
//! of them alike. What could not be measured is named, and makes the run fail; a missed goal does not.
//!
//! Proxies, peers and origins are processes of their own: this program started again in a role (`roles`), or a package's.

mod bulk;
mod forward;
mod lean;
mod memory;
mod net;
mod origin;
mod peers;
mod report;
mod roles;
mod sign;
mod stage;
mod stats;
mod tunnels;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use report::Report;

/// What the command line asks for.
#[derive(Debug)]
struct Options {
    /// Part of a table's id; empty for all.
    filter: String,
    rounds: usize,
    /// Where the report goes.
    out: PathBuf,
}

impl Options {
    fn read(mut args: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self { filter: String::new(), rounds: 7, out: "target/bench".into() };
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--filter" => options.filter = value()?,
                "--rounds" => options.rounds = value()?.parse().context("--rounds needs a number")?,
                "--out" => options.out = value()?.into(),
                // What cargo adds.
                "--bench" => {}
                _ => bail!("{arg} is not understood; --filter TABLE, --rounds N, --out DIR are"),
            }
        }
        Ok(options)
    }
}

/// Measures some tables; what cannot be measured is told to the report.
type Group = fn(&mut stage::Stage, usize, &mut Report);

/// Tables, and who measures them.
const GROUPS: [(&[&str], Group); 5] = [
    (&["bulk-down", "bulk-up"], bulk::measure),
    (&["tunnels"], tunnels::measure),
    (&["forward", "forward-half-load"], forward::measure),
    (&["sign"], sign::measure),
    (&["memory-idle", "memory-bulk"], memory::measure),
];

fn run(options: &Options) -> Result<bool> {
    let began = Instant::now();
    let mut report = Report::new(options.rounds);
    let mut stage = stage::Stage::new()?;
    let mut some = false;
    for (ids, measure) in GROUPS {
        let wanted: Vec<&str> = ids.iter().copied().filter(|id| id.contains(&options.filter)).collect();
        if !wanted.is_empty() {
            some = true;
            report.want(&wanted);
            measure(&mut stage, options.rounds, &mut report);
        }
    }
    if !some {
        let all: Vec<&str> = GROUPS.iter().flat_map(|(ids, _)| ids.iter().copied()).collect();
        bail!("no table is called {:?}; there are {}", options.filter, all.join(", "));
    }
    drop(stage);
    report.finish(began.elapsed(), &options.out)
}

fn main() -> ExitCode {
    if let Some(code) = roles::play() {
        return code;
    }
    match Options::read(std::env::args().skip(1)).and_then(|options| run(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
