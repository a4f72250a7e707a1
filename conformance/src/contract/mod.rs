//! The contract: the documents in `docs/contract`, from which clauses, the scenarios that test them, and schemas are read.

pub mod schema;

use std::sync::LazyLock;

/// The page with the version.
const README: &str = include_str!("../../../docs/contract/README.md");

/// Declares the pages of the contract, in the order of its table of contents.
macro_rules! pages {
    ($($name:literal),+) => { [$(($name, include_str!(concat!("../../../docs/contract/", $name)))),+] };
}

const PAGES: [(&str, &str); 16] = pages![
    "http.md",
    "resources.md",
    "health.md",
    "events.md",
    "runs.md",
    "files.md",
    "rooms.md",
    "agent.md",
    "egress.md",
    "tenancy.md",
    "metrics.md",
    "logs.md",
    "settings.md",
    "state.md",
    "timing.md",
    "optional.md"
];

/// How a clause is tested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tested {
    /// By the scenarios with these ids.
    By(Vec<&'static str>),
    /// By none, for this reason.
    Not(String),
}

/// One normative statement.
#[derive(Debug, Clone)]
pub struct Clause {
    /// Its number, `C-RUN-012`. Never used again for another statement.
    pub number: &'static str,
    /// The page it is on.
    pub page: &'static str,
    /// The statement, in one line.
    pub text: String,
    /// The scenarios that test it.
    pub tested: Tested,
}

static CLAUSES: LazyLock<Vec<Clause>> = LazyLock::new(|| {
    PAGES.iter().flat_map(|(page, text)| text.split("\n\n").filter_map(|one| clause(page, one))).collect()
});

/// A paragraph that begins with a number and ends with scenarios or a reason in parentheses.
fn clause(page: &'static str, paragraph: &'static str) -> Option<Clause> {
    let (number, rest) = paragraph.trim().strip_prefix("**")?.split_once("**")?;
    let rest = rest.strip_suffix(')')?;
    let (text, tested) = rest.rsplit_once('(')?;
    let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let tested = match tested.strip_prefix("not tested:") {
        Some(why) => Tested::Not(one_line(why)),
        None => Tested::By(tested.split(',').map(str::trim).collect()),
    };
    number.starts_with("C-").then(|| Clause { number, page, text: one_line(text), tested })
}

/// Every clause, in the order of the contract.
#[must_use]
pub fn clauses() -> &'static [Clause] {
    &CLAUSES
}

/// The clause with this number, in upper or lower case.
#[must_use]
pub fn find(number: &str) -> Option<&'static Clause> {
    CLAUSES.iter().find(|clause| clause.number.eq_ignore_ascii_case(number))
}

/// The clauses that the scenario with this id tests.
#[must_use]
pub fn tested_by(id: &str) -> Vec<&'static Clause> {
    let cites = |clause: &&Clause| matches!(&clause.tested, Tested::By(ids) if ids.contains(&id));
    CLAUSES.iter().filter(cites).collect()
}

/// The version of the contract, for example `1.0`.
#[must_use]
pub fn version() -> &'static str {
    let title = README.lines().next().unwrap_or_default();
    title.rsplit(' ').next().unwrap_or_default()
}

/// Identifies what judges: the scenarios' source and the contract. Reports with the same value were judged alike.
pub const SCENARIOS_VERSION: &str = env!("NAGAYA_SCENARIOS_VERSION");

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// The text of each paragraph that has to be a clause.
    fn numbered() -> impl Iterator<Item = (&'static str, &'static str)> {
        PAGES
            .iter()
            .flat_map(|(page, text)| text.lines().filter(|line| line.contains("**C-")).map(move |line| (*page, line)))
    }

    #[test]
    fn every_page_is_read_and_every_number_is_a_clause() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/contract");
        let names = std::fs::read_dir(folder).expect("the contract").flatten().map(|entry| entry.file_name());
        let pages: BTreeSet<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        let read = PAGES.iter().map(|(page, _)| (*page).to_owned());
        let expected: BTreeSet<String> = read.chain(["README.md".to_owned(), "schema".to_owned()]).collect();
        assert_eq!(pages, expected);
        for (page, line) in numbered() {
            let known = clauses().iter().any(|clause| line.starts_with(&format!("**{}** ", clause.number)));
            assert!(known, "{page}: no clause, which is a paragraph that ends with scenarios or a reason: {line}");
        }
        assert_eq!(numbered().count(), clauses().len());
        assert!(clauses().len() > 200, "only {} clauses", clauses().len());
    }

    #[test]
    fn numbers_are_unique_and_each_page_has_a_prefix_of_its_own_that_the_first_page_lists() {
        let ascend = |two: &[Clause]| two[0].page != two[1].page || two[0].number < two[1].number;
        let astray = clauses().windows(2).find(|two| !ascend(two));
        assert!(astray.is_none(), "numbers ascend on a page: {astray:?}");
        let mut numbers = BTreeSet::new();
        for clause in clauses() {
            assert!(numbers.insert(clause.number), "{} is there twice", clause.number);
            let (prefix, digits) = clause.number.rsplit_once('-').expect("a number");
            assert!(digits.len() == 3 && digits.bytes().all(|digit| digit.is_ascii_digit()), "{}", clause.number);
            let row = format!("| [{0}]({0}) | `{prefix}` |", clause.page);
            assert!(README.contains(&row), "README.md lacks {row:?} for {}", clause.number);
            assert!(
                clause.text.ends_with(['.', '`']) || clause.text.ends_with("**"),
                "{}: {}",
                clause.number,
                clause.text
            );
        }
    }

    #[test]
    fn settings_and_protocol_are_those_of_this_project() {
        let read = |path: &str| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let (page, settings) = (read("docs/contract/settings.md"), read("docs/configuration.md"));
        let is_setting = |word: &&str| word.contains('_') && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
        let rows = page.lines().filter(|line| line.starts_with("| `"));
        let named: Vec<&str> = rows.flat_map(|row| row.split('`').skip(1).step_by(2).filter(is_setting)).collect();
        assert!(named.len() > 40, "{named:?}");
        for name in named {
            assert!(settings.contains(&format!("`{name}`")), "docs/configuration.md has no {name}");
        }
        let protocol = read("workspace-base/protocol/src/lib.rs");
        let version = protocol.split_once("pub const PROTOCOL: u32 = ").and_then(|(_, rest)| rest.split_once(';'));
        let version = version.expect("the version of the protocol").0;
        let page = read("docs/contract/agent.md");
        assert!(page.contains(&format!(": version {version} of the protocol")), "docs/contract/agent.md: {version}");
        assert!(page.contains(&format!("protocol: {version},")), "the answer to GET /health: {version}");
    }

    #[test]
    fn the_version_is_one() {
        let (major, minor) = version().split_once('.').expect("1.0 or later");
        assert!(major.parse::<u32>().is_ok() && minor.parse::<u32>().is_ok(), "{}", version());
        assert_eq!(schema::version(), version());
        assert_eq!(SCENARIOS_VERSION.len(), 16);
    }
}
