//! Executes scenarios: checks capabilities, runs the body with a deadline, gathers evidence, cleans up.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};

use crate::harness::context::Context;
use crate::harness::evidence;
use crate::harness::evidence::Evidence;
use crate::harness::failure::Failure;
use crate::harness::outcome::Outcome;
use crate::harness::pace::{at_pace, paused, within, within_at_least};
use crate::harness::reproduce;
use crate::harness::run::Run;
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile};

/// How long clean-up may take, in addition to the scenario's own limit.
const CLEANUP_LIMIT: Duration = Duration::from_secs(90);

/// Begins a note about a deviation of shape. It fails none but the scenarios of the family `SHAPE`.
pub const SHAPE_NOTE: &str = "shape: ";

/// The result of one scenario.
#[derive(Debug, Clone)]
pub struct Report {
    /// The scenario.
    pub scenario: &'static Scenario,
    /// Its outcome.
    pub outcome: Outcome,
    /// The reason, if it did not pass.
    pub message: Option<String>,
    /// The expected value, if it could be shown separately.
    pub expected: Option<String>,
    /// What was found instead of the expected value.
    pub actual: Option<String>,
    /// How long the body and clean-up took.
    pub took: Duration,
    /// Notes of the scenario.
    pub notes: Vec<String>,
    /// Evidence of a failure.
    pub evidence: Vec<Evidence>,
    /// A command that runs the scenario again.
    pub reproduce: String,
}

impl Report {
    fn new(scenario: &'static Scenario, run: &Run, result: &Result<(), Failure>) -> Self {
        let failure = result.as_ref().err();
        Self {
            scenario,
            outcome: Outcome::of(result),
            message: failure.map(|failure| failure.message.clone()),
            expected: failure.and_then(|failure| failure.expected.clone()),
            actual: failure.and_then(|failure| failure.actual.clone()),
            took: Duration::ZERO,
            notes: Vec::new(),
            evidence: Vec::new(),
            reproduce: reproduce::line(scenario.id, &run.options),
        }
    }

    /// The result of a scenario that is on the list of known failures.
    #[must_use]
    pub fn known_to_fail(mut self) -> Self {
        if self.outcome == Outcome::Pass {
            self.message =
                Some("passes although it is on the list of known failures: remove it from the list".to_owned());
        }
        self.outcome = self.outcome.known_to_fail();
        self
    }
}

/// Checks that the scenario can and may run.
fn permitted(scenario: &Scenario, run: &Run) -> Result<(), Failure> {
    run.capabilities.check(scenario.requires).map_err(Failure::could_not_run)?;
    let remote = run.options.target.is_some();
    if remote && scenario.destructive && !run.options.allow_destructive {
        return Err(Failure::could_not_run("may break the target deployment: needs --allow-destructive"));
    }
    if remote && scenario.profile == Profile::Full && scenario.requires.contains(&Capability::Launch) {
        return Err(Failure::could_not_run("needs a deployment that the suite launches itself"));
    }
    Ok(())
}

/// Executes one scenario and cleans up after it.
pub async fn execute(run: &Arc<Run>, scenario: &'static Scenario) -> Report {
    at_pace(run.options.patience, attempt(run, scenario)).await
}

async fn attempt(run: &Arc<Run>, scenario: &'static Scenario) -> Report {
    let started = Instant::now();
    if let Err(failure) = permitted(scenario, run) {
        return Report::new(scenario, run, &Err(failure));
    }
    let context = match Context::new(run.clone(), scenario.id, scenario.requires) {
        Ok(context) => context,
        Err(failure) => return Report::new(scenario, run, &Err(failure)),
    };
    let mut timed_out = false;
    let body = AssertUnwindSafe((scenario.body)(&context)).catch_unwind();
    let result = tokio::select! {
        biased;
        () = run.cancel.cancelled() => Err(Failure::harness("the run was interrupted")),
        ended = within_at_least(scenario.limit, body) => match ended {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(Failure::harness(format!("the scenario panicked: {}", panic_text(panic.as_ref())))),
            Err(_) => {
                timed_out = true;
                Err(Failure::assertion(format!("the time limit of {:?} was exceeded", scenario.limit)))
            }
        },
    };
    let mut report = Report::new(scenario, run, &result);
    if timed_out {
        report.outcome = Outcome::Timeout;
    }
    if matches!(report.outcome, Outcome::Fail | Outcome::Timeout | Outcome::Error) && !run.cancel.is_cancelled() {
        report.evidence = evidence::gather(context.exchanges(), context.witnesses(), context.secrets()).await;
    }
    clean_up(&context, &mut report).await;
    report.notes.splice(0..0, context.notes());
    report.notes.extend(context.exchanges().deviations().into_iter().map(|text| format!("{SHAPE_NOTE}{text}")));
    if !paused().is_zero() {
        report.notes.push(format!("waited {} s for rate limits, as Retry-After says", paused().as_secs()));
    }
    redact(&context, &mut report);
    report.took = started.elapsed();
    report
}

