//! The report in JUnit's XML format, which CI systems read: one test suite for each family.

use quick_junit::{NonSuccessKind, Report as Document, TestCase, TestCaseStatus, TestSuite};

use super::model::RunReport;
use crate::harness::outcome::Outcome;
use crate::harness::runner::Report;
use crate::scenarios::FAMILIES;

/// The whole document. Characters that XML 1.0 does not allow (section 2.2) and ANSI escape sequences are removed.
///
/// # Errors
/// The XML cannot be written.
pub fn document(report: &RunReport<'_>) -> std::io::Result<String> {
    let mut document = Document::new(format!("nagaya-conformance ({})", report.verdict()));
    document.set_time(report.took);
    for family in &FAMILIES {
        let members: Vec<&Report> = report.members(family).collect();
        if members.is_empty() {
            continue;
        }
        let mut suite = TestSuite::new(format!("{}: {}", family.name, family.about));
        suite.extra.insert("timestamp".into(), report.started_at.strftime("%Y-%m-%dT%H:%M:%S").to_string().into());
        suite.add_test_cases(members.into_iter().map(case));
        document.add_test_suite(suite);
    }
    document.to_string().map_err(std::io::Error::other)
}

/// The status that a reader of JUnit reports should see. A scenario that could not run is an error there: "skipped" would look
/// harmless.
fn status(outcome: Outcome) -> TestCaseStatus {
    match outcome {
        Outcome::Pass => TestCaseStatus::success(),
        Outcome::Fail | Outcome::Timeout => TestCaseStatus::non_success(NonSuccessKind::Failure),
        Outcome::Error | Outcome::CouldNotRun => TestCaseStatus::non_success(NonSuccessKind::Error),
        Outcome::NotApplicable | Outcome::KnownFailure => TestCaseStatus::skipped(),
    }
}

fn case(report: &Report) -> TestCase {
    let scenario = report.scenario;
    let mut status = status(report.outcome);
    if report.outcome != Outcome::Pass {
        status.set_type(report.outcome.to_string());
        status.set_message(report.message.as_deref().unwrap_or(report.outcome.into()));
        status.set_description(super::terminal::details(report));
    }
    let mut case = TestCase::new(format!("{} {}", scenario.id, scenario.title), status);
    case.set_classname(scenario.family()).set_time(report.took);
    case.extra.insert("file".into(), scenario.file().into());
    case.extra.insert("line".into(), scenario.line().to_string().into());
    if !report.evidence.is_empty() {
        let evidence = report.evidence.iter().map(|one| format!("--- {}\n{}\n", one.name, one.text));
        case.set_system_out(evidence.collect::<String>());
    }
    case
}

#[cfg(test)]
mod tests {
    use strum::VariantArray as _;

    use super::*;

    #[test]
    fn a_scenario_that_could_not_run_does_not_look_harmless() {
        assert!(matches!(status(Outcome::CouldNotRun), TestCaseStatus::NonSuccess { kind: NonSuccessKind::Error, .. }));
        let successes = Outcome::VARIANTS.iter().filter(|one| matches!(status(**one), TestCaseStatus::Success { .. }));
        assert!(successes.eq([&Outcome::Pass]));
    }
}
