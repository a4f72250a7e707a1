//! Runs the measurements that the command line selects, table by table.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::report::{Report, Subject};

/// The command line's options.
#[derive(Debug)]
struct Options {
    /// Part of a table's id; empty for all.
    filter: String,
    rounds: usize,
    /// Directory of the report.
    out: PathBuf,
    /// Only list the tables.
    list: bool,
}

impl Options {
    fn read(mut args: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self { filter: String::new(), rounds: 7, out: "target/bench".into(), list: false };
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--filter" => options.filter = value()?,
                "--rounds" => options.rounds = value()?.parse().context("--rounds needs a number")?,
                "--out" => options.out = value()?.into(),
                "--list" => options.list = true,
                // Added by cargo.
                "--bench" => {}
                _ => bail!("{arg} is not understood; --filter TABLE, --rounds N, --out DIR, --list are"),
            }
        }
        Ok(options)
    }
}

/// Measures some tables; failed measurements are listed in the report.
pub(crate) type Group<S> = fn(&mut S, usize, &mut Report);

/// Ids of tables, and the function that measures them.
pub(crate) type Groups<'a, S> = &'a [(&'a [&'a str], Group<S>)];

/// Where measurements take place.
pub(crate) trait Place: Sized {
    /// Ready to be measured in.
    fn open() -> Result<Self>;

    /// Versions of what is measured beside ours.
    fn peers(&self) -> Vec<String>;

    /// Stops everything that was started.
    fn close(self) -> Result<()>;
}

/// The main program: runs the selected measurements.
pub(crate) fn main<S: Place>(subject: Subject, groups: Groups<'_, S>) -> ExitCode {
    exit(run(subject, groups))
}

/// Exit code of the program, from its result.
pub(crate) fn exit(done: Result<bool>) -> ExitCode {
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the selected measurements; false if one of them failed.
pub(crate) fn run<S: Place>(subject: Subject, groups: Groups<'_, S>) -> Result<bool> {
    let options = Options::read(std::env::args().skip(1))?;
    let all = || groups.iter().flat_map(|(ids, _)| ids.iter().copied()).collect::<Vec<&str>>();
    if options.list {
        println!("{}", all().join("\n"));
        return Ok(true);
    }
    if !all().iter().any(|id| id.contains(&options.filter)) {
        bail!("no table is called {:?}; there are {}", options.filter, all().join(", "));
    }
    let began = Instant::now();
    let mut place = S::open()?;
    let mut report = Report::new(subject, place.peers(), options.rounds);
    for (ids, measure) in groups {
        let wanted: Vec<&str> = ids.iter().copied().filter(|id| id.contains(&options.filter)).collect();
        if !wanted.is_empty() {
            report.want(&wanted);
            measure(&mut place, options.rounds, &mut report);
        }
    }
    let closed = place.close();
    let whole = report.finish(began.elapsed(), &options.out)?;
    closed.map(|()| whole)
}
