//! All reports come from one model and agree; the HTML page needs nothing but itself.

use serde_json::Value;

use crate::fixture::{Fixture, Manner, ends, judged};

fn reports(manner: Manner, filter: &str) -> (String, String, String, String) {
    let (fixture, dir) = (Fixture::start(manner), tempfile::tempdir().expect("a directory"));
    let report = dir.path().display().to_string();
    let (_, text) = ends(["run", "--target", &fixture.url, "--report", &report, "--filter", filter]);
    let read =
        |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap_or_else(|error| panic!("{error}: {text}"));
    let all = (read("report.json"), read("junit.xml"), read("report.html"), read("summary.md"));
    let names: Vec<_> =
        std::fs::read_dir(dir.path()).expect("a folder").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names.len(), 4, "nothing unfinished is left: {names:?}");
    all
}

#[test]
fn every_report_format_has_all_details_of_a_failure() {
    let (json, junit, html, summary) = reports(Manner::Fails, "id(=HLTH-001) or id(=BUG-01)");
    for (name, text) in [("JSON", &json), ("JUnit", &junit), ("HTML", &html)] {
        for part in [
            "non-conformant",
            "HLTH-001",
            "BUG-01",
            "status of GET /health",
            "does not start or configure the target",
            "--seed",
            "500 Internal Server Error",
        ] {
            assert!(text.contains(part), "{name} does not have {part:?}:\n{text}");
        }
    }
    for part in [
        "❌ Conformance: non-conformant",
        "| fail | 1 |",
        "| could-not-run | 1 |",
        "**HLTH-001**",
        "status of GET /health",
    ] {
        assert!(summary.contains(part), "the summary does not have {part:?}:\n{summary}");
    }
    assert!(junit.contains("tests=\"2\" skipped=\"0\" failures=\"1\" errors=\"1\""), "{junit}");
}

#[test]
fn the_page_is_self_contained() {
    let (_, _, html, _) = reports(Manner::Good, "id(=HLTH-001)");
    assert!(html.contains("<h1>conformant</h1>"), "{html}");
    for outside in ["http://www", "https://", "src=", "<link", "<script", "@import", "url("] {
        assert!(!html.contains(outside), "the page reaches outside: {outside}");
    }
    assert!(html.contains("prefers-color-scheme: dark") && html.contains("width=device-width"));
    // Every link of the heat map leads to something on the page.
    for (_, rest) in html.match_indices("href=\"#").map(|(at, mark)| (at, &html[at + mark.len()..])) {
        let id = rest.split('"').next().unwrap_or_default();
        assert_eq!(html.matches(&format!("id=\"{id}\"")).count(), 1, "{id}");
    }
}

/// Replaces values that differ from run to run by placeholders.
fn settled(mut report: Value) -> Value {
    let (target, seed) = (report["target"].as_str().unwrap_or_default().to_owned(), report["seed"].to_string());
    for (name, word) in [
        ("run", "[id]"),
        ("seed", "[seed]"),
        ("started_at", "[time]"),
        ("target", "[target]"),
        ("suite_version", "[version]"),
        ("contract_version", "[version]"),
        ("scenarios_version", "[version]"),
    ] {
        assert!(!report[name].is_null(), "no {name}");
        report[name] = word.into();
    }
    report["duration_seconds"] = "[seconds]".into();
    for scenario in report["scenarios"].as_array_mut().expect("scenarios") {
        scenario["duration_seconds"] = "[seconds]".into();
        assert!(scenario["line"].is_u64(), "{scenario}");
        scenario["line"] = "[line]".into();
        let again =
            scenario["reproduce"].as_str().expect("a line").replace(&target, "[target]").replace(&seed, "[seed]");
        scenario["reproduce"] = again.into();
        for evidence in scenario["evidence"].as_array_mut().expect("evidence") {
            assert!(evidence["text"].as_str().is_some_and(|text| text.contains("GET /health")), "{evidence}");
            evidence["text"] = "[exchanges]".into();
        }
    }
    report
}

#[test]
fn the_document_for_machines_has_this_shape() {
    let (_, _, report) = judged(Manner::Fails, &[]);
    insta::assert_json_snapshot!("report", settled(report));
}
