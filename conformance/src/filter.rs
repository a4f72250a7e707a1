//! The expressions of `--filter`, with the syntax of cargo-nextest's filter sets.
//!
//! ```text
//! expr   := and ( ("or" | "|" | "+") and )*
//! and    := unary ( ("and" | "&" | "-") unary )*      "a - b" is "a and not b"
//! unary  := ("not" | "!") unary | "(" expr ")" | predicate
//! predicate := ("id" | "family" | "severity" | "requires" | "profile") "(" matcher ")" | "all()" | "none()"
//! matcher := "=" exact | "~" part | "#" glob | glob
//! ```
//! Matching is case-insensitive. In a glob `*` stands for any text and `?` for one character.

use std::fmt;

use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use strum::VariantArray as _;

/// A parsed expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// Every scenario.
    All,
    /// No scenario.
    None,
    /// Scenarios with a field that matches.
    Field(Field, Matcher),
    /// Scenarios that the inner expression does not match.
    Not(Box<Filter>),
    /// Scenarios that both match.
    And(Box<Filter>, Box<Filter>),
    /// Scenarios that either matches.
    Or(Box<Filter>, Box<Filter>),
}

/// The field that a predicate compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// [`Scenario::id`]
    Id,
    /// [`Scenario::family`]
    Family,
    /// [`Scenario::severity`]
    Severity,
    /// Any of [`Scenario::requires`]
    Requires,
    /// Any of [`Scenario::profiles`]
    Profile,
}

impl Field {
    /// The values a matcher without wildcards may name, for fields whose values form a closed set.
    fn closed_set(self) -> Option<Vec<&'static str>> {
        match self {
            Self::Id | Self::Family => None,
            Self::Severity => Some(Severity::VARIANTS.iter().map(<&str>::from).collect()),
            Self::Requires => Some(Capability::VARIANTS.iter().map(<&str>::from).collect()),
            Self::Profile => Some(Profile::VARIANTS.iter().map(<&str>::from).collect()),
        }
    }
}

/// How a predicate compares; texts are lower-case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matcher {
    /// The whole text.
    Exact(String),
    /// A substring.
    Contains(String),
    /// A pattern for the whole text.
    Glob(String),
}

impl Matcher {
    fn matches(&self, text: &str) -> bool {
        let text = text.to_ascii_lowercase();
        match self {
            Self::Exact(exact) => text == *exact,
            Self::Contains(part) => text.contains(part.as_str()),
            Self::Glob(pattern) => glob(pattern.as_bytes(), text.as_bytes()),
        }
    }

    /// The only text this can match, if there is only one.
    fn literal(&self) -> Option<&str> {
        match self {
            Self::Exact(text) => Some(text),
            Self::Glob(text) if !text.contains(['*', '?']) => Some(text),
            _ => None,
        }
    }
}

/// Matches `*` with any text and `?` with any character. It backtracks to the latest `*` only, so its time is bounded by the product of the lengths.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match retry {
                Some((after_star, start)) => {
                    retry = Some((after_star, start + 1));
                    (p, t) = (after_star, start + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// What is wrong with an expression, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterError {
    /// Offset in bytes from the start of the expression.
    pub at: usize,
    /// What was wrong there.
    pub message: String,
    text: String,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let column = self.text.get(..self.at).map_or(self.at, |before| before.chars().count());
        write!(f, "{}\n  {}\n  {:column$}^", self.message, self.text, "")
    }
}

impl std::error::Error for FilterError {}

impl Filter {
    /// Parses an expression.
    ///
    /// # Errors
    /// The first error, with its position.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let mut parser = Parser { text, at: 0 };
        let filter = parser.expression(0)?;
        parser.skip_space();
        if parser.at < text.len() {
            return Err(parser.error("expected `and`, `or` or the end of the expression"));
        }
        Ok(filter)
    }

    /// Whether the expression matches this scenario.
    #[must_use]
    pub fn matches(&self, scenario: &Scenario) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Not(inner) => !inner.matches(scenario),
            Self::And(left, right) => left.matches(scenario) && right.matches(scenario),
            Self::Or(left, right) => left.matches(scenario) || right.matches(scenario),
            Self::Field(field, matcher) => match field {
                Field::Id => matcher.matches(scenario.id),
                Field::Family => matcher.matches(scenario.family()),
                Field::Severity => matcher.matches(scenario.severity.into()),
                Field::Requires => scenario.requires.iter().any(|need| matcher.matches(need.into())),
                Field::Profile => scenario.profiles().iter().any(|profile| matcher.matches(profile.into())),
            },
        }
    }
}