async fn clean_up(context: &Context, report: &mut Report) {
    let leftovers = match within(CLEANUP_LIMIT, context.resources.release()).await {
        Ok(leftovers) => leftovers,
        Err(_) => vec![format!("clean-up did not finish within {CLEANUP_LIMIT:?}; remaining: {:?}", context.resources)],
    };
    if leftovers.is_empty() {
        return;
    }
    context.run.has_left_something();
    if report.outcome == Outcome::Pass {
        report.outcome = Outcome::Fail;
        report.message = Some(format!("left behind: {}", leftovers.join("; ")));
        // Witnesses are gone by now; the exchanges are still useful.
        report.evidence.push(Evidence::new("exchanges", context.exchanges().text()));
    }
    report.notes.extend(leftovers.into_iter().map(|left| format!("leftover: {left}")));
}

fn redact(context: &Context, report: &mut Report) {
    let secrets = context.secrets();
    for text in [&mut report.message, &mut report.expected, &mut report.actual].into_iter().flatten() {
        *text = secrets.redact(text);
    }
    for text in report.notes.iter_mut().chain(report.evidence.iter_mut().map(|one| &mut one.text)) {
        *text = secrets.redact(text);
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)")
}

/// Is notified while scenarios run.
pub trait Observer {
    /// A scenario has begun.
    fn began(&mut self, scenario: &'static Scenario);
    /// A scenario has ended.
    fn ended(&mut self, report: &Report);
    /// Called several times a second while scenarios run.
    fn tick(&mut self);
}

/// How often [`Observer::tick`] is called.
const TICK: Duration = Duration::from_millis(250);

/// An observer that shows nothing.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Observer for Silent {
    fn began(&mut self, _: &'static Scenario) {}
    fn ended(&mut self, _: &Report) {}
    fn tick(&mut self) {}
}

/// How a selection is executed.
#[derive(Clone, Copy)]
pub struct Plan<'p> {
    /// How many scenarios run at a time.
    pub jobs: usize,
    /// When running scenarios are interrupted and no other begins.
    pub deadline: Instant,
    /// Which results are failures of the run.
    pub fails: &'p (dyn Fn(&Report) -> bool + Sync),
    /// Whether no other scenario begins after a failure.
    pub fail_fast: bool,
}

