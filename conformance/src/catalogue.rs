//! The catalogue as a page of the docs: every scenario, and every broken deployment with what must see it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::mutants;
use crate::scenario::{Capability, Scenario};
use crate::scenarios::{self, FAMILIES};

/// The page, in Markdown.
#[must_use]
pub fn page() -> String {
    let (scenarios, mutants) = (scenarios::all(), mutants::all());
    let proven: BTreeSet<&str> = mutants.iter().flat_map(|one| one.red).map(|red| red.scenario).collect();
    let mut out = format!(
        "<!-- Made by `make docs`; a test fails while it is stale. -->\n# The catalogue\n\n{} scenarios, and {} broken deployments \
         that turn {} of them red.\n\nA profile holds what it names and all smaller ones: `core` needs HTTP only, `host` also the Docker \
         socket and the rooms' directories, `full` also starts and breaks deployments.\n",
        scenarios.len(),
        mutants.len(),
        proven.len()
    );
    for (family, about) in FAMILIES {
        let members: Vec<&Scenario> = scenarios.iter().copied().filter(|one| one.family() == family).collect();
        if members.is_empty() {
            continue;
        }
        let _ = write!(
            out,
            "\n## {family}: {about}\n\n| id | what is shown | requirement | profile | needs | severity |\n| --- | --- | --- | --- | --- | --- |\n"
        );
        for one in members {
            let needs: Vec<&str> = one.requires.iter().copied().map(Capability::name).collect();
            let destructive = if one.destructive { ", destructive" } else { "" };
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {}{destructive} |",
                one.id,
                cell(one.title),
                cell(one.requirement),
                one.profile,
                needs.join(", "),
                one.severity
            );
        }
    }
    out.push_str(
        "\n## Broken deployments\n\n`nagaya-conformance selftest` launches each and requires that the named scenarios turn red, by their \
         assertion and for this very reason, while a good deployment is green in all of them. Where the defect sits: at the server's \
         `start`, between clients and its `API`, between it and the `engine`, in the rooms' `image`, between its proxy and the `outside`, \
         or beside its rooms' `sockets`.\n\n| broken deployment | what is wrong | where | turns red |\n| --- | --- | --- | --- |\n",
    );
    for one in mutants {
        let reds: Vec<&str> = one.red.iter().map(|red| red.scenario).collect();
        let _ = writeln!(out, "| {} | {} | {} | {} |", one.id, cell(one.title), one.places(), reds.join(", "));
    }
    out
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_the_docs_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/conformance-catalogue.md");
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(written == page(), "docs/conformance-catalogue.md is stale: run `make docs`");
    }
}
