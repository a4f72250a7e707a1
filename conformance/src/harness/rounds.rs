//! A selection that is run several times, to find scenarios that do not always end alike.

use std::sync::Arc;
use std::time::Instant;

use crate::harness::outcome::Outcome;
use crate::harness::run::Run;
use crate::harness::runner::{Observer, Plan, Report, execute_all};
use crate::harness::scenario::Scenario;

/// How often a selection is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounds {
    /// So many times.
    Times(usize),
    /// Until something fails, or the run ends.
    UntilFailure,
}

/// The results of all rounds.
#[derive(Debug)]
pub struct Ended {
    /// One result for each scenario, in their order: the worst of all rounds.
    pub reports: Vec<Report>,
    /// The number of rounds that count.
    pub rounds: usize,
}

/// Executes `selected` in rounds.
pub async fn execute_rounds(
    run: &Arc<Run>,
    selected: &[&'static Scenario],
    rounds: Rounds,
    plan: &Plan<'_>,
    observer: &mut dyn Observer,
) -> Ended {
    let mut ended: Vec<Vec<Report>> = Vec::new();
    loop {
        let reports = execute_all(run, selected, plan, observer).await;
        let has_failed = reports.iter().any(|report| (plan.fails)(report));
        let is_cut_short = run.cancel.is_cancelled();
        // It tells nothing about scenarios that an earlier round has seen whole.
        if !is_cut_short || has_failed || ended.is_empty() {
            ended.push(reports);
        }
        let is_last = match rounds {
            Rounds::Times(times) => ended.len() >= times || (has_failed && plan.fail_fast),
            Rounds::UntilFailure => has_failed,
        };
        if is_last || is_cut_short || Instant::now() >= plan.deadline {
            let rounds = ended.len();
            return Ended { reports: worst(ended), rounds };
        }
    }
}

/// How much worse an outcome is than a pass.
fn weight(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Pass => 0,
        Outcome::NotApplicable => 1,
        Outcome::KnownFailure => 2,
        Outcome::CouldNotRun => 3,
        Outcome::Error => 4,
        Outcome::Timeout => 5,
        Outcome::Fail => 6,
    }
}

/// The worst result of each scenario. One that has not always ended alike says so in a note.
fn worst(rounds: Vec<Vec<Report>>) -> Vec<Report> {
    let mut by_scenario: Vec<Vec<Report>> = Vec::new();
    for reports in rounds {
        by_scenario.resize_with(by_scenario.len().max(reports.len()), Vec::new);
        by_scenario.iter_mut().zip(reports).for_each(|(all, report)| all.push(report));
    }
    by_scenario.into_iter().filter_map(one_of).collect()
}

fn one_of(reports: Vec<Report>) -> Option<Report> {
    let outcomes: Vec<Outcome> = reports.iter().map(|report| report.outcome).collect();
    let took = reports.iter().map(|report| report.took).sum();
    let worst = (0..reports.len()).max_by_key(|index| (weight(outcomes[*index]), std::cmp::Reverse(*index)))?;
    let mut report = reports.into_iter().nth(worst)?;
    report.took = took;
    if let Some(other) = outcomes.iter().find(|outcome| **outcome != report.outcome) {
        let such: Vec<String> = outcomes
            .iter()
            .enumerate()
            .filter(|(_, outcome)| **outcome == report.outcome)
            .map(|(index, _)| (index + 1).to_string())
            .collect();
        report.notes.push(format!(
            "flaky: {} in {} of {} rounds ({}), otherwise {other}",
            report.outcome,
            such.len(),
            outcomes.len(),
            such.join(", ")
        ));
    }
    Some(report)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::harness::capabilities::Capabilities;
    use crate::harness::failure::check;
    use crate::harness::options::Options;
    use crate::harness::runner::Silent;

    static THIRD: AtomicUsize = AtomicUsize::new(0);
    /// Fails the third time.
    static FLAKY: Scenario = Scenario::new("TEST-001", "A test", "none", |_| {
        Box::pin(async { check(THIRD.fetch_add(1, Ordering::SeqCst) != 2, "the third time") })
    });
    static STEADY: Scenario = Scenario::new("TEST-002", "A test", "none", |_| Box::pin(async { Ok(()) }));

    async fn ended(rounds: Rounds, fail_fast: bool) -> Ended {
        THIRD.store(0, Ordering::SeqCst);
        let run = Arc::new(Run::begin(Options::default(), Capabilities::default()).expect("begun"));
        let fails = |report: &Report| report.outcome == Outcome::Fail;
        let plan = Plan { jobs: 1, deadline: Instant::now() + Duration::from_secs(60), fails: &fails, fail_fast };
        let ended = execute_rounds(&run, &[&FLAKY, &STEADY], rounds, &plan, &mut Silent).await;
        run.end().expect("ended");
        ended
    }

    #[tokio::test]
    async fn rounds_show_what_does_not_always_end_alike() {
        let all = ended(Rounds::Times(5), false).await;
        let outcomes: Vec<Outcome> = all.reports.iter().map(|report| report.outcome).collect();
        assert_eq!((all.rounds, outcomes.as_slice()), (5, &[Outcome::Fail, Outcome::Pass][..]));
        assert_eq!(all.reports[0].notes, ["flaky: fail in 1 of 5 rounds (3), otherwise pass"]);
        assert!(all.reports[1].notes.is_empty());

        let until = ended(Rounds::UntilFailure, false).await;
        assert_eq!((until.rounds, until.reports[0].outcome), (3, Outcome::Fail));
        assert_eq!(until.reports[1].outcome, Outcome::Pass, "its round is run to the end");

        let fast = ended(Rounds::Times(5), true).await;
        assert_eq!((fast.rounds, fast.reports[0].outcome), (3, Outcome::Fail));
        assert_eq!(fast.reports[1].outcome, Outcome::CouldNotRun, "the failure ends the run");
        assert_eq!(ended(Rounds::Times(2), false).await.reports[0].outcome, Outcome::Pass);
    }
}
