//! What other projects copy uses flags and commands that the suite has: the action for GitHub, the template for GitLab, and the documentation.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::fixture::ends;

fn text(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The flags in a line: `--word`.
fn flags(line: &str) -> BTreeSet<String> {
    let is_letter = |c: char| c.is_ascii_lowercase() || c == '-';
    let begins = line.match_indices("--").filter(|(at, _)| !line[..*at].ends_with(is_letter));
    let words = begins.map(|(at, _)| line[at..].chars().take_while(|c| is_letter(*c)).collect::<String>());
    words.filter(|word| word.len() > 3).collect()
}

/// The commands of the suite in a text of shell or Markdown, each with the flags that stand behind it.
fn calls(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut calls: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    // A command that goes on in the next line.
    let whole = text.replace("\\\n", " ");
    for line in whole.lines() {
        for rest in line.split("nagaya-conformance ").skip(1) {
            let command: String = rest.chars().take_while(char::is_ascii_lowercase).collect();
            let own = rest.split(['#', '`', '|']).next().unwrap_or_default();
            if !command.is_empty() {
                calls.entry(command).or_default().extend(flags(own));
            }
        }
    }
    calls
}

fn check(what: &str, command: &str, used: &BTreeSet<String>) {
    let (status, help) = ends([command, "--help"]);
    assert_eq!(status, 0, "{what} uses the command {command}: {help}");
    let known: BTreeSet<String> = help.lines().flat_map(flags).collect();
    let unknown: Vec<&String> = used.difference(&known).collect();
    assert!(unknown.is_empty(), "{what} uses {unknown:?}, which {command} does not have");
}

#[test]
fn the_templates_pass_flags_that_the_suite_has() {
    for (path, marks) in [
        ("deploy/conformance/action.sh", ["arguments=(", "arguments+=("]),
        ("deploy/conformance/gitlab.yml", ["set -- run", "set -- \"$@\""]),
    ] {
        let text = text(path);
        let used: BTreeSet<String> =
            text.lines().filter(|line| marks.iter().any(|mark| line.contains(mark))).flat_map(flags).collect();
        for flag in ["--target", "--report", "--profile", "--filter", "--ca", "--strict"] {
            assert!(used.contains(flag), "{path} does not pass {flag}: {used:?}");
        }
        check(path, "run", &used);
        assert!(text.contains("NAGAYA_CONFORMANCE_API_KEY"), "{path} has no key");
    }
}

#[test]
fn the_documentation_uses_commands_and_flags_that_the_suite_has() {
    let page = text("docs/conformance.md");
    let calls = calls(&page);
    for command in ["run", "list", "explain", "compare", "badge", "describe", "gc", "selftest", "fixtures"] {
        assert!(calls.contains_key(command), "docs/conformance.md does not show {command}: {:?}", calls.keys());
    }
    for (command, used) in calls.iter().filter(|(command, _)| *command != "fixtures") {
        check("docs/conformance.md", command, used);
    }
    let table = page.lines().filter(|line| line.starts_with("| `--")).flat_map(flags).collect();
    check("the table of docs/conformance.md", "run", &table);
}

#[test]
fn flags_and_commands_are_found() {
    let found = calls("    nagaya-conformance run --a-b C \\\n  --dd=e # --no\n`nagaya-conformance gc --x` and --y\n");
    let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(found["run"], set(&["--a-b", "--dd"]));
    assert_eq!(found["gc"], set(&[]), "one letter is none");
    assert_eq!(flags("x--no --yes \"--also\" --"), set(&["--yes", "--also"]));
}
