//! What the suite asks for is the contract's. Whatever is this project's stands in its target file, and scenarios do not name it.

use std::path::{Path, PathBuf};

/// Words that scenarios may not contain, each with where they read it instead.
const FORBIDDEN: [(&str, &str); 16] = [
    ("nagaya", "the target file, through context.description()"),
    ("/var/run/ws\"", "Room::sockets"),
    ("/var/run/ws/", "Room::sockets"),
    ("127.0.0.1:8080", "Containers::proxy"),
    ("X-API-Key", "Api::speech"),
    ("\"serve\"", "Act::Serve"),
    ("\"config\"", "Act::Config"),
    ("\"doctor\"", "Act::Doctor"),
    ("--addr-file", "Context::serving"),
    ("workspace-base:latest", "Capabilities::image"),
    ("Signal::TERM", "Process::ask_to_stop"),
    ("Signal::HUP", "Server::reload"),
    ("TcpStream::connect", "Api::connect"),
    ("\"request_data\"", "Form::request"),
    ("\"file_metadata\"", "Form::metadata"),
    ("\"--config=", "Launching::settings_file"),
];

/// What may be there nevertheless: the end of a file's path, a part of the line, and the reason.
const ALLOWED: [(&str, &str, &str); 14] = [
    ("egr/host_spellings.rs", "X-Nagaya-Egress", "C-EGR: the header of a refusal is the contract's"),
    ("egr/allow_list.rs", "X-Nagaya-Egress", "the same"),
    ("egr/allow_list.rs", "x-nagaya-egress", "the same"),
    ("egr/neighbours.rs", "TcpStream::connect", "to an origin of the suite's own, as a control"),
    ("egr/package_managers.rs", "nagaya_sample", "a package that the suite's own fixtures serve"),
    (
        "img/recipe.rs",
        "nagaya-agent",
        "a Dockerfile is judged only where its folder is named, and IMG-003 is about its agent's steps",
    ),
    (
        "sec/hostile_agent.rs",
        "/usr/local/bin/nagaya-agent",
        "the program of the image that is replaced; the image is named",
    ),
    ("hlth/prometheus.rs", "dashboards/nagaya.json", "this project's dashboard and alerts are what it judges"),
    ("hlth/prometheus.rs", "\"Nagaya", "the same"),
    ("state/two_servers.rs", "x-nagaya-forwarded", "a header that a client forges; elsewhere it is one of any name"),
    ("ten/roles.rs", "nagaya:", "C-TEN-045: the external id of a role is the contract's"),
    ("state/alternating.rs", "NAGAYA_RESTART_RUNS", "a variable of the suite"),
    ("live/soak.rs", "NAGAYA_SOAK_SESSIONS", "a variable of the suite"),
    ("live/soak.rs", "NAGAYA_SOAK_TURNS", "a variable of the suite"),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() { sources(&path, found) } else { found.push(path) }
    }
}

/// What is wrong with a line of the file with this path.
fn found(path: &str, line: &str) -> Option<String> {
    let is_comment = line.trim_start().starts_with("//");
    let mut line = line.to_owned();
    for (file, allowed, _) in ALLOWED {
        if path.ends_with(file) {
            line = line.replace(allowed, "");
        }
    }
    // A name is one in any case; the other words are spelled in one way.
    let name = line.to_ascii_lowercase();
    let (word, instead) =
        FORBIDDEN.iter().find(|(word, _)| line.contains(word) || *word == "nagaya" && name.contains(word))?;
    (!is_comment).then(|| format!("{path}: {word:?} in {:?}; use {instead}", line.trim()))
}

#[test]
fn scenarios_name_nothing_that_is_this_projects() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/scenarios");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 100, "only {} files of scenarios", files.len());
    let (mut wrong, mut used) = (Vec::new(), [false; ALLOWED.len()]);
    for file in files {
        let (path, text) = (file.display().to_string(), std::fs::read_to_string(&file).expect("a text"));
        wrong.extend(text.lines().filter_map(|line| found(&path, line)));
        for (used, (end, allowed, _)) in used.iter_mut().zip(ALLOWED) {
            *used |= path.ends_with(end) && text.contains(allowed);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let unused: Vec<_> = ALLOWED.iter().zip(used).filter(|(_, used)| !used).map(|(one, _)| one).collect();
    assert!(unused.is_empty(), "allowed and not there: {unused:?}");
}

#[test]
fn a_forbidden_word_is_found_and_an_exception_holds_for_one_file() {
    assert!(found("src/scenarios/run/one.rs", "    let label = \"Nagaya.deployment\";").is_some());
    assert!(found("src/scenarios/run/one.rs", "    check(head.contains(\"X-Nagaya-Egress\"))").is_some());
    assert!(found("src/scenarios/egr/allow_list.rs", "    check(head.contains(\"X-Nagaya-Egress\"))").is_none());
    assert!(found("src/scenarios/run/one.rs", "    // nagaya itself").is_none());
}
