//! The report for a person with a browser: one page, with everything in it. It works offline, in the dark, and on a phone.

use std::fmt::Write as _;

use super::RunReport;
use super::escape::escape;
use super::terminal::seconds;
use crate::outcome::{Outcome, Verdict};
use crate::run::LaunchAs;
use crate::runner::Report;
use crate::scenarios::FAMILIES;

/// How many scenarios the chart of times shows.
const SLOWEST: usize = 25;

/// The whole page.
#[must_use]
pub fn document(report: &RunReport<'_>) -> String {
    let verdict = report.verdict();
    let mut out = String::with_capacity(64 * 1024);
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>{verdict} · conformance {}</title>\n<style>\n{}</style></head><body>\n",
        escape(&report.run.id),
        include_str!("html.css"),
    );
    head(&mut out, report, verdict);
    families(&mut out, report);
    let bad: Vec<&Report> = report.reports.iter().filter(|one| one.outcome != Outcome::Pass).collect();
    if !bad.is_empty() {
        out.push_str("<h2>What did not pass</h2>\n");
        bad.iter().for_each(|one| details(&mut out, one));
    }
    times(&mut out, report);
    table(&mut out, report);
    out.push_str("</body></html>\n");
    out
}

fn head(out: &mut String, report: &RunReport<'_>, verdict: Verdict) {
    let (class, says) = match verdict {
        Verdict::Conformant => ("pass", "Every scenario that was asked for ran, and found every promise kept."),
        Verdict::NonConformant => ("fail", "A promise is broken."),
        Verdict::Incomplete => {
            ("error", "No promise was found broken, but not everything that was asked for could be looked at.")
        }
    };
    let options = &report.run.options;
    let launched = match options.launch {
        LaunchAs::Process => "deployments that the suite launched",
        LaunchAs::Container => "deployments that the suite launched in containers",
    };
    let target = options.target.as_deref().unwrap_or(launched);
    let profile = report.profile.map_or_else(String::new, |profile| format!(", profile {profile}"));
    let filter = report.filter.as_deref().map_or_else(String::new, |filter| format!(", filter {filter}"));
    let _ = write!(
        out,
        "<header class=\"{class}\"><h1>{verdict}</h1><p>{says}</p><p class=\"soft\">{} scenarios against {} in {}{profile}{}{}. \
         {} · seed {} · version {}</p></header>\n<ul class=\"counts\">",
        report.reports.len(),
        escape(target),
        seconds(report.took),
        escape(&filter),
        if report.strict { ", strict" } else { "" },
        report.started_at.strftime("%Y-%m-%d %H:%M:%S UTC"),
        options.seed,
        env!("CARGO_PKG_VERSION"),
    );
    for outcome in Outcome::ALL.into_iter().filter(|outcome| report.count(*outcome) > 0) {
        let _ = write!(out, "<li class=\"{outcome}\"><b>{}</b> {outcome}</li>", report.count(outcome));
    }
    out.push_str("</ul>\n");
    if !report.missing.is_empty() {
        let missing = escape(&report.missing.join(", ")).into_owned();
        let _ = writeln!(out, "<p>The profile also holds, and this run left out: {missing}.</p>");
    }
    for (capability, why) in report.run.capabilities.missing() {
        let _ = writeln!(out, "<p class=\"soft\">Without {capability}: {}</p>", escape(why));
    }
}

fn families(out: &mut String, report: &RunReport<'_>) {
    out.push_str("<h2>Families</h2>\n");
    for (family, about) in FAMILIES {
        let members: Vec<&Report> = report.reports.iter().filter(|one| one.scenario.family() == family).collect();
        if members.is_empty() {
            continue;
        }
        let passed = members.iter().filter(|one| one.outcome == Outcome::Pass).count();
        let _ = write!(out, "<div class=\"family\"><b title=\"{}\">{family}</b><div class=\"cells\">", escape(about));
        for one in &members {
            let words = format!("{} {}: {}", one.scenario.id, one.outcome, one.scenario.title);
            let words = escape(&words);
            let _ = write!(
                out,
                "<a class=\"{}\" href=\"#{}\" title=\"{words}\" aria-label=\"{words}\"></a>",
                one.outcome, one.scenario.id
            );
        }
        let _ = writeln!(out, "</div><span class=\"soft\">{passed} / {}</span></div>", members.len());
    }
}

fn details(out: &mut String, report: &Report) {
    let scenario = report.scenario;
    let _ = write!(
        out,
        "<article class=\"{0}\" id=\"{1}\"><h3><span class=\"word\">{0}</span> · {1} · {2}</h3>\
         <p class=\"soft\">{3}, {4}</p><dl>",
        report.outcome,
        scenario.id,
        escape(scenario.title),
        scenario.severity,
        seconds(report.took),
    );
    let _ = write!(out, "<dt>requirement</dt><dd>{}</dd>", escape(scenario.requirement));
    for (name, text) in [("what", &report.message), ("expected", &report.expected), ("actual", &report.actual)] {
        if let Some(text) = text {
            let _ = write!(out, "<dt>{name}</dt><dd><pre>{}</pre></dd>", escape(text));
        }
    }
    for note in &report.notes {
        let _ = write!(out, "<dt>note</dt><dd>{}</dd>", escape(note));
    }
    let _ = writeln!(out, "<dt>reproduce</dt><dd><pre>{}</pre></dd></dl>", escape(&report.reproduce));
    for one in &report.evidence {
        let (name, text) = (escape(&one.name), escape(&one.text));
        let _ = writeln!(out, "<details><summary>{name}</summary><pre>{text}</pre></details>");
    }
    out.push_str("</article>\n");
}

fn times(out: &mut String, report: &RunReport<'_>) {
    let mut slowest: Vec<&Report> = report.reports.iter().filter(|one| !one.took.is_zero()).collect();
    slowest.sort_by_key(|one| std::cmp::Reverse(one.took));
    let Some(longest) = slowest.first().map(|one| one.took.as_secs_f64()) else { return };
    let what = if slowest.len() > SLOWEST { format!("Time: the {SLOWEST} slowest") } else { "Time".to_owned() };
    let _ = writeln!(out, "<h2>{what}</h2>");
    for one in slowest.into_iter().take(SLOWEST) {
        let took = one.took.as_secs_f64();
        let _ = writeln!(
            out,
            "<div class=\"bar {}\"><span>{}</span><i style=\"width:{:.1}%\"></i><span>{took:.1} s</span></div>",
            one.outcome,
            one.scenario.id,
            100.0 * took / longest
        );
    }
}

fn table(out: &mut String, report: &RunReport<'_>) {
    out.push_str("<h2>All scenarios</h2>\n<table><tr><th>id</th><th>outcome</th><th>title</th><th class=\"num wide\">time</th></tr>\n");
    for one in &report.reports {
        // What did not pass has an element of this id already.
        let id = if one.outcome == Outcome::Pass { format!(" id=\"{}\"", one.scenario.id) } else { String::new() };
        let _ = writeln!(
            out,
            "<tr{id}><td>{}</td><td class=\"{1}\"><span class=\"word\">{1}</span></td><td>{2}</td><td class=\"num wide\">{3:.1} s</td></tr>",
            one.scenario.id,
            one.outcome,
            escape(one.scenario.title),
            one.took.as_secs_f64()
        );
    }
    out.push_str("</table>\n");
}
