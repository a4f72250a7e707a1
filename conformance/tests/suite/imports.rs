//! The imports between the modules of the suite have no circles, neither between files nor between folders.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Module path (`["harness", "run"]`) → the module paths that it imports.
type Graph = BTreeMap<Vec<String>, BTreeSet<Vec<String>>>;

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn module(root: &Path, file: &Path) -> Vec<String> {
    let relative = file.strip_prefix(root).expect("below the root").with_extension("");
    let mut path: Vec<String> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if path.last().is_some_and(|last| last == "mod") {
        path.pop();
    }
    path
}

/// The paths that a text names after `root`, with braces expanded, in code that is not only compiled for tests.
fn named(text: &str, root: &str) -> Vec<Vec<String>> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code: String = lines.collect::<Vec<_>>().join(" ");
    code.match_indices(root).flat_map(|(at, _)| expand(&code[at + root.len()..])).collect()
}

/// `a::{b, c::D}` → `a b`, `a c D`. Ends where the path ends.
fn expand(text: &str) -> Vec<Vec<String>> {
    let word: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let rest = &text[word.len()..];
    if let Some(inner) = rest.strip_prefix("::").filter(|_| !word.is_empty()) {
        return expand(inner).into_iter().map(|tail| [vec![word.clone()], tail].concat()).collect();
    }
    let Some(list) = rest.strip_prefix('{').filter(|_| word.is_empty()) else { return vec![vec![word]] };
    let (mut depth, mut items) = (0, vec![String::new()]);
    for c in list.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => items.push(String::new()),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                items.last_mut().expect("an item").push(c);
            }
        }
    }
    items.iter().map(|item| item.trim()).filter(|item| !item.is_empty()).flat_map(expand).collect()
}

fn graph(root: &Path) -> Graph {
    let mut files = Vec::new();
    sources(root, &mut files);
    let modules: BTreeSet<Vec<String>> = files.iter().map(|file| module(root, file)).collect();
    // The longest prefix of a path that is a file; what follows is an item in it.
    let file_of =
        |path: &[String]| (1..=path.len()).rev().map(|n| path[..n].to_vec()).find(|path| modules.contains(path));
    let mut graph = Graph::new();
    for file in &files {
        let (text, own) = (std::fs::read_to_string(file).expect("a source"), module(root, file));
        let parent = own[..own.len().saturating_sub(1)].to_vec();
        let mut paths = named(&text, "crate::");
        paths.extend(named(&text, " super::").into_iter().map(|path| [parent.clone(), path].concat()));
        // A `mod.rs` names its children without a prefix.
        if file.ends_with("mod.rs") {
            let children = modules.iter().filter(|child| child.len() == own.len() + 1 && child.starts_with(&own));
            let used = children.filter(|child| text.contains(&format!("{}::", child[own.len()])));
            paths.extend(used.cloned());
        }
        let imported = paths.iter().filter_map(|path| file_of(path)).filter(|other| *other != own).collect();
        graph.insert(own, imported);
    }
    graph
}

/// A path from a node back to itself.
fn circle(graph: &Graph) -> Option<Vec<Vec<String>>> {
    fn visit(graph: &Graph, node: &Vec<String>, way: &mut Vec<Vec<String>>, done: &mut BTreeSet<Vec<String>>) -> bool {
        if let Some(begin) = way.iter().position(|one| one == node) {
            way.drain(..begin);
            way.push(node.clone());
            return true;
        }
        if !done.contains(node) {
            way.push(node.clone());
            if graph.get(node).into_iter().flatten().any(|next| visit(graph, next, way, done)) {
                return true;
            }
            way.pop();
            done.insert(node.clone());
        }
        false
    }
    let (mut way, mut done) = (Vec::new(), BTreeSet::new());
    graph.keys().any(|node| visit(graph, node, &mut way, &mut done)).then_some(way)
}

/// The same graph between top-level modules.
fn folders(graph: &Graph) -> Graph {
    let mut folders = Graph::new();
    for (module, imported) in graph {
        let own = module[..1].to_vec();
        let others = imported.iter().map(|other| other[..1].to_vec()).filter(|other| *other != own);
        folders.entry(own.clone()).or_default().extend(others);
    }
    folders
}

#[test]
fn no_module_and_no_folder_imports_itself_through_others() {
    let graph = graph(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let imports: usize = graph.values().map(BTreeSet::len).sum();
    assert!(graph.len() > 150 && imports > 500, "only {imports} imports of {} modules were found", graph.len());
    assert_eq!(circle(&graph), None);
    assert_eq!(circle(&folders(&graph)), None);
}

#[test]
fn a_circle_is_found() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("a")).expect("a folder");
    for (file, text) in [
        ("a/mod.rs", "pub mod one;\n"),
        ("a/one.rs", "use crate::{b::Thing, c};\n"),
        ("b.rs", "// use crate::a::one;\nuse std::fmt;\n"),
        ("c.rs", "fn f() { crate::a::one::g() }\n"),
    ] {
        std::fs::write(dir.path().join(file), text).expect("written");
    }
    let way = circle(&graph(dir.path())).expect("a circle");
    assert!(way.contains(&vec!["a".to_owned(), "one".to_owned()]) && way.contains(&vec!["c".to_owned()]), "{way:?}");
    std::fs::write(dir.path().join("c.rs"), "#[cfg(test)]\nmod tests { use crate::a::one; }\n").expect("written");
    assert_eq!(circle(&graph(dir.path())), None);
}
