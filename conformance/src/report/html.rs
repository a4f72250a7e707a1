//! The report as one HTML page that contains everything it needs: it works offline, in dark mode, and on a phone.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use strum::VariantArray as _;

use super::model::RunReport;
use super::terminal::seconds;
use crate::contract;
use crate::harness::options::LaunchAs;
use crate::harness::outcome::{Outcome, Verdict};
use crate::harness::runner::Report;
use crate::scenarios::{FAMILIES, Family};

/// How many scenarios the chart of times shows.
const SLOWEST: usize = 25;

/// The whole page.
#[must_use]
pub fn document(report: &RunReport<'_>) -> String {
    let verdict = report.verdict();
    let not_passed: Vec<&Report> = report.reports.iter().filter(|one| one.outcome != Outcome::Pass).collect();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                title { (verdict) " · conformance " (report.run.id) }
                style { (PreEscaped(include_str!("html.css"))) }
            }
            body {
                (header(report, verdict))
                (families(report))
                @if !not_passed.is_empty() {
                    h2 { "What did not pass" }
                    @for one in &not_passed { (details(one)) }
                }
                (times(report))
                (table(report))
            }
        }
    };
    page.into_string()
}

fn header(report: &RunReport<'_>, verdict: Verdict) -> Markup {
    let (class, meaning) = match verdict {
        Verdict::Conformant => ("pass", "Every selected scenario ran and passed."),
        Verdict::NonConformant => ("fail", "At least one promise is broken."),
        Verdict::Incomplete => ("error", "Not everything that belongs to a verdict could be seen."),
    };
    let options = &report.run.options;
    let launched = match options.launch {
        LaunchAs::Process => "deployments that the suite launched",
        LaunchAs::Container => "deployments that the suite launched in containers",
    };
    let target = options.target.as_deref().unwrap_or(launched);
    html! {
        header class=(class) {
            h1 { (verdict) }
            p { (meaning) }
            p.soft {
                (report.reports.len()) " scenarios against " (target) " in " (seconds(report.took))
                @if let Some(profile) = report.profile { ", profile " (profile) }
                @if let Some(filter) = &report.filter { ", filter " (filter) }
                @if report.rounds > 1 { ", " (report.rounds) " rounds" }
                @if report.strict { ", strict" }
                ". " (report.started_at.strftime("%Y-%m-%d %H:%M:%S UTC")) " · seed " (options.seed)
                " · version " (env!("CARGO_PKG_VERSION")) " · contract " (contract::version())
            }
        }
        ul.counts {
            @for outcome in Outcome::VARIANTS.iter().filter(|outcome| report.count(**outcome) > 0) {
                li class=(outcome) { b { (report.count(*outcome)) } " " (outcome) }
            }
        }
        @if !report.missing.is_empty() {
            p { "The profile also includes these scenarios, which this run left out: " (report.missing.join(", ")) "." }
        }
        @for change in report.run.target_changes() {
            p { "The target changed during the run: " (change) ". What was seen is of two targets." }
        }
        @for (capability, why) in report.run.capabilities.missing() {
            p.soft { "Without " (capability) ": " (why) }
        }
    }
}

fn families(report: &RunReport<'_>) -> Markup {
    html! {
        h2 { "Families" }
        @for family in FAMILIES.iter().filter(|family| report.members(family).next().is_some()) {
            (cells(report, family))
        }
    }
}

fn cells(report: &RunReport<'_>, family: &Family) -> Markup {
    let passed = report.members(family).filter(|one| one.outcome == Outcome::Pass).count();
    html! {
        div.family {
            b title=(family.about) { (family.name) }
            div.cells {
                @for one in report.members(family) {
                    @let label = format!("{} {}: {}", one.scenario.id, one.outcome, one.scenario.title);
                    a class=(one.outcome) href={ "#" (one.scenario.id) } title=(label) aria-label=(label) {}
                }
            }
            span.soft { (passed) " / " (report.members(family).count()) }
        }
    }
}

fn details(report: &Report) -> Markup {
    let scenario = report.scenario;
    let findings = [("what", &report.message), ("expected", &report.expected), ("actual", &report.actual)];
    html! {
        article class=(report.outcome) id=(scenario.id) {
            h3 { span.word { (report.outcome) } " · " (scenario.id) " · " (scenario.title) }
            p.soft { (scenario.severity) ", " (seconds(report.took)) ", " (scenario.file()) ":" (scenario.line()) }
            dl {
                dt { "requirement" } dd { (scenario.requirement) }
                dt { "clauses" } dd { (scenario.clauses().join(", ")) }
                @for (name, text) in findings {
                    @if let Some(text) = text { dt { (name) } dd { pre { (text) } } }
                }
                @for note in &report.notes { dt { "note" } dd { (note) } }
                dt { "reproduce" } dd { pre { (report.reproduce) } }
            }
            @for one in &report.evidence {
                details { summary { (one.name) } pre { (one.text) } }
            }
        }
    }
}

fn times(report: &RunReport<'_>) -> Markup {
    let mut slowest: Vec<&Report> = report.reports.iter().filter(|one| !one.took.is_zero()).collect();
    slowest.sort_by_key(|one| std::cmp::Reverse(one.took));
    let Some(longest) = slowest.first().map(|one| one.took.as_secs_f64()) else { return html! {} };
    html! {
        h2 { @if slowest.len() > SLOWEST { "Time: the " (SLOWEST) " slowest" } @else { "Time" } }
        @for one in slowest.into_iter().take(SLOWEST) {
            @let took = one.took.as_secs_f64();
            div class={ "bar " (one.outcome) } {
                span { (one.scenario.id) }
                i style={ "width:" (format!("{:.1}", 100.0 * took / longest)) "%" } {}
                span { (format!("{took:.1} s")) }
            }
        }
    }
}

fn table(report: &RunReport<'_>) -> Markup {
    html! {
        h2 { "All scenarios" }
        table {
            tr { th { "id" } th { "outcome" } th { "title" } th.num.wide { "time" } }
            @for one in &report.reports {
                // A scenario that did not pass has an element with its id already.
                tr id=[(one.outcome == Outcome::Pass).then_some(one.scenario.id)] {
                    td { (one.scenario.id) }
                    td class=(one.outcome) { span.word { (one.outcome) } }
                    td { (one.scenario.title) }
                    td.num.wide { (format!("{:.1} s", one.took.as_secs_f64())) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn no_text_breaks_out_of_an_element_or_an_attribute(text in "\\PC{0,40}") {
            let markup = html! { p title=(text) { (text) } }.into_string();
            let inner = markup.strip_prefix("<p title=\"").and_then(|rest| rest.strip_suffix("</p>"));
            let (attribute, element) = inner.and_then(|rest| rest.split_once("\">")).expect("the element");
            proptest::prop_assert!(!attribute.contains(['<', '"']) && !element.contains('<'), "{}", markup);
        }
    }
}
