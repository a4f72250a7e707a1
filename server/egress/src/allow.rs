//! The allow-list: hosts and ports that clients may reach. Denied by default; deny rules win.

use std::str::FromStr;

use crate::host::{Host, split_port};
use crate::policy::{Asked, RuleSet, RuleSpec, Verdict};

/// Patterns of hosts that clients may reach, separated by commas or white space: `host`, `*.suffix` (its subdomains, not the suffix
/// itself) or an address, each with an optional `:port` (80 and 443 where none is given). `!` before a pattern denies; deny rules
/// win.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList {
    rules: RuleSet,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pattern {
    Exactly(Host),
    Below(String),
}

/// A pattern with an optional port.
pub(crate) fn parse_pattern(text: &str) -> Option<(Pattern, Option<u16>)> {
    let (pattern, port) = split_port(text).ok()?;
    Some((Pattern::parse(pattern)?, port))
}

impl Pattern {
    fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("*.") {
            Some(suffix) => match Host::parse(suffix).ok()? {
                Host::Name(name) => Some(Self::Below(name)),
                Host::Address(_) => None,
            },
            None => Host::parse(text).ok().map(Self::Exactly),
        }
    }

    fn matches(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Exactly(wanted), host) => wanted == host,
            (Self::Below(suffix), Host::Name(name)) => {
                name.strip_suffix(suffix.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
            (Self::Below(_), Host::Address(_)) => false,
        }
    }
}

/// A host pattern without a port, as in credential rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPattern(pub(crate) Pattern);

impl HostPattern {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Pattern::parse(text).map(Self)
    }

    pub(crate) fn matches(&self, host: &Host) -> bool {
        self.0.matches(host)
    }
}

impl FromStr for AllowList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let specs: Vec<RuleSpec> = items(text).map(RuleSpec::host).collect();
        let rules = RuleSet::new(&specs, |_, _| String::new()).map_err(|error| error.message)?;
        Ok(Self { rules })
    }
}

/// The items of a list: separated by commas or white space.
pub(crate) fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c == ',' || c.is_whitespace()).filter(|item| !item.is_empty())
}

impl AllowList {
    pub(crate) fn into_rules(self) -> RuleSet {
        self.rules
    }

    pub(crate) fn allows(&self, host: &Host, port: u16) -> bool {
        let asked = Asked { host, name: host.text(), port, call: None };
        matches!(self.rules.judge(&asked, port), Verdict::Allowed(_))
    }

    /// Whether the list allows `host`, in any spelling a client may use, on `port`. Addresses are not looked up.
    #[must_use]
    pub fn allows_host(&self, host: &str, port: u16) -> bool {
        Host::parse(host).is_ok_and(|host| self.allows(&host, port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> AllowList {
        text.parse().expect("a list")
    }

    #[test]
    fn only_listed_hosts_are_allowed() {
        let list = list("api.example.com, *.pypi.example:443 10.0.0.1:8080,[::1]");
        for (host, port, reached) in [
            ("api.example.com", 443, true),
            ("API.example.com.", 80, true),
            ("api.example.com", 8443, false),
            ("xapi.example.com", 443, false),
            ("api.example.com.evil.example", 443, false),
            ("files.pypi.example", 443, true),
            ("a.b.pypi.example", 443, true),
            ("files.pypi.example", 80, false),
            ("pypi.example", 443, false),
            ("evilpypi.example", 443, false),
            ("10.0.0.1", 8080, true),
            ("10.0.0.1", 80, false),
            ("[::1]", 443, true),
            ("127.0.0.1", 443, false),
            ("a\0.pypi.example", 443, false),
        ] {
            assert_eq!(list.allows_host(host, port), reached, "{host}:{port}");
        }
        assert!(!AllowList::default().allows_host("a.example", 443), "default is to deny");
    }

    #[test]
    fn deny_wins() {
        let list = list("*.example.com !secret.example.com !*.internal.example.com:443");
        assert!(list.allows_host("www.example.com", 443));
        assert!(!list.allows_host("secret.example.com", 443));
        assert!(!list.allows_host("a.internal.example.com", 443));
        assert!(list.allows_host("a.internal.example.com", 80));
    }

    #[test]
    fn junk_is_refused_with_what_is_accepted() {
        for bad in ["*", "*.", "a..b", "*.*.b", "a:0", "!", "http://a", "10.0.0.0/8", "*.1.2.3.4", "127.1"] {
            let told = bad.parse::<AllowList>().expect_err(bad);
            assert!(told.contains("accepted"), "{told}");
        }
    }
}
