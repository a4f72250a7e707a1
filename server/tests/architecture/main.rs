//! Imports point one way. Crates keep that by themselves; inside a crate, this test reads every source file and compares what it
//! imports with the order of the modules.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A folder of modules, and the order in which they may import: each may import those after it, and none before it.
struct House {
    /// Folder below the repository's root.
    folder: &'static str,
    /// Path under which the folder's modules are imported.
    path: &'static str,
    /// Names of the modules, from top to bottom.
    order: &'static [&'static str],
}

const HOUSES: &[House] = &[
    House {
        folder: "server/src",
        path: "crate",
        order: &[
            "main",
            "serve",
            "doctor",
            "trial",
            "probe",
            "cli",
            "config",
            "api",
            "tenancy",
            "conversation",
            "cluster",
            "aws",
            "providers",
            "messages_api",
            "bedrock",
            "descriptors",
        ],
    },
    House {
        folder: "server/src/conversation",
        path: "crate::conversation",
        order: &[
            "runs",
            "run",
            "recovery",
            "translate",
            "services",
            "journal",
            "waiting",
            "order",
            "uploads",
            "content",
            "skills",
            "event",
            "asked",
            "approvals",
            "store",
            "cost",
        ],
    },
    House {
        folder: "server/workspace/src",
        path: "crate",
        order: &[
            "testing",
            "upkeep",
            "files",
            "lifecycle",
            "records",
            "workspaces",
            "policies",
            "starter",
            "starts",
            "rooms",
            "agent",
            "directory",
            "spec",
            "objects",
            "state",
            "engine",
            "uids",
            "losses",
            "reason",
            "peers",
            "session",
            "backoff",
            "clock",
            "id",
        ],
    },
    House { folder: "server/telemetry/src", path: "crate", order: &["audit", "metrics", "host", "labels", "logs"] },
];

