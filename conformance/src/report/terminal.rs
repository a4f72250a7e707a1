//! The report for a person at a terminal: live while it runs, a summary at the end.

use std::fmt::Write as _;
use std::io;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::forecast::{Forecast, rough};
use super::model::RunReport;
use crate::harness::outcome::{Outcome, Verdict};
use crate::harness::rounds::Rounds;
use crate::harness::runner::{Observer, Report};
use crate::harness::scenario::Scenario;
use strum::VariantArray as _;

/// Returns to the line's beginning and erases it (ECMA-48, CR and EL).
const CLEAR_LINE: &str = "\r\u{1b}[2K";
/// Ends automatic wrapping (DECAWM): only one line can be erased, so a longer status is cut off at the terminal's margin.
const NO_WRAP: &str = "\u{1b}[?7l";
/// Wraps again.
const WRAP: &str = "\u{1b}[?7h";
/// How long a message may be on one line of the summary, in characters.
const MESSAGE_SHOWN: usize = 400;

/// A run that nobody watches at a terminal says at least this often that it goes on.
const SILENCE: Duration = Duration::from_secs(30);

/// Whether to use colours and a status line on standard error: on a terminal, unless `NO_COLOR` is set.
#[must_use]
pub fn is_interactive() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn paint(outcome: Outcome, text: &str, colour: bool) -> String {
    let code = match outcome {
        Outcome::Pass => "32",
        Outcome::Fail | Outcome::Timeout => "31;1",
        Outcome::Error | Outcome::CouldNotRun => "33;1",
        Outcome::NotApplicable | Outcome::KnownFailure => "36",
    };
    if colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// Shows which scenarios run, which have ended and how, how long they took, and how long the rest may take.
#[derive(Debug)]
pub struct Progress {
    interactive: bool,
    /// Unknown if the selection is run until something fails.
    total: Option<usize>,
    ended: usize,
    bad: usize,
    started: Instant,
    /// When something was last printed.
    printed: Instant,
    running: Vec<(&'static Scenario, Instant)>,
    forecast: Forecast,
}

impl Progress {
    /// Progress over a selection that is run in rounds, so many scenarios at a time.
    #[must_use]
    pub fn new(selected: &[&'static Scenario], rounds: Rounds, jobs: usize) -> Self {
        let (total, limits) = match rounds {
            Rounds::Times(times) => (Some(times * selected.len()), limits(selected).saturating_mul(narrowed(times))),
            Rounds::UntilFailure => (None, Duration::MAX),
        };
        let forecast = Forecast::new(narrowed(jobs.min(selected.len())), limits);
        let (interactive, started) = (is_interactive(), Instant::now());
        Self { interactive, total, ended: 0, bad: 0, started, printed: started, running: Vec::new(), forecast }
    }

    /// Ignores write errors: a closed terminal must not stop a run.
    fn write(&mut self, line: &str) {
        self.printed = Instant::now();
        let clear = if self.interactive { CLEAR_LINE } else { "" };
        let _ = write!(io::stderr().lock(), "{clear}{line}");
    }

    /// How far the run is: scenarios that have ended, how long the rest may take, and what runs.
    fn status(&self) -> String {
        let running: Vec<String> = self
            .running
            .iter()
            .map(|(scenario, since)| format!("{} {:.0}s", scenario.id, since.elapsed().as_secs_f64()))
            .collect();
        let bad = if self.bad == 0 { String::new() } else { format!(", {} not passed", self.bad) };
        let running_for = self.running.iter().map(|(_, since)| since.elapsed()).sum();
        let left = self
            .total
            .and_then(|_| self.forecast.left(running_for))
            .map_or(String::new(), |left| format!(", about {} left", rough(left)));
        let total = self.total.map_or(String::new(), |total| format!("/{total}"));
        format!(
            "{}{total} in {:.0} s{left}{bad}; running: {}",
            self.ended,
            self.started.elapsed().as_secs_f64(),
            running.join(", ")
        )
    }

    /// What is due to be printed now: at a terminal the status line, elsewhere a line only after `silence`.
    fn due(&self, silence: Duration) -> Option<String> {
        if self.interactive {
            return Some(format!("{NO_WRAP}  {}{WRAP}", self.status()));
        }
        (self.printed.elapsed() >= silence).then(|| format!("{:>14}  {}\n", "…", self.status()))
    }
}

impl Observer for Progress {
    fn began(&mut self, scenario: &'static Scenario) {
        self.running.push((scenario, Instant::now()));
        if !self.interactive {
            self.write(&format!("         start  {:<18} {}\n", scenario.id, scenario.title));
        }
    }

    fn ended(&mut self, report: &Report) {
        self.running.retain(|(scenario, _)| scenario.id != report.scenario.id);
        self.ended += 1;
        self.forecast.ended(report.scenario.limit, report.took);
        let outcome = report.outcome;
        self.bad += usize::from(!matches!(outcome, Outcome::Pass | Outcome::NotApplicable | Outcome::KnownFailure));
        let status = paint(outcome, &format!("{outcome:>14}"), self.interactive);
        let mut line = format!(
            "{status}  {:<18} {:>6.1} s  {}\n",
            report.scenario.id,
            report.took.as_secs_f64(),
            report.scenario.title
        );
        if let Some(message) = report.message.as_deref().filter(|_| outcome != Outcome::Pass) {
            let _ = writeln!(line, "                {}", first_line(message));
        }
        self.write(&line);
    }

    fn tick(&mut self) {
        if let Some(line) = self.due(SILENCE) {
            self.write(&line);
            let _ = io::stderr().flush();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.write("");
    }
}

fn limits(selected: &[&'static Scenario]) -> Duration {
    selected.iter().map(|scenario| scenario.limit).sum()
}

fn narrowed(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let shown: String = line.chars().take(MESSAGE_SHOWN).collect();
    if shown.len() < line.len() { format!("{shown}…") } else { shown }
}

/// Everything about the result of one scenario except its evidence.
#[must_use]
pub fn details(report: &Report) -> String {
    let mut out = format!("{} {}\n", report.scenario.id, report.scenario.title);
    let mut field = |name: &str, text: &str| {
        let _ = writeln!(out, "  {name:<12} {}", text.replace('\n', "\n               "));
    };
    field("requirement", report.scenario.requirement);
    field("clauses", &report.scenario.clauses().join(", "));
    field("source", &format!("{}:{}", report.scenario.file(), report.scenario.line()));
    for (name, text) in [("what", &report.message), ("expected", &report.expected), ("actual", &report.actual)] {
        if let Some(text) = text {
            field(name, text);
        }
    }
    report.notes.iter().for_each(|note| field("note", note));
    field("reproduce", &report.reproduce);
    out
}

/// The evidence of one scenario, as text.
#[must_use]
pub fn evidence(report: &Report) -> String {
    report.evidence.iter().fold(String::new(), |mut out, one| {
        let _ = writeln!(out, "--- {} of {}\n{}", one.name, report.scenario.id, one.text);
        out
    })
}

/// The summary of a run: scenarios that did not pass, counts, and the verdict.
#[must_use]
pub fn summary(report: &RunReport<'_>, colour: bool) -> String {
    let mut out = String::new();
    for one in report.reports.iter().filter(|one| one.outcome != Outcome::Pass) {
        let _ = write!(out, "\n{}  {}", paint(one.outcome, one.outcome.into(), colour), details(one));
    }
    let counts: Vec<String> = Outcome::VARIANTS
        .iter()
        .copied()
        .filter(|outcome| report.count(*outcome) > 0)
        .map(|outcome| paint(outcome, &format!("{} {outcome}", report.count(outcome)), colour))
        .collect();
    let rounds = if report.rounds > 1 { format!(", {} rounds,", report.rounds) } else { String::new() };
    let took = seconds(report.took);
    let _ = writeln!(out, "\n{} scenarios{rounds} in {took}: {}", report.reports.len(), counts.join(", "));
    if !report.missing.is_empty() {
        let _ = writeln!(
            out,
            "the profile also includes these scenarios, which this run left out: {}",
            report.missing.join(", ")
        );
    }
    for change in report.run.target_changes() {
        let _ = writeln!(out, "the target changed during the run, so that there is no verdict on it: {change}");
    }
    let verdict = report.verdict();
    let as_outcome = match verdict {
        Verdict::Conformant => Outcome::Pass,
        Verdict::NonConformant => Outcome::Fail,
        Verdict::Incomplete => Outcome::Error,
    };
    let _ = writeln!(out, "verdict: {}", paint(as_outcome, verdict.into(), colour));
    out
}

/// A duration for a human reader.
pub(super) fn seconds(took: Duration) -> String {
    let total = took.as_secs();
    if total < 60 { format!("{:.1} s", took.as_secs_f64()) } else { format!("{} min {} s", total / 60, total % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenarios;

    fn progress(interactive: bool) -> Progress {
        let selected: Vec<_> = scenarios::all().into_iter().take(7).collect();
        let mut progress = Progress::new(&selected, Rounds::Times(1), 2);
        progress.interactive = interactive;
        progress.running.push((selected[0], Instant::now()));
        (progress.ended, progress.bad) = (3, 1);
        for _ in 0..3 {
            progress.forecast.ended(selected[1].limit, selected[1].limit);
        }
        progress
    }

    #[test]
    fn a_status_says_what_has_ended_and_failed_what_runs_and_how_long_it_takes() {
        let progress = progress(true);
        let status = progress.due(SILENCE).expect("a terminal always has a status line");
        for part in ["3/7 in 0 s, about ", " left, 1 not passed; running: ", progress.running[0].0.id] {
            assert!(status.contains(part), "{part}: {status:?}");
        }
        assert!(!status.contains('\n') && status.ends_with(WRAP), "one line that does not wrap: {status:?}");
    }

    #[test]
    fn a_run_that_nobody_watches_is_not_silent_for_long() {
        let mut progress = progress(false);
        assert_eq!(progress.due(SILENCE), None, "something has just been printed");
        let line = progress.due(Duration::ZERO).expect("silence is over");
        assert!(line.contains("3/7") && line.ends_with('\n') && !line.contains('\u{1b}'), "{line:?}");
        progress.printed = Instant::now() - Duration::from_secs(1);
        progress.write("");
        assert_eq!(progress.due(Duration::from_secs(1)), None, "what is printed ends the silence");
    }
}
