//! The report as a page of Markdown, for the summary of a CI job.

use std::fmt::Write as _;

use strum::VariantArray as _;

use super::model::RunReport;
use super::terminal::seconds;
use crate::harness::outcome::{Outcome, Verdict};

/// So many scenarios are listed: what shows the page limits its size.
const MOST: usize = 200;

/// The verdict, the counts, and every scenario that did not pass.
#[must_use]
pub fn document(report: &RunReport<'_>) -> String {
    let verdict = report.verdict();
    let mark = match verdict {
        Verdict::Conformant => "✅",
        Verdict::NonConformant => "❌",
        Verdict::Incomplete => "⚠️",
    };
    let mut out = format!("## {mark} Conformance: {verdict}\n\n");
    let target = report.run.options.target.as_deref().unwrap_or("deployments that the suite launched");
    let profile = report.profile.map_or(String::new(), |profile| format!(", profile `{profile}`"));
    let _ =
        writeln!(out, "{}{profile}: {} scenarios in {}\n", cell(target), report.reports.len(), seconds(report.took));
    out.push_str("| outcome | scenarios |\n| --- | ---: |\n");
    for outcome in Outcome::VARIANTS.iter().filter(|outcome| report.count(**outcome) > 0) {
        let _ = writeln!(out, "| {outcome} | {} |", report.count(*outcome));
    }
    let not_passed: Vec<_> = report.reports.iter().filter(|one| one.outcome != Outcome::Pass).collect();
    if !not_passed.is_empty() {
        out.push_str("\n| scenario | outcome | what |\n| --- | --- | --- |\n");
        for one in not_passed.iter().take(MOST) {
            let what = one.message.as_deref().unwrap_or_default().lines().next().unwrap_or_default();
            let (id, title) = (one.scenario.id, cell(one.scenario.title));
            let _ = writeln!(out, "| **{id}** {title} | {} | {} |", one.outcome, cell(what));
        }
        if let Some(more @ 1..) = not_passed.len().checked_sub(MOST) {
            let _ = writeln!(out, "\n… and {more} more, in the report.");
        }
    }
    if !report.missing.is_empty() {
        let _ = writeln!(out, "\nLeft out of the profile: {}.", report.missing.join(", "));
    }
    for change in report.run.target_changes() {
        let _ = writeln!(out, "\nThe target changed during the run: {}.", cell(&change));
    }
    out
}

/// A text as the content of a cell: neither Markdown nor HTML of its own.
fn cell(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars().map(|character| if character.is_control() { ' ' } else { character }) {
        match character {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '|' | '*' | '_' | '`' | '[' | ']' | '\\' | '~' => out.extend(['\\', character]),
            _ => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_target_answers_cannot_change_the_page() {
        assert_eq!(cell("a | b\n<img src=x> [c](d) `e` *f*"), r"a \| b &lt;img src=x&gt; \[c\](d) \`e\` \*f\*");
    }
}
