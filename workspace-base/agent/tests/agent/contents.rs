//! Files: every operation with every kind of thing that may be in its place.

use super::*;

/// An agent with a workspace of its own.
fn with_workspace() -> (tempfile::TempDir, Agent) {
    let dir = tempfile::tempdir().expect("a directory");
    let workspace = dir.path().to_str().expect("text").to_owned();
    (dir, Agent::start_with("exit 0", &["--workspace", &workspace]))
}

fn status(agent: &Agent, method: &str, query: &str, body: &str) -> String {
    agent.call(method, &format!("/files{query}"), body).split(' ').nth(1).unwrap_or_default().to_owned()
}

#[test]
fn what_is_no_plain_file_is_neither_read_nor_followed_and_only_deleted_itself() {
    let (dir, agent) = with_workspace();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("real"), "inside").expect("writes");
    fs::create_dir(at("folder")).expect("makes");
    std::os::unix::fs::symlink(at("real"), at("link")).expect("links");
    std::os::unix::fs::symlink(at("folder"), at("away")).expect("links");
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), fifo, rustix::fs::Mode::RWXU, 0).expect("makes");
    for (method, query, expected) in [
        ("GET", "?path=real", "200"),
        ("GET", "?path=link", "400"),
        ("GET", "?path=pipe", "400"),
        ("GET", "?path=folder", "400"),
        ("GET", "?path=real%2Fx", "400"),
        ("GET", "?path=away%2Fx", "400"),
        ("GET", "?path=none", "404"),
        ("GET", "?path=none%2Fx", "404"),
        ("GET", "?other=x", "400"),
        ("PUT", "", "400"),
        ("PUT", "?path=away%2Fx", "400"),
        ("PUT", "?path=real%2Fx", "400"),
        ("PUT", "?path=..%2Fx", "400"),
        ("PUT", "?path=bad&mode=8", "400"),
        ("PUT", "?path=bad&mode=rw", "400"),
        ("PUT", "?path=bad&in=etc", "400"),
        ("DELETE", "?path=folder", "400"),
        ("DELETE", "?path=away%2Fx", "400"),
        ("DELETE", "?path=none", "404"),
        ("DELETE", "?path=..%2Fx", "400"),
        ("DELETE", "?other=x", "400"),
        ("DELETE", "?path=link", "204"),
        ("DELETE", "?path=away", "204"),
        ("DELETE", "?path=pipe", "204"),
    ] {
        assert_eq!(status(&agent, method, query, ""), expected, "{method} {query}");
    }
    let mut left: Vec<_> = fs::read_dir(dir.path()).expect("reads").flatten().map(|entry| entry.file_name()).collect();
    left.sort();
    assert_eq!(left, ["folder", "real"]);
    assert_eq!(fs::read_to_string(at("real")).expect("reads"), "inside");
    // A link is replaced, and what it led to is not.
    std::os::unix::fs::symlink(at("real"), at("link")).expect("links");
    assert_eq!(status(&agent, "PUT", "?path=link", "new"), "204");
    assert_eq!(fs::read_to_string(at("real")).expect("reads"), "inside");
    assert_eq!(fs::read_to_string(at("link")).expect("reads"), "new");
    assert_eq!(status(&agent, "DELETE", "?path=real", ""), "204");
    assert!(!at("real").exists());
}

#[test]
fn a_file_has_the_permissions_that_it_is_given_and_no_more() {
    let (dir, agent) = with_workspace();
    for (query, mode) in [("plain", 0o644), ("a/b/c&mode=600", 0o600), ("x&mode=4755", 0o755), ("none&mode=0", 0)] {
        assert_eq!(status(&agent, "PUT", &format!("?path={query}"), "x"), "204");
        let name = query.split('&').next().expect("a name");
        let found = fs::metadata(dir.path().join(name)).expect("exists").permissions().mode();
        assert_eq!(found & 0o7777, mode, "{query}");
    }
    let made = fs::metadata(dir.path().join("a/b")).expect("exists").permissions().mode();
    assert_eq!(made & 0o777, 0o755);
    // In the driver's home directory, which is no part of the workspace.
    assert_eq!(status(&agent, "PUT", "?path=.claude%2Fx&in=home", "kept"), "204");
    assert_eq!(fs::read_to_string(agent.path(".claude/x")).expect("reads"), "kept");
    assert!(!dir.path().join(".claude").exists());
}

#[test]
fn a_list_is_whole_however_many_files_there_are_and_says_when_it_is_not() {
    let (dir, agent) = with_workspace();
    // Lists are made in pieces of 256.
    let mut expected: Vec<(String, u64, u32)> = Vec::new();
    for (count, folder) in [(255, "a"), (256, "a/b"), (2, "c")] {
        fs::create_dir(dir.path().join(folder)).expect("makes");
        for number in 0..count {
            let path = format!("{folder}/{number}");
            fs::write(dir.path().join(&path), "x".repeat(number % 7)).expect("writes");
            expected.push((path, (number % 7) as u64, 0o644));
        }
    }
    fs::set_permissions(dir.path().join("c/0"), fs::Permissions::from_mode(0o4751)).expect("sets");
    fs::write(dir.path().join("c/.nagaya-unfinished-7"), "half").expect("writes");
    expected.iter_mut().find(|(path, ..)| path == "c/0").expect("listed").2 = 0o751;
    expected.sort();
    let list = || {
        let (mut files, mut ends) = (Vec::new(), Vec::new());
        for entry in listed(&agent) {
            match entry {
                FileEntry::File { path, size, mode, .. } => files.push((path, size, mode)),
                FileEntry::End { whole } => ends.push(whole),
            }
        }
        files.sort();
        (files, ends)
    };
    assert_eq!(list(), (expected.clone(), vec![true]));
    // A name that is no text cannot be told.
    let odd = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"c/\xff");
    fs::write(dir.path().join(odd), "x").expect("writes");
    assert_eq!(list(), (expected, vec![false]));
}

#[test]
fn a_file_of_any_length_is_read_whole_and_its_version_changes_with_it() {
    let (dir, agent) = with_workspace();
    // Files are read in pieces of 64 KiB.
    for length in [0, 1, 65_535, 65_536, 65_537, 200_000] {
        let content: String = (0..length).map(|at| char::from(b'a' + (at % 23) as u8)).collect();
        assert_eq!(status(&agent, "PUT", "?path=long", &content), "204");
        assert_eq!(fs::read_to_string(dir.path().join("long")).expect("reads"), content, "{length}");
        let answer = agent.call("GET", "/files?path=long", "");
        assert_eq!(body(&answer), content, "{length}");
        assert!(answer.contains(&format!("content-length: {length}\r\n")), "{length}");
        assert!(answer.contains("content-type: application/octet-stream\r\n"));
    }
    let version = || match &listed(&agent)[..] {
        [FileEntry::File { version, .. }, FileEntry::End { whole: true }] => *version,
        other => panic!("{other:?}"),
    };
    let before = version();
    assert_eq!(before, version());
    eventually("a change has another version", || {
        fs::write(dir.path().join("long"), "changed").expect("writes");
        version() > before
    });
    // A workspace that is closed to its own user is opened again, also for its files.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o0)).expect("closes");
    assert_eq!(listed(&agent).len(), 2);
    assert_eq!(fs::metadata(dir.path()).expect("exists").permissions().mode() & 0o777, 0o700);
}