/// Executes `selected` in their order. What does not begin could not run; the verdict is then incomplete at best.
pub async fn execute_all(
    run: &Arc<Run>,
    selected: &[&'static Scenario],
    plan: &Plan<'_>,
    observer: &mut dyn Observer,
) -> Vec<Report> {
    let mut waiting = selected.iter().copied();
    let mut running = FuturesUnordered::new();
    let mut reports = Vec::new();
    let mut ticks = tokio::time::interval(TICK);
    let mut why_not = "the run ended before this scenario began".to_owned();
    let mut is_over = false;
    loop {
        while running.len() < plan.jobs.max(1) && !run.cancel.is_cancelled() && !is_over {
            let Some(scenario) = waiting.next() else { break };
            observer.began(scenario);
            let run = run.clone();
            // Each scenario is a task of its own, so that they share all threads.
            running.push(tokio::spawn(async move { execute(&run, scenario).await }));
        }
        tokio::select! {
            ended = running.next() => match ended {
                Some(Ok(report)) => {
                    observer.ended(&report);
                    if plan.fail_fast && (plan.fails)(&report) && !is_over {
                        is_over = true;
                        why_not = format!("{} failed before this scenario began (--fail-fast)", report.scenario.id);
                    }
                    reports.push(report);
                }
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                None => break,
            },
            _ = ticks.tick() => {
                if Instant::now() >= plan.deadline && !run.cancel.is_cancelled() {
                    run.cancel.cancel();
                }
                observer.tick();
            }
        }
    }
    for scenario in waiting {
        let report = Report::new(scenario, run, &Err(Failure::could_not_run(&why_not)));
        observer.ended(&report);
        reports.push(report);
    }
    let place = |report: &Report| selected.iter().position(|scenario| scenario.id == report.scenario.id);
    reports.sort_by_key(place);
    reports
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::capabilities::Capabilities;
    use crate::harness::failure::check;
    use crate::harness::options::Options;
    use crate::harness::scenario::Body;
    use crate::harness::vocabulary::Severity;

    fn plan(jobs: usize, deadline: Instant) -> Plan<'static> {
        Plan { jobs, deadline, fails: &|report| report.outcome == Outcome::Fail, fail_fast: false }
    }

    const fn test(body: Body) -> Scenario {
        let mut test = Scenario::new("TEST-001", "A test", "none", body).severity(Severity::Low);
        test.limit = Duration::from_millis(200);
        test
    }

    const PASSES: Body = |_| Box::pin(async { Ok(()) });

    fn begin(options: Options) -> Arc<Run> {
        Arc::new(Run::begin(options, Capabilities::default()).expect("begun"))
    }

    async fn report(options: Options, scenario: &'static Scenario) -> Report {
        let run = begin(options);
        let report = execute(&run, scenario).await;
        assert_eq!(
            std::fs::read_dir(run.dir()).expect("there").count(),
            2,
            "only the ledger and the owner file are left"
        );
        run.end().expect("ended");
        report
    }

    async fn outcome(body: Body) -> Report {
        report(Options::default(), Box::leak(Box::new(test(body)))).await
    }

    #[tokio::test]
    async fn each_way_a_body_ends_has_its_outcome() {
        assert_eq!(outcome(PASSES).await.outcome, Outcome::Pass);
        let failed = outcome(|_| Box::pin(async { check(false, "not so") })).await;
        assert_eq!((failed.outcome, failed.message.as_deref()), (Outcome::Fail, Some("not so")));
        let panicked = outcome(|_| Box::pin(async { panic!("oh no") })).await;
        assert_eq!(panicked.outcome, Outcome::Error);
        assert!(panicked.message.expect("told").contains("oh no"));
        assert_eq!(outcome(|_| Box::pin(std::future::pending())).await.outcome, Outcome::Timeout);
        let absent = outcome(|_| Box::pin(async { Err(Failure::could_not_run("no moon")) })).await;
        assert_eq!(absent.outcome, Outcome::CouldNotRun);
    }

    #[tokio::test]
    async fn leftovers_turn_a_pass_into_a_failure_and_secrets_are_redacted() {
        let left = outcome(|context| {
            Box::pin(async {
                context.secrets().add("a-secret-text");
                context.note("noted a-secret-text");
                context.resources.add("a thing", || async { Err(Failure::assertion("a-secret-text stays")) });
                Ok(())
            })
        })
        .await;
        assert_eq!(left.outcome, Outcome::Fail);
        let shown = format!("{left:?}");
        assert!(shown.contains("a thing: [redacted] stays") && !shown.contains("a-secret-text"), "{shown}");
    }

    #[tokio::test]
    async fn destructive_scenarios_do_not_run_against_a_target_without_permission() {
        static DESTRUCTIVE: Scenario = test(PASSES).destructive();
        let remote = Options { target: Some("http://127.0.0.1:1".to_owned()), ..Options::default() };
        let refused = report(remote.clone(), &DESTRUCTIVE).await;
        assert_eq!(refused.outcome, Outcome::CouldNotRun);
        assert!(refused.message.expect("told").contains("--allow-destructive"));
        assert_eq!(report(Options { allow_destructive: true, ..remote }, &DESTRUCTIVE).await.outcome, Outcome::Pass);
        assert_eq!(
            report(Options::default(), &DESTRUCTIVE).await.outcome,
            Outcome::Pass,
            "the suite may break its own deployments"
        );
    }

    #[tokio::test]
    async fn after_the_deadline_no_scenario_begins_and_all_are_reported() {
        static ENDLESS: Scenario = test(|_| Box::pin(std::future::pending())).limit(60);
        static NEXT: Scenario = Scenario::new("TEST-002", "Another test", "none", PASSES);
        let run = begin(Options::default());
        let reports = execute_all(&run, &[&ENDLESS, &NEXT], &plan(1, Instant::now()), &mut Silent).await;
        let outcomes: Vec<Outcome> = reports.iter().map(|report| report.outcome).collect();
        assert_eq!(outcomes, [Outcome::Error, Outcome::CouldNotRun]);
        run.end().expect("ended");
    }

    #[tokio::test]
    async fn at_most_jobs_scenarios_run_at_the_same_time() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static NOW: AtomicUsize = AtomicUsize::new(0);
        static MOST: AtomicUsize = AtomicUsize::new(0);
        static ONE: Scenario = test(|_| {
            Box::pin(async {
                MOST.fetch_max(NOW.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                NOW.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            })
        })
        .limit(60);
        let run = begin(Options::default());
        let far = Instant::now() + Duration::from_secs(60);
        let reports = execute_all(&run, &[&ONE; 9], &plan(3, far), &mut Silent).await;
        assert!(reports.iter().all(|report| report.outcome == Outcome::Pass));
        assert!((1..=3).contains(&MOST.load(Ordering::SeqCst)));
        run.end().expect("ended");
    }
}
