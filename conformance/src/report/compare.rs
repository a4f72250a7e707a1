//! What has changed between two reports.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;
use strum::VariantArray as _;

use super::json::SCHEMA;
use crate::harness::outcome::Outcome;

/// The part of `report.json` that is compared.
#[derive(Debug, Clone)]
pub struct Summary {
    /// The verdict's name.
    pub verdict: String,
    /// The claimed profile, if there is one.
    pub profile: Option<String>,
    /// Versions of the contract and of the scenarios, as far as the report has them.
    pub rules: [Option<String>; 2],
    /// Outcome and title of each scenario, by id.
    pub scenarios: BTreeMap<String, (Outcome, String)>,
}

impl Summary {
    /// Reads a `report.json`.
    ///
    /// # Errors
    /// The text is no such report.
    pub fn read(text: &str) -> Result<Self, String> {
        let report: Value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
        if report["schema"] != SCHEMA {
            return Err(format!("not a report of this suite: its schema is {}, not \"{SCHEMA}\"", report["schema"]));
        }
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let scenarios = report["scenarios"].as_array().into_iter().flatten().map(|one| {
            let outcome = Outcome::VARIANTS.iter().copied().find(|known| one["outcome"] == <&str>::from(*known));
            let outcome = outcome.ok_or_else(|| format!("unknown outcome {}", one["outcome"]))?;
            let id = text(&one["id"]).ok_or("a scenario without an id")?;
            Ok((id, (outcome, text(&one["title"]).unwrap_or_default())))
        });
        Ok(Self {
            verdict: text(&report["verdict"]).ok_or("no verdict")?,
            profile: text(&report["profile"]),
            rules: ["contract_version", "scenarios_version"].map(|field| text(&report[field])),
            scenarios: scenarios.collect::<Result<_, String>>()?,
        })
    }
}

/// How the result of one scenario has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, strum::Display, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Change {
    /// It is broken and was not.
    NewlyFailing,
    /// It passed, and this time nothing is known: it could not run, or the suite failed.
    Lost,
    /// It passed, and the second report does not have it.
    Gone,
    /// It was broken, and passes.
    Fixed,
    /// The first report does not have it.
    New,
    /// Another change, for better or for neither.
    Changed,
}

impl Change {
    /// Whether the second report is worse for it.
    #[must_use]
    pub fn is_worse(self) -> bool {
        matches!(self, Self::NewlyFailing | Self::Lost | Self::Gone)
    }

    fn between(before: Option<Outcome>, now: Option<Outcome>) -> Option<Self> {
        let broken = |outcome| matches!(outcome, Outcome::Fail | Outcome::Timeout);
        match (before, now) {
            (Some(before), Some(now)) if before == now => None,
            (Some(before), Some(now)) if broken(before) && broken(now) => None,
            (Some(_), Some(now)) if broken(now) => Some(Self::NewlyFailing),
            (Some(before), Some(Outcome::Pass)) if broken(before) || before == Outcome::KnownFailure => {
                Some(Self::Fixed)
            }
            (Some(Outcome::Pass), Some(_)) => Some(Self::Lost),
            (Some(Outcome::Pass), None) => Some(Self::Gone),
            (None, Some(_)) => Some(Self::New),
            _ => Some(Self::Changed),
        }
    }
}

/// The changes of all scenarios, the worst first.
#[derive(Debug)]
pub struct Comparison<'s> {
    before: &'s Summary,
    now: &'s Summary,
    changes: BTreeMap<Change, Vec<&'s str>>,
}

impl<'s> Comparison<'s> {
    /// Compares two reports.
    #[must_use]
    pub fn of(before: &'s Summary, now: &'s Summary) -> Self {
        let ids: std::collections::BTreeSet<&str> =
            before.scenarios.keys().chain(now.scenarios.keys()).map(String::as_str).collect();
        let mut changes: BTreeMap<Change, Vec<&str>> = BTreeMap::new();
        for id in ids {
            let outcome = |of: &Summary| of.scenarios.get(id).map(|(outcome, _)| *outcome);
            if let Some(change) = Change::between(outcome(before), outcome(now)) {
                changes.entry(change).or_default().push(id);
            }
        }
        Self { before, now, changes }
    }

    /// Whether something is worse than before.
    #[must_use]
    pub fn is_worse(&self) -> bool {
        self.changes.keys().any(|change| change.is_worse())
    }

