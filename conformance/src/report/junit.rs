//! The report in the form that CI systems read (JUnit XML, as Jenkins and its like understand it): one suite for each family.

use std::fmt::Write as _;

use super::RunReport;
use super::escape::escape;
use crate::outcome::Outcome;
use crate::runner::Report;
use crate::scenarios::FAMILIES;

/// The whole document.
#[must_use]
pub fn document(report: &RunReport<'_>) -> String {
    let (failures, errors, skipped) = counts(report.reports.iter());
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(
        out,
        "<testsuites name=\"nagaya-conformance ({})\" tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\" \
         skipped=\"{skipped}\" time=\"{:.3}\">",
        report.verdict(),
        report.reports.len(),
        report.took.as_secs_f64(),
    );
    for (family, about) in FAMILIES {
        let members: Vec<&Report> = report.reports.iter().filter(|one| one.scenario.family() == family).collect();
        if members.is_empty() {
            continue;
        }
        let (failures, errors, skipped) = counts(members.iter().copied());
        let _ = writeln!(
            out,
            "  <testsuite name=\"{family}: {}\" tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\" \
             skipped=\"{skipped}\" timestamp=\"{}\">",
            escape(about),
            members.len(),
            report.started_at.strftime("%Y-%m-%dT%H:%M:%S"),
        );
        members.into_iter().for_each(|member| case(&mut out, member));
        out.push_str("  </testsuite>\n");
    }
    out.push_str("</testsuites>\n");
    out
}

/// How a JUnit reader should see an outcome. What could not be run is an error there: "skipped" would look harmless.
fn element(outcome: Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Pass => None,
        Outcome::Fail | Outcome::Timeout => Some("failure"),
        Outcome::Error | Outcome::CouldNotRun => Some("error"),
        Outcome::NotApplicable | Outcome::KnownFailure => Some("skipped"),
    }
}

fn counts<'r>(reports: impl Iterator<Item = &'r Report>) -> (usize, usize, usize) {
    reports.fold((0, 0, 0), |(failures, errors, skipped), report| match element(report.outcome) {
        Some("failure") => (failures + 1, errors, skipped),
        Some("error") => (failures, errors + 1, skipped),
        Some(_) => (failures, errors, skipped + 1),
        None => (failures, errors, skipped),
    })
}

fn case(out: &mut String, report: &Report) {
    let scenario = report.scenario;
    let _ = write!(
        out,
        "    <testcase classname=\"{}\" name=\"{} {}\" time=\"{:.3}\"",
        scenario.family(),
        scenario.id,
        escape(scenario.title),
        report.took.as_secs_f64(),
    );
    let Some(element) = element(report.outcome) else {
        out.push_str("/>\n");
        return;
    };
    let message = report.message.as_deref().unwrap_or(report.outcome.name());
    let _ = write!(out, ">\n      <{element} type=\"{}\" message=\"{}\">", report.outcome, escape(message));
    let _ = writeln!(out, "{}</{element}>", escape(&super::terminal::details(report)));
    if !report.evidence.is_empty() {
        out.push_str("      <system-out>");
        for one in &report.evidence {
            let _ = write!(out, "{}", escape(&format!("--- {}\n{}\n", one.name, one.text)));
        }
        out.push_str("</system-out>\n");
    }
    out.push_str("    </testcase>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_run_does_not_look_harmless() {
        assert_eq!(element(Outcome::CouldNotRun), Some("error"));
        assert!(Outcome::ALL.iter().filter(|outcome| element(**outcome).is_none()).eq([&Outcome::Pass]));
    }
}
