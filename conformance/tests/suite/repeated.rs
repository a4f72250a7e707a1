//! Runs that end early, runs that are repeated, and targets that change meanwhile.

use crate::fixture::{Manner, judged};
use crate::left::processes;

/// Two scenarios, of which the first fails if `/health` does.
const TWO: [&str; 4] = ["--filter", "id(=HLTH-001) or id(=HLTH-002)", "--jobs", "1"];

#[test]
fn the_first_failure_ends_a_run_that_is_to_fail_fast() {
    let (status, text, report) = judged(Manner::Fails, &[&TWO[..], &["--fail-fast"]].concat());
    let outcomes: Vec<&str> =
        report["scenarios"].as_array().into_iter().flatten().filter_map(|one| one["outcome"].as_str()).collect();
    assert_eq!((status, outcomes.as_slice()), (1, &["fail", "could-not-run"][..]), "{text}");
    let why = report["scenarios"][1]["message"].as_str().unwrap_or_default();
    assert!(why.contains("HLTH-001 failed") && why.contains("--fail-fast"), "{why}");
    // A known failure is none.
    let dir = tempfile::tempdir().expect("a directory");
    let list = dir.path().join("known");
    std::fs::write(&list, "HLTH-001").expect("written");
    let known = ["--fail-fast", "--known-failures", list.to_str().expect("UTF-8")];
    let (_, text, report) = judged(Manner::Fails, &[&TWO[..], &known].concat());
    assert_eq!(report["scenarios"][1]["outcome"], "fail", "{text}");
}

#[test]
fn a_scenario_that_does_not_always_end_alike_is_found_by_repetition() {
    let (status, text, report) = judged(Manner::FailsTheThirdTime, &["--repeat", "4"]);
    assert_eq!((status, report["rounds"].as_u64()), (1, Some(4)), "{text}");
    let note = report["scenarios"][0]["notes"].to_string();
    assert!(note.contains("flaky: fail in 1 of 4 rounds (3), otherwise pass"), "{note}");
    let (status, text, report) = judged(Manner::FailsTheThirdTime, &["--until-failure"]);
    assert_eq!((status, report["rounds"].as_u64()), (1, Some(3)), "{text}");
    let (status, text, report) = judged(Manner::Good, &["--repeat", "2", "--strict"]);
    assert_eq!((status, report["rounds"].as_u64()), (0, Some(2)), "{text}");
}

#[test]
fn without_a_failure_the_time_limit_ends_the_repetition_and_whole_rounds_count() {
    let (status, text, report) = judged(Manner::Good, &["--until-failure", "--time-limit", "1"]);
    assert_eq!((status, report["verdict"].as_str()), (0, Some("conformant")), "{text}");
    assert!(report["rounds"].as_u64() > Some(1), "{text}");
}

#[test]
fn there_is_no_verdict_on_a_target_that_changes_during_the_run() {
    for (manner, says) in [
        (Manner::IsUpgraded, "its version was 0 and is 1"),
        (Manner::IsRestarted, "it was restarted: requests_total fell from 100 to 1"),
    ] {
        let (status, text, report) = judged(manner, &[]);
        assert_eq!((status, report["verdict"].as_str()), (2, Some("incomplete")), "{manner:?}: {text}");
        assert_eq!(report["counts"]["pass"], 1, "{manner:?}: {text}");
        assert!(report["target_changes"].to_string().contains(says) && text.contains(says), "{manner:?}: {text}");
        let (status, text, _) = judged(manner, &["--strict"]);
        assert_eq!(status, 1, "{manner:?}: {text}");
    }
    let (_, text, report) = judged(Manner::Good, &[]);
    assert_eq!(report["target_changes"], serde_json::json!([]), "{text}");
}

#[test]
fn the_load_beside_a_run_changes_no_verdict_and_ends_with_it() {
    let (status, text, report) = judged(Manner::Good, &["--stress", "--repeat", "3"]);
    assert_eq!((status, report["verdict"].as_str()), (0, Some("conformant")), "{text}");
    let reproduce = report["scenarios"][0]["reproduce"].as_str().unwrap_or_default();
    assert!(reproduce.ends_with("--patience 3 --stress"), "{reproduce}");
    assert_eq!(
        processes(report["run"].as_str().expect("the run's id")),
        Vec::<String>::new(),
        "processes of the load are left"
    );
}
