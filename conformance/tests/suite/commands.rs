//! Errors on the command line: each has its exit status and a helpful message.

use crate::fixture::{Fixture, Manner, ends, status_and_output, suite};

#[test]
fn mistakes_on_the_command_line_are_64() {
    for (args, says) in [
        (&["explain", "BUG-99"][..], "this family has"),
        (&["explain", "NOPE-1"], "no scenario has the id"),
        (&["run", "--filter", "id("], "--filter"),
        (&["run", "--filter", "severity(urgent)"], "there are critical"),
        (&["run", "--profile", "everything"], "core"),
        (&["run", "--jobs", "0"], "--jobs"),
        (&["run", "--known-failures", "/nowhere/list"], "/nowhere/list"),
        (&["run", "--deployment", "x"], "--target"),
        (&["selftest", "--mutant", "no-such-thing"], "selftest --list"),
        (&["selftest", "--filter", "family"], "--filter"),
        (&["dance"], "dance"),
    ] {
        let (status, text) = ends(args.iter().copied());
        assert_eq!(status, 64, "{args:?}: {text}");
        assert!(text.contains(says), "{args:?}: {text}");
    }
}

#[test]
fn an_unknown_id_among_known_failures_is_64() {
    let dir = tempfile::tempdir().expect("a directory");
    let list = dir.path().join("known");
    std::fs::write(&list, "BUG-99\n").expect("written");
    let (status, text) = ends(["run", "--known-failures", list.to_str().expect("UTF-8")]);
    assert_eq!(status, 64, "{text}");
    assert!(text.contains("BUG-99"), "{text}");
}

#[test]
fn nothing_selected_is_4() {
    for args in [
        &["run", "--filter", "none()"][..],
        &["list", "--filter", "id(=BUG-99)"],
        &["run", "--profile", "core", "--filter", "family(CHAOS)"],
        &["selftest", "--filter", "none()"],
        &["selftest", "--filter", "family(SEC)", "--mutant", "filter-ignored"],
    ] {
        let (status, text) = ends(args.iter().copied());
        assert_eq!(status, 4, "{args:?}: {text}");
    }
}

#[test]
fn a_report_folder_that_cannot_be_created_is_reported_before_the_run() {
    let fixture = Fixture::start(Manner::Hangs);
    let (status, text) = ends(["run", "--target", &fixture.url, "--report", "/dev/null/report"]);
    assert_eq!(status, 70, "{text}");
    assert!(text.contains("/dev/null/report") && !text.contains("HLTH-001"), "{text}");
}

#[test]
fn help_and_lists_are_0() {
    for args in [
        &["--help"][..],
        &["list"],
        &["list", "--json"],
        &["list", "--markdown"],
        &["explain", "bug-06"],
        &["explain", "c-room-006"],
        &["selftest", "--list"],
    ] {
        let (status, text) = ends(args.iter().copied());
        assert_eq!(status, 0, "{args:?}: {text}");
        assert!(text.len() > 200, "{args:?}: {text}");
    }
}

#[test]
fn the_fixtures_are_found_and_have_their_own_arguments_and_exit_status() {
    let (status, text) = ends(["fixtures", "model", "--help"]);
    assert!(status == 0 && text.contains("--access-key-id"), "{status}: {text}");
    let (status, text) = ends(["fixtures", "dance"]);
    assert!(status == 64 && text.contains("dance") && text.contains("nagaya-fixtures"), "{status}: {text}");
    let output = suite(["fixtures", "--version"]).env("NAGAYA_FIXTURES_BIN", "/no/such/program").output().expect("run");
    let (status, text) = status_and_output(&output);
    assert!(status == 3 && text.contains("NAGAYA_FIXTURES_BIN=/no/such/program"), "{status}: {text}");
}
