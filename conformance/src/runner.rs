//! Executes scenarios: capabilities first, then the body against its deadline, then evidence, then clean-up.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};

use crate::context::Context;
use crate::evidence::{self, Evidence};
use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::run::{LaunchAs, Run};
use crate::scenario::{Capability, Profile, Scenario};

/// How long clean-up may take, on top of a scenario's own limit.
const CLEANUP_LIMIT: Duration = Duration::from_secs(90);

/// What became of one scenario.
#[derive(Debug, Clone)]
pub struct Report {
    /// Which.
    pub scenario: &'static Scenario,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, where it did not pass.
    pub message: Option<String>,
    /// What had to be, where that could be shown apart.
    pub expected: Option<String>,
    /// What was instead.
    pub actual: Option<String>,
    /// How long body and clean-up took.
    pub took: Duration,
    /// What it noted on the way.
    pub notes: Vec<String>,
    /// What was gathered about a failure.
    pub evidence: Vec<Evidence>,
    /// A command that runs the same again.
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
            reproduce: reproduce(scenario, run),
        }
    }

    /// What the list of known failures makes of it.
    #[must_use]
    pub fn known_to_fail(mut self) -> Self {
        if self.outcome == Outcome::Pass {
            self.message = Some("is on the list of known failures, but passes: take it off".to_owned());
        }
        self.outcome = self.outcome.known_to_fail();
        self
    }
}

fn reproduce(scenario: &Scenario, run: &Run) -> String {
    let options = &run.options;
    let mut line = format!("nagaya-conformance run --filter 'id(={})' --seed {}", scenario.id, options.seed);
    for (flag, value) in
        [("--target", &options.target), ("--docker", &options.docker), ("--deployment", &options.deployment)]
    {
        if let Some(value) = value {
            line.push_str(&format!(" {flag} {value}"));
        }
    }
    if options.launch != LaunchAs::Process {
        line.push_str(&format!(" --launch {}", options.launch));
    }
    if options.allow_model_calls {
        line.push_str(" --allow-model-calls");
    }
    if !options.without.is_empty() {
        let names: Vec<&str> = options.without.iter().map(|capability| capability.name()).collect();
        line.push_str(&format!(" --without {}", names.join(",")));
    }
    if options.api_key.is_some() {
        line.push_str(" --api-key …");
    }
    line
}

/// Whether the scenario can and may run.
fn permitted(scenario: &Scenario, run: &Run) -> Result<(), Failure> {
    run.capabilities.check(scenario.requires).map_err(Failure::could_not_run)?;
    let remote = run.options.target.is_some();
    if remote && scenario.destructive && !run.options.allow_destructive {
        return Err(Failure::could_not_run("breaks things in somebody else's deployment: needs --allow-destructive"));
    }
    if remote && scenario.profile == Profile::Full && scenario.requires.contains(&Capability::Launch) {
        return Err(Failure::could_not_run("needs a deployment that the suite launches itself"));
    }
    Ok(())
}

/// Executes one scenario, and leaves nothing of it behind.
pub async fn execute(run: &Arc<Run>, scenario: &'static Scenario) -> Report {
    let begun = Instant::now();
    if let Err(failure) = permitted(scenario, run) {
        return Report::new(scenario, run, &Err(failure));
    }
    let context = match Context::new(run.clone(), scenario) {
        Ok(context) => context,
        Err(failure) => return Report::new(scenario, run, &Err(failure)),
    };
    let mut timed_out = false;
    let body = AssertUnwindSafe((scenario.body)(&context)).catch_unwind();
    let result = tokio::select! {
        biased;
        () = run.cancel.cancelled() => Err(Failure::harness("the run was interrupted")),
        ended = tokio::time::timeout(scenario.limit, body) => match ended {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(Failure::harness(format!("the scenario panicked: {}", panic_text(panic.as_ref())))),
            Err(_) => {
                timed_out = true;
                Err(Failure::assertion(format!("not done after {:?}", scenario.limit)))
            }
        },
    };
    let mut report = Report::new(scenario, run, &result);
    if timed_out {
        report.outcome = Outcome::Timeout;
    }
    if matches!(report.outcome, Outcome::Fail | Outcome::Timeout | Outcome::Error) && !run.cancel.is_cancelled() {
        report.evidence = evidence::gather(&context).await;
    }
    clean_up(&context, &mut report).await;
    report.notes.splice(0..0, context.notes());
    redact(&context, &mut report);
    report.took = begun.elapsed();
    report
}