/// Deeper nesting is refused, so that no expression can exhaust the stack.
const MAX_DEPTH: usize = 64;

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl Parser<'_> {
    fn error(&self, message: impl Into<String>) -> FilterError {
        FilterError { at: self.at, message: message.into(), text: self.text.to_owned() }
    }

    fn skip_space(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    fn symbol(&mut self, symbol: char) -> bool {
        self.skip_space();
        let there = self.text[self.at..].starts_with(symbol);
        if there {
            self.at += symbol.len_utf8();
        }
        there
    }

    fn peek_word(&mut self) -> &str {
        self.skip_space();
        let rest = &self.text[self.at..];
        &rest[..rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len())]
    }

    fn word(&mut self, word: &str) -> bool {
        let there = self.peek_word() == word;
        if there {
            self.at += word.len();
        }
        there
    }

    fn expression(&mut self, depth: usize) -> Result<Filter, FilterError> {
        if depth > MAX_DEPTH {
            return Err(self.error(format!("nested deeper than {MAX_DEPTH}")));
        }
        let mut left = self.conjunction(depth)?;
        while self.word("or") || self.symbol('|') || self.symbol('+') {
            left = Filter::Or(Box::new(left), Box::new(self.conjunction(depth)?));
        }
        Ok(left)
    }

    fn conjunction(&mut self, depth: usize) -> Result<Filter, FilterError> {
        let mut left = self.unary(depth)?;
        loop {
            let right = if self.word("and") || self.symbol('&') {
                self.unary(depth)?
            } else if self.symbol('-') {
                Filter::Not(Box::new(self.unary(depth)?))
            } else {
                return Ok(left);
            };
            left = Filter::And(Box::new(left), Box::new(right));
        }
    }

    fn unary(&mut self, depth: usize) -> Result<Filter, FilterError> {
        if depth > MAX_DEPTH {
            return Err(self.error(format!("nested deeper than {MAX_DEPTH}")));
        }
        if self.word("not") || self.symbol('!') {
            return Ok(Filter::Not(Box::new(self.unary(depth + 1)?)));
        }
        if self.symbol('(') {
            let inner = self.expression(depth + 1)?;
            return if self.symbol(')') { Ok(inner) } else { Err(self.error("expected `)`")) };
        }
        self.predicate()
    }

    fn predicate(&mut self) -> Result<Filter, FilterError> {
        let name = self.peek_word().to_owned();
        let field = match name.as_str() {
            "id" => Some(Field::Id),
            "family" => Some(Field::Family),
            "severity" => Some(Field::Severity),
            "requires" => Some(Field::Requires),
            "profile" => Some(Field::Profile),
            "all" | "none" => None,
            _ => {
                return Err(self.error(
                    "expected id(…), family(…), severity(…), requires(…), profile(…), all(), none(), `not` or `(`",
                ));
            }
        };
        self.at += name.len();
        if !self.symbol('(') {
            return Err(self.error(format!("expected `(` after `{name}`")));
        }
        let start = self.at;
        let Some(length) = self.text[start..].find(')') else {
            return Err(self.error(format!("`{name}(` is not closed")));
        };
        let argument = self.text[start..start + length].trim();
        let Some(field) = field else {
            if !argument.is_empty() {
                return Err(self.error(format!("{name}() takes nothing")));
            }
            self.at = start + length + 1;
            return Ok(if name == "all" { Filter::All } else { Filter::None });
        };
        let (kind, value) = match argument.chars().next() {
            Some(kind @ ('=' | '~' | '#')) => (kind, argument[1..].trim()),
            _ => ('#', argument),
        };
        if value.is_empty() {
            return Err(self.error(format!("{name}() needs something to match")));
        }
        let value = value.to_ascii_lowercase();
        let matcher = match kind {
            '=' => Matcher::Exact(value),
            '~' => Matcher::Contains(value),
            _ => Matcher::Glob(value),
        };
        if let (Some(known), Some(literal)) = (field.closed_set(), matcher.literal())
            && !known.contains(&literal)
        {
            return Err(self.error(format!("no such {name}: there are {}", known.join(", "))));
        }
        self.at = start + length + 1;
        Ok(Filter::Field(field, matcher))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(id: &'static str, severity: Severity, profile: Profile) -> Scenario {
        Scenario::new(id, "", "", |_| Box::pin(async { Ok(()) }))
            .severity(severity)
            .requires(&[Capability::Docker, Capability::Model])
            .profile(profile)
    }

    fn means(expression: &str, id: &'static str) -> bool {
        let filter = Filter::parse(expression).unwrap_or_else(|error| panic!("{error}"));
        filter.matches(&scenario(id, Severity::High, Profile::Host))
    }

    #[test]
    fn matchers() {
        assert!(means("id(BUG-01)", "BUG-01"));
        assert!(!means("id(BUG-01)", "BUG-011"), "without wildcards a glob is the whole text");
        assert!(means("id(bug-*)", "BUG-13"));
        assert!(means("id(#b?g-1*3)", "BUG-13"));
        assert!(means("id(~13)", "BUG-13"));
        assert!(!means("id(=BUG-1)", "BUG-13"));
        assert!(!means("id(=BUG-*)", "BUG-13"), "= has no wildcards");
        assert!(means("family(EGR)", "EGR-001"));
        assert!(means("severity(high)", "X-1") && !means("severity(low)", "X-1"));
        assert!(means("requires(model)", "X-1") && !means("requires(launch)", "X-1"));
        assert!(means("profile(full)", "X-1") && means("profile(host)", "X-1"));
        assert!(!means("profile(core)", "X-1"), "a host scenario is in host and full only");
    }

    #[test]
    fn globs_backtrack() {
        assert!(glob(b"*a*b", b"xaab"));
        assert!(glob(b"a*b*c", b"a-b-b-c"));
        assert!(!glob(b"a*b*c", b"a-c-b"));
        assert!(glob(b"*", b"") && glob(b"", b"") && !glob(b"?", b""));
        assert!(!glob(b"*a*a*a*a*a*a*a*a*b", &[b'a'; 2000]));
    }

    #[test]
    fn and_binds_tighter_than_or_and_not_tightest() {
        assert!(means("family(A) or family(B) and severity(low)", "A-1"));
        assert!(!means("(family(A) or family(B)) and severity(low)", "A-1"));
        assert!(means("not family(A) or family(A)", "A-1"));
        assert!(!means("not (family(A) or family(B))", "A-1"));
        assert!(means("!family(B)&family(A)|family(C)", "A-1"));
        assert!(means("family(A) - id(A-2)", "A-1") && !means("family(A) - id(A-1)", "A-1"));
        assert!(means("not not all()", "A-1") && !means("none()", "A-1"));
    }

    #[test]
    fn faults_name_their_place() {
        let fault = |text: &str| Filter::parse(text).expect_err(text);
        assert_eq!(fault("").at, 0);
        assert_eq!(fault("id(A) id(B)").at, 6);
        assert_eq!(fault("id(A) and").at, 9);
        assert!(fault("(id(A)").message.contains("`)`"));
        assert!(fault("id(A").message.contains("not closed"));
        assert!(fault("id()").message.contains("needs something"));
        assert!(fault("name(x)").message.contains("expected id("));
        assert!(fault("severity(hgh)").message.contains("critical, high"));
        assert!(fault("all(x)").message.contains("takes nothing"));
        assert!(Filter::parse("severity(~hi)").is_ok(), "a part need not be a whole value");
        assert!(fault(&format!("{}all(){}", "(".repeat(5000), ")".repeat(5000))).message.contains("deeper"));
        assert!(fault(&"not ".repeat(5000)).message.contains("deeper"));
        assert!(fault("é(").to_string().contains('^'));
    }
}
