//! What was measured: on the terminal, as JSON for programs, as a page for people.

mod html;
mod machine;
mod terminal;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::stats::{Series, median};
use machine::Machine;

/// Changes with the meaning of a field.
const FORMAT: u32 = 1;

/// What a whole run is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject {
    /// Its files' name.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
}

/// What one table is about.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) more_is_better: bool,
    pub(crate) note: String,
    pub(crate) series: Vec<Series>,
    pub(crate) goals: Vec<Goal>,
}

/// What a figure is held against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Goal {
    of: &'static str,
    against: Option<&'static str>,
    bound: Bound,
}

#[derive(Debug, Clone, Copy)]
enum Bound {
    /// So many times the other's, or more; where less is better, or less.
    Ratio(f64),
    /// So much more than the other's, or less.
    Added(f64),
    /// So much, or less.
    AtMost(f64),
    /// So much, or more.
    AtLeast(f64),
}

impl Goal {
    pub(crate) fn ratio(against: &'static str, want: f64) -> Self {
        Self { of: "ours", against: Some(against), bound: Bound::Ratio(want) }
    }

    /// Of another contender than ours.
    pub(crate) fn of(self, of: &'static str) -> Self {
        Self { of, ..self }
    }

    pub(crate) fn added(against: &'static str, want: f64) -> Self {
        Self { of: "ours", against: Some(against), bound: Bound::Added(want) }
    }

    pub(crate) fn at_most(want: f64) -> Self {
        Self { of: "ours", against: None, bound: Bound::AtMost(want) }
    }

    #[allow(dead_code, reason = "not every benchmark has one")]
    pub(crate) fn at_least(want: f64) -> Self {
        Self { of: "ours", against: None, bound: Bound::AtLeast(want) }
    }

    /// Compared round by round, as neighbours in time share the machine's noise.
    fn judge(&self, rows: &[Row], unit: &str, more_is_better: bool) -> Option<Judged> {
        let samples = |name: &str| rows.iter().find(|row| row.name == name).map(|row| row.samples.as_slice());
        let of = samples(self.of)?;
        let pairs = |figure: fn(f64, f64) -> f64| -> Option<f64> {
            let against = samples(self.against?)?;
            Some(median(&of.iter().zip(against).map(|(of, against)| figure(*of, *against)).collect::<Vec<_>>()))
        };
        let name = self.against.unwrap_or_default();
        let (figure, wanted, met, text) = match self.bound {
            Bound::Ratio(want) => {
                let ratio = pairs(|of, against| of / against)?;
                let (met, sign) = if more_is_better { (ratio >= want, '≥') } else { (ratio <= want, '≤') };
                (ratio, want, met, format!("{} {sign} {want:.2} × {name}", self.of))
            }
            Bound::Added(want) => {
                let added = pairs(|of, against| of - against)?;
                (added, want, added <= want, format!("{} − {name} ≤ {want} {unit}", self.of))
            }
            Bound::AtLeast(want) => {
                let figure = median(of);
                (figure, want, figure >= want, format!("{} ≥ {want} {unit}", self.of))
            }
            Bound::AtMost(want) => {
                let figure = median(of);
                (figure, want, figure <= want, format!("{} ≤ {want} {unit}", self.of))
            }
        };
        Some(Judged { text, figure, wanted, met })
    }
}

/// A goal beside what was measured.
#[derive(Debug, Serialize)]
struct Judged {
    text: String,
    figure: f64,
    wanted: f64,
    met: bool,
}

/// One contender's figures.
#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    median: f64,
    min: f64,
    max: f64,
    /// Median over rounds of the 99th percentile of an exchange, in milliseconds.
    p99_ms: Option<f64>,
    samples: Vec<f64>,
}

/// One table.
#[derive(Debug, Serialize)]
struct Measured {
    id: &'static str,
    title: &'static str,
    unit: &'static str,
    more_is_better: bool,
    note: String,
    rows: Vec<Row>,
    goals: Vec<Judged>,
}

/// The whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    #[serde(skip)]
    subject: Subject,
    format: u32,
    rounds: usize,
    seconds: f64,
    machine: Machine,
    /// Versions of what is measured beside ours.
    peers: Vec<String>,
    tables: Vec<Measured>,
    /// What should have been measured and was not, and why.
    not_measured: Vec<String>,
    #[serde(skip)]
    wanted: Vec<String>,
}

impl Report {
    pub(crate) fn new(subject: Subject, peers: Vec<String>, rounds: usize) -> Self {
        Self {
            subject,
            format: FORMAT,
            rounds,
            seconds: 0.0,
            machine: Machine::this(),
            peers,
            tables: Vec::new(),
            not_measured: Vec::new(),
            wanted: Vec::new(),
        }
    }

    /// These are going to be measured.
    pub(crate) fn want(&mut self, ids: &[&str]) {
        self.wanted.extend(ids.iter().map(|id| (*id).to_owned()));
    }

    pub(crate) fn wants(&self, id: &str) -> bool {
        self.wanted.iter().any(|wanted| wanted == id)
    }

    /// Takes a table, and shows it at once.
    pub(crate) fn add(&mut self, table: Table) {
        let mut rows = Vec::new();
        for Series { name, samples } in table.series {
            match samples {
                Err(error) => self.not_measured.push(format!("{}: {name}: {error:#}", table.id)),
                Ok(samples) => {
                    let values: Vec<f64> = samples.iter().map(|sample| sample.value).collect();
                    let p99: Vec<f64> = samples.iter().filter_map(|sample| sample.p99).collect();
                    rows.push(Row {
                        name,
                        median: median(&values),
                        min: values.iter().copied().fold(f64::INFINITY, f64::min),
                        max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                        p99_ms: Some(p99).filter(|p99| !p99.is_empty()).map(|p99| median(&p99)),
                        samples: values,
                    });
                }
            }
        }
        let goals = table.goals.iter().filter_map(|goal| goal.judge(&rows, table.unit, table.more_is_better)).collect();
        let Table { id, title, unit, more_is_better, note, .. } = table;
        let measured = Measured { id, title, unit, more_is_better, note, rows, goals };
        terminal::show(&measured);
        self.tables.push(measured);
    }

    /// Writes it all down; false where something was not measured.
    pub(crate) fn finish(mut self, took: Duration, out: &Path) -> Result<bool> {
        self.seconds = took.as_secs_f64();
        for id in &self.wanted {
            if !self.tables.iter().any(|table| table.id == id) {
                self.not_measured.push(format!("{id}: no figures"));
            }
        }
        fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
        let page = out.join(format!("{}.html", self.subject.name));
        fs::write(page.with_extension("json"), serde_json::to_string_pretty(&self)? + "\n")?;
        fs::write(&page, html::page(&self))?;
        println!("\n{}\n{:.0} s, {} rounds; {}", self.machine, self.seconds, self.rounds, page.display());
        for what in &self.not_measured {
            println!("NOT MEASURED: {what}");
        }
        Ok(self.not_measured.is_empty())
    }
}

/// A figure with as many digits as mean something.
fn digits(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