#[test]
fn modules_import_only_what_lies_below_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the server lies in the repository");
    let mut wrong = Vec::new();
    for house in HOUSES {
        let folder = root.join(house.folder);
        let names = modules(&folder);
        let known: BTreeSet<String> = house.order.iter().map(|name| (*name).to_owned()).collect();
        let unknown: Vec<_> = names.symmetric_difference(&known).collect();
        assert!(unknown.is_empty(), "{}: not in the list, or only there: {unknown:?}", house.folder);
        for (place, importer) in house.order.iter().enumerate() {
            for file in files_of(&folder, importer) {
                let text = fs::read_to_string(&file).expect("a source file");
                for imported in imports(&text, house.path, &depth(&folder, &file)) {
                    let found = house.order.iter().position(|name| *name == imported);
                    if found.is_some_and(|found| found < place) {
                        wrong.push(format!("{}: imports {imported}, which lies above it", file.display()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Folders of programs that carry what a driver says, or decide about it.
const BESIDE_DRIVERS: [&str; 7] = [
    "server/driver/src",
    "server/egress/src",
    "server/src",
    "server/telemetry/src",
    "server/workspace/src",
    "workspace-base/agent/src",
    "workspace-base/protocol/src",
];
/// Modules that may name them.
const CLAUDE_CODE: [&str; 2] = ["server/driver/src/claude_code", "workspace-base/agent/src/claude_code"];
/// Words of the Claude Code CLI: its frames, flags, tools, variables and files.
const WORDS: [&str; 25] = [
    "--permission-prompt-tool",
    "/.claude",
    "ANTHROPIC_DEFAULT_",
    "AskUserQuestion",
    "CLAUDE_CODE_",
    "CLAUDE_ENABLE_",
    "Subagent hand-back",
    "\"Task\"",
    "api_retry",
    "bypassPermissions",
    "can_use_tool",
    "claude-plugin",
    "claude_code_version",
    "client_composed",
    "command_lifecycle",
    "compact_boundary",
    "content_block_delta",
    "control_request",
    "control_response",
    "local/bin/claude",
    "mcp_message",
    "slash_commands",
    "stream-json",
    "stream_event",
    "transcript_mirror",
];

/// What is special to a driver is one module: docs/decisions/0018-the-seam-of-drivers.md.
#[test]
fn nothing_but_its_module_names_what_is_special_to_a_driver() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the server lies in the repository");
    let own: Vec<PathBuf> = CLAUDE_CODE.iter().map(|module| root.join(module)).collect();
    let (mut wrong, mut missing) = (Vec::new(), BTreeSet::from(WORDS));
    for file in BESIDE_DRIVERS.iter().flat_map(|folder| below(&root.join(folder))) {
        let code = code(&fs::read_to_string(&file).expect("a source file"));
        let named = WORDS.iter().filter(|word| code.contains(**word));
        if own.iter().any(|module| file.starts_with(module)) {
            for word in named {
                missing.remove(word);
            }
        } else if !file.ends_with("tests.rs") {
            wrong.extend(named.map(|word| format!("{}: {word}", file.display())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(missing.is_empty(), "words that are no longer the driver's: {missing:?}");
}

#[test]
fn imports_are_found_in_every_spelling() {
    let text = "use crate::config::Config;\nuse crate::{api, cluster::peers};\nuse super::journal::Line;\n\
                // use crate::serve;\nfn f() { crate::doctor::run() }\n#[cfg(test)]\nmod tests { use crate::cli; }\n";
    let found: BTreeSet<String> = imports(text, "crate", "super").into_iter().collect();
    let expected = ["api", "cluster", "config", "doctor", "journal"].map(str::to_owned);
    assert_eq!(found, BTreeSet::from(expected));
}

/// Names of the modules in a folder: its files and its folders.
fn modules(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect("a folder of modules").map(|entry| entry.expect("an entry").path());
    let modules =
        entries.filter(|path| path.extension().is_some_and(|ext| ext == "rs") || path.join("mod.rs").exists());
    let names = modules.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()));
    names.filter(|name| !matches!(name.as_str(), "lib" | "mod")).collect()
}

/// Every source file of a module.
fn files_of(folder: &Path, module: &str) -> Vec<PathBuf> {
    let file = folder.join(format!("{module}.rs"));
    if file.exists() { vec![file] } else { below(&folder.join(module)) }
}

fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a module's folder").map(|entry| entry.expect("an entry").path());
    let files = entries.flat_map(|path| match path.is_dir() {
        true => below(&path),
        false => Vec::from_iter(path.extension().is_some_and(|ext| ext == "rs").then_some(path)),
    });
    files.collect()
}

/// How a file names the folder: `super` once for each step up.
fn depth(folder: &Path, file: &Path) -> String {
    let inner = file.strip_prefix(folder).expect("a file of the folder");
    let is_module = inner.file_name().is_some_and(|name| name == "mod.rs");
    let steps = inner.components().count() - usize::from(is_module);
    vec!["super"; steps].join("::")
}

/// Modules that a text imports from the folder that it knows as `path` or as `relative`. Comments and tests do not count.
fn imports(text: &str, path: &str, relative: &str) -> Vec<String> {
    let code = code(text);
    let mut found = Vec::new();
    for prefix in [format!("{path}::"), format!("{relative}::")] {
        for (start, _) in code.match_indices(&prefix) {
            // `super::` within `super::super::` names another folder.
            if code[..start].ends_with("::") || code[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let rest = &code[start + prefix.len()..];
            match rest.strip_prefix('{') {
                Some(list) => found.extend(heads(list)),
                None => found.extend(head(rest)),
            }
        }
    }
    found
}

/// A text without its comments and tests.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The first name of each item of a list of imports, up to its closing brace.
fn heads(list: &str) -> Vec<String> {
    let (mut depth, mut heads, mut item) = (0, Vec::new(), String::new());
    for c in list.chars() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.extend(head(&std::mem::take(&mut item))),
            _ if depth == 0 => item.push(c),
            _ => {}
        }
    }
    heads.extend(head(&item));
    heads
}

fn head(text: &str) -> Option<String> {
    let name: String = text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}
