//! `compare` and `badge`, which read reports.

use std::path::Path;

use serde_json::{Value, json};

use crate::fixture::{Manner, ends, judged};

/// Writes a report with these scenarios, and returns its path.
fn report(dir: &Path, name: &str, scenarios: &[(&str, &str)]) -> String {
    let (_, _, mut report) = judged(Manner::Good, &[]);
    let model = report["scenarios"][0].clone();
    let scenarios = scenarios.iter().map(|(id, outcome)| {
        let mut scenario = model.clone();
        scenario["id"] = json!(id);
        scenario["outcome"] = json!(outcome);
        scenario
    });
    report["scenarios"] = Value::Array(scenarios.collect());
    let path = dir.join(name);
    std::fs::write(&path, report.to_string()).expect("written");
    path.display().to_string()
}

#[test]
fn compare_exits_with_1_if_something_is_worse() {
    let dir = tempfile::tempdir().expect("a directory");
    let before = report(dir.path(), "before.json", &[("A-1", "pass"), ("A-2", "fail")]);
    let fixed = report(dir.path(), "fixed.json", &[("A-1", "pass"), ("A-2", "pass"), ("A-3", "fail")]);
    let worse = report(dir.path(), "worse.json", &[("A-1", "timeout"), ("A-2", "fail")]);
    let lost = report(dir.path(), "lost.json", &[("A-1", "could-not-run"), ("A-2", "fail")]);

    let (status, text) = ends(["compare", &before, &fixed]);
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("fixed (1)\n  A-2") && text.contains("new (1)\n  A-3"), "{text}");
    for (now, says) in [(&worse, "newly-failing (1)\n  A-1"), (&lost, "lost (1)\n  A-1")] {
        let (status, text) = ends(["compare", &before, now]);
        assert_eq!(status, 1, "{text}");
        assert!(text.contains(says), "{text}");
    }
    assert!(!text.contains("the same rules"), "{text}");
    let other = std::fs::read_to_string(&fixed)
        .expect("a report")
        .replace("\"scenarios_version\":\"", "\"scenarios_version\":\"other-");
    std::fs::write(&fixed, other).expect("written");
    let (_, text) = ends(["compare", &before, &fixed]);
    assert!(text.contains("→ other-") && text.contains("not judged by the same rules"), "{text}");
    let (status, text) = ends(["compare", &before, "/nowhere/report.json"]);
    assert_eq!(status, 64, "{text}");
    assert!(text.contains("/nowhere/report.json"), "{text}");
}

#[test]
fn a_badge_shows_the_verdict_of_a_report() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = report(dir.path(), "report.json", &[("A-1", "pass")]);
    let (status, svg) = ends(["badge", &path]);
    assert_eq!(status, 0, "{svg}");
    assert!(svg.starts_with("<svg ") && svg.contains(">conformant</text>"), "{svg}");
    let file = dir.path().join("badge.svg");
    let (status, text) = ends(["badge", &path, "--output", file.to_str().expect("UTF-8")]);
    assert_eq!((status, text.as_str()), (0, ""));
    assert_eq!(std::fs::read_to_string(&file).expect("written"), svg.trim_end());
    std::fs::write(&file, "{}").expect("written");
    let (status, text) = ends(["badge", file.to_str().expect("UTF-8")]);
    assert_eq!(status, 64, "{text}");
    assert!(text.contains("badge.svg") && text.contains("schema"), "{text}");
}
