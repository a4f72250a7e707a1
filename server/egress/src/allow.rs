//! The allow-list: hosts and ports that clients may reach. Denied by default; deny rules win.

use std::str::FromStr;

use crate::host::{Host, split_port};

/// Ports of a pattern without a port.
const DEFAULT_PORTS: [u16; 2] = [80, 443];

/// Patterns of hosts that clients may reach, separated by commas or white space: `host`, `*.suffix` (its subdomains, not the suffix
/// itself) or an address, each with an optional `:port` (80 and 443 where none is given). `!` before a pattern denies; deny rules
/// win.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    text: String,
    deny: bool,
    pattern: Pattern,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Exactly(Host),
    Below(String),
}

/// What the list says about a host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Allowed by this rule.
    Allowed(String),
    /// Denied by this rule.
    DeniedBy(String),
    /// No rule matches.
    Unlisted,
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
pub(crate) struct HostPattern(Pattern);

impl HostPattern {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Pattern::parse(text).map(Self)
    }

    pub(crate) fn matches(&self, host: &Host) -> bool {
        self.0.matches(host)
    }
}

impl Rule {
    fn parse(text: &str) -> Option<Self> {
        let (deny, rest) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
        let (pattern, port) = split_port(rest).ok()?;
        Some(Self { text: text.to_owned(), deny, pattern: Pattern::parse(pattern)?, port })
    }

    fn matches(&self, host: &Host, port: u16) -> bool {
        let port = match self.port {
            Some(wanted) => wanted == port,
            // A deny rule without a port denies every port.
            None => self.deny || DEFAULT_PORTS.contains(&port),
        };
        port && self.pattern.matches(host)
    }
}

impl FromStr for AllowList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rules = items(text).map(|item| {
            let accepted =
                "a host, *.suffix or an address ([IPv6] in brackets), with an optional :port; ! before it denies";
            Rule::parse(item).ok_or_else(|| format!("{item:?}: accepted: {accepted}"))
        });
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }
}

/// The items of a list: separated by commas or white space.
pub(crate) fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c == ',' || c.is_whitespace()).filter(|item| !item.is_empty())
}

impl AllowList {
    pub(crate) fn verdict(&self, host: &Host, port: u16) -> Verdict {
        let find = |deny| self.rules.iter().find(|rule| rule.deny == deny && rule.matches(host, port));
        match (find(true), find(false)) {
            (Some(rule), _) => Verdict::DeniedBy(rule.text.clone()),
            (None, Some(rule)) => Verdict::Allowed(rule.text.clone()),
            (None, None) => Verdict::Unlisted,
        }
    }

    /// Whether the list allows `host`, in any spelling a client may use, on `port`. Addresses are not looked up.
    #[must_use]
    pub fn allows_host(&self, host: &str, port: u16) -> bool {
        Host::parse(host).is_ok_and(|host| matches!(self.verdict(&host, port), Verdict::Allowed(_)))
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