async fn clean_up(context: &Context, report: &mut Report) {
    let leftovers = match tokio::time::timeout(CLEANUP_LIMIT, context.resources.release()).await {
        Ok(leftovers) => leftovers,
        Err(_) => vec![format!("clean-up not done after {CLEANUP_LIMIT:?}; still there: {:?}", context.resources)],
    };
    if leftovers.is_empty() {
        return;
    }
    context.run.has_left_something();
    if report.outcome == Outcome::Pass {
        report.outcome = Outcome::Fail;
        report.message = Some(format!("left something behind: {}", leftovers.join("; ")));
        // The process has ended, but its log is still worth reading.
        report.evidence.push(Evidence { name: "exchanges".to_owned(), text: context.exchanges().text() });
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

/// What happens while scenarios run.
pub trait Observer {
    /// A scenario begins.
    fn began(&mut self, scenario: &'static Scenario);
    /// A scenario has ended.
    fn ended(&mut self, report: &Report);
    /// Called several times a second while scenarios run.
    fn tick(&mut self);
}

/// How often [`Observer::tick`] is called.
const TICK: Duration = Duration::from_millis(250);

/// Executes `selected`, at most `jobs` at a time, in order of their declaration. At `deadline` what runs is interrupted and the
/// rest not begun: both are then errors, so that the verdict is not a good one.
pub async fn execute_all(
    run: &Arc<Run>,
    selected: &[&'static Scenario],
    jobs: usize,
    deadline: Instant,
    observer: &mut dyn Observer,
) -> Vec<Report> {
    let mut waiting = selected.iter().copied();
    let mut running = FuturesUnordered::new();
    let mut reports = Vec::new();
    let mut ticks = tokio::time::interval(TICK);
    loop {
        while running.len() < jobs.max(1) && !run.cancel.is_cancelled() {
            let Some(scenario) = waiting.next() else { break };
            observer.began(scenario);
            let run = run.clone();
            // A task of its own, so that scenarios share the threads.
            running.push(tokio::spawn(async move { execute(&run, scenario).await }));
        }
        tokio::select! {
            ended = running.next() => match ended {
                Some(Ok(report)) => {
                    observer.ended(&report);
                    reports.push(report);
                }
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                None => break,
            },
            _ = ticks.tick() => {
                if Instant::now() >= deadline && !run.cancel.is_cancelled() {
                    run.cancel.cancel();
                }
                observer.tick();
            }
        }
    }
    for scenario in waiting {
        let report = Report::new(scenario, run, &Err(Failure::could_not_run("the run ended before its turn")));
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
    use crate::capabilities::Capabilities;
    use crate::failure::check;
    use crate::run::Options;
    use crate::scenario::{Body, Severity};

    struct Silent;

    impl Observer for Silent {
        fn began(&mut self, _: &'static Scenario) {}
        fn ended(&mut self, _: &Report) {}
        fn tick(&mut self) {}
    }

    const SCENARIO: Scenario = Scenario {
        id: "TEST-001",
        title: "a test",
        severity: Severity::Low,
        requirement: "none",
        requires: &[],
        profile: Profile::Core,
        destructive: false,
        limit: Duration::from_millis(200),
        body: |_| Box::pin(async { Ok(()) }),
    };

    fn begin(options: Options) -> Arc<Run> {
        Arc::new(Run::begin(options, Capabilities::default()).expect("begun"))
    }

    async fn report(options: Options, scenario: &'static Scenario) -> Report {
        let run = begin(options);
        let report = execute(&run, scenario).await;
        assert_eq!(std::fs::read_dir(run.dir()).expect("there").count(), 2, "nothing but ledger and owner is left");
        run.end().expect("ended");
        report
    }

    async fn outcome(body: Body) -> Report {
        report(Options::default(), Box::leak(Box::new(Scenario { body, ..SCENARIO }))).await
    }

    #[tokio::test]
    async fn each_end_of_a_body_has_its_outcome() {
        assert_eq!(outcome(SCENARIO.body).await.outcome, Outcome::Pass);
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
    async fn what_is_left_over_makes_a_pass_a_failure_and_secrets_are_not_told() {
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
        let told = format!("{left:?}");
        assert!(told.contains("a thing: [redacted] stays") && !told.contains("a-secret-text"), "{told}");
    }

    #[tokio::test]
    async fn nothing_is_broken_in_somebody_elses_deployment_without_leave() {
        static DESTRUCTIVE: Scenario = Scenario { destructive: true, ..SCENARIO };
        let remote = Options { target: Some("http://127.0.0.1:1".to_owned()), ..Options::default() };
        let refused = report(remote.clone(), &DESTRUCTIVE).await;
        assert_eq!(refused.outcome, Outcome::CouldNotRun);
        assert!(refused.message.expect("told").contains("--allow-destructive"));
        assert_eq!(report(Options { allow_destructive: true, ..remote }, &DESTRUCTIVE).await.outcome, Outcome::Pass);
        assert_eq!(
            report(Options::default(), &DESTRUCTIVE).await.outcome,
            Outcome::Pass,
            "its own deployment it may break"
        );
    }

    #[tokio::test]
    async fn at_the_runs_deadline_nothing_more_begins_and_everything_is_reported() {
        static ENDLESS: Scenario =
            Scenario { limit: Duration::from_secs(60), body: |_| Box::pin(std::future::pending()), ..SCENARIO };
        static NEXT: Scenario = Scenario { id: "TEST-002", ..SCENARIO };
        let run = begin(Options::default());
        let reports = execute_all(&run, &[&ENDLESS, &NEXT], 1, Instant::now(), &mut Silent).await;
        let outcomes: Vec<Outcome> = reports.iter().map(|report| report.outcome).collect();
        assert_eq!(outcomes, [Outcome::Error, Outcome::CouldNotRun]);
        run.end().expect("ended");
    }

    #[tokio::test]
    async fn no_more_run_at_a_time_than_jobs() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static NOW: AtomicUsize = AtomicUsize::new(0);
        static MOST: AtomicUsize = AtomicUsize::new(0);
        static ONE: Scenario = Scenario {
            limit: Duration::from_secs(60),
            body: |_| {
                Box::pin(async {
                    MOST.fetch_max(NOW.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    NOW.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                })
            },
            ..SCENARIO
        };
        let run = begin(Options::default());
        let far = Instant::now() + Duration::from_secs(60);
        let reports = execute_all(&run, &[&ONE; 9], 3, far, &mut Silent).await;
        assert!(reports.iter().all(|report| report.outcome == Outcome::Pass));
        assert!((1..=3).contains(&MOST.load(Ordering::SeqCst)));
        run.end().expect("ended");
    }
}