    /// All changes, as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (change, ids) in &self.changes {
            let _ = writeln!(out, "{change} ({})", ids.len());
            for id in ids {
                let of = |summary: &Summary| summary.scenarios.get(*id).map_or("absent", |(outcome, _)| outcome.into());
                let found = self.now.scenarios.get(*id).or_else(|| self.before.scenarios.get(*id));
                let title = found.map_or("", |(_, title)| title);
                let _ = writeln!(out, "  {id:<18} {} → {}  {title}", of(self.before), of(self.now));
            }
        }
        if self.changes.is_empty() {
            out.push_str("no scenario has another outcome\n");
        }
        for (name, (before, now)) in ["contract", "scenarios"].iter().zip(self.before.rules.iter().zip(&self.now.rules))
        {
            if before != now {
                let version = |rule: &Option<String>| rule.clone().unwrap_or_else(|| "unknown".to_owned());
                let _ = writeln!(out, "{name}: {} → {}: not judged by the same rules", version(before), version(now));
            }
        }
        let _ = writeln!(out, "verdict: {} → {}", self.before.verdict, self.now.verdict);
        let _ = writeln!(out, "{}", if self.is_worse() { "something is worse" } else { "nothing is worse" });
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(scenarios: &[(&str, Outcome)]) -> Summary {
        let scenarios = scenarios.iter().map(|(id, outcome)| ((*id).to_owned(), (*outcome, format!("title of {id}"))));
        Summary { verdict: "incomplete".to_owned(), profile: None, rules: [None, None], scenarios: scenarios.collect() }
    }

    #[test]
    fn each_kind_of_change_has_its_name() {
        use Outcome::{CouldNotRun, Error, Fail, KnownFailure, NotApplicable, Pass, Timeout};
        for (before, now, change) in [
            (Some(Pass), Some(Fail), Some(Change::NewlyFailing)),
            (Some(CouldNotRun), Some(Timeout), Some(Change::NewlyFailing)),
            (Some(KnownFailure), Some(Fail), Some(Change::NewlyFailing)),
            (Some(Fail), Some(Pass), Some(Change::Fixed)),
            (Some(KnownFailure), Some(Pass), Some(Change::Fixed)),
            (Some(Pass), Some(CouldNotRun), Some(Change::Lost)),
            (Some(Pass), Some(Error), Some(Change::Lost)),
            (Some(Pass), Some(NotApplicable), Some(Change::Lost)),
            (Some(Pass), None, Some(Change::Gone)),
            (Some(Fail), None, Some(Change::Changed)),
            (None, Some(Fail), Some(Change::New)),
            (None, Some(Pass), Some(Change::New)),
            (Some(CouldNotRun), Some(Pass), Some(Change::Changed)),
            (Some(Fail), Some(CouldNotRun), Some(Change::Changed)),
            (Some(Pass), Some(Pass), None),
            (Some(Fail), Some(Timeout), None),
        ] {
            assert_eq!(Change::between(before, now), change, "{before:?} → {now:?}");
        }
    }

    #[test]
    fn a_comparison_says_what_has_changed_and_whether_it_is_worse() {
        let before = report(&[("A-1", Outcome::Pass), ("A-2", Outcome::Fail), ("A-3", Outcome::Pass)]);
        let better =
            report(&[("A-1", Outcome::Pass), ("A-2", Outcome::Pass), ("A-3", Outcome::Pass), ("A-4", Outcome::Fail)]);
        let comparison = Comparison::of(&before, &better);
        assert!(!comparison.is_worse(), "{}", comparison.text());
        assert!(comparison.text().contains("fixed (1)\n  A-2                fail → pass  title of A-2\n"));
        assert!(comparison.text().contains("new (1)\n  A-4                absent → fail"), "{}", comparison.text());
        let worse = report(&[("A-1", Outcome::Fail), ("A-2", Outcome::Fail)]);
        let comparison = Comparison::of(&before, &worse);
        assert!(comparison.is_worse());
        let text = comparison.text();
        assert!(text.starts_with("newly-failing (1)\n  A-1") && text.contains("gone (1)\n  A-3"), "{text}");
        assert!(Comparison::of(&before, &before).text().contains("no scenario has another outcome"));
    }

    #[test]
    fn only_reports_of_this_suite_are_read() {
        for (text, says) in [
            ("{", "not JSON"),
            ("{}", "schema"),
            (r#"{"schema": "nagaya-conformance-report/2"}"#, "report/2"),
            (
                r#"{"schema": "nagaya-conformance-report/1", "verdict": "x", "scenarios": [{"id": "A-1", "outcome": "odd"}]}"#,
                "odd",
            ),
        ] {
            let why = Summary::read(text).expect_err("no report");
            assert!(why.contains(says), "{text}: {why}");
        }
    }
}
