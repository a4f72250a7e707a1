//! All reports come from one model and agree; the page for a browser needs nothing but itself.

use crate::fixture::{Fixture, Manner, ends};

fn reports(manner: Manner, filter: &str) -> (String, String, String) {
    let (fixture, dir) = (Fixture::start(manner), tempfile::tempdir().expect("a directory"));
    let report = dir.path().display().to_string();
    let (_, text) = ends(["run", "--target", &fixture.url, "--report", &report, "--filter", filter]);
    let read =
        |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap_or_else(|error| panic!("{error}: {text}"));
    let all = (read("report.json"), read("junit.xml"), read("report.html"));
    let names: Vec<_> =
        std::fs::read_dir(dir.path()).expect("a folder").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names.len(), 3, "nothing unfinished is left: {names:?}");
    all
}

#[test]
fn a_failure_is_told_in_each_form_with_all_that_is_known() {
    let (json, junit, html) = reports(Manner::Fails, "id(=HLTH-001) or id(=BUG-06)");
    for (name, text) in [("JSON", &json), ("JUnit", &junit), ("HTML", &html)] {
        for part in [
            "non-conformant",
            "HLTH-001",
            "BUG-06",
            "status of GET /health",
            "somebody else",
            "--seed",
            "500 Internal Server Error",
        ] {
            assert!(text.contains(part), "{name} does not have {part:?}:\n{text}");
        }
    }
    assert!(junit.contains("tests=\"2\" failures=\"1\" errors=\"1\" skipped=\"0\""), "{junit}");
}

#[test]
fn the_page_stands_alone() {
    let (_, _, html) = reports(Manner::Good, "id(=HLTH-001)");
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
