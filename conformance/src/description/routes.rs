//! How the target spells paths: a prefix, and routes with names of its own.

use std::collections::BTreeMap;

/// The names in braces of a route.
pub(super) fn names(route: &str) -> Vec<&str> {
    let mut names: Vec<&str> =
        route.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}')).collect();
    names.sort_unstable();
    names
}

/// Translates paths between the contract and a target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes {
    prefix: String,
    /// The contract's route, and the target's. The longest that fits is used.
    pairs: Vec<(String, String)>,
}

impl Routes {
    /// With this prefix, and these routes of the contract with the target's.
    #[must_use]
    pub fn new(prefix: &str, routes: &BTreeMap<String, String>) -> Self {
        let pairs = routes.iter().map(|(ours, theirs)| (ours.clone(), theirs.clone())).collect();
        Self { prefix: prefix.to_owned(), pairs }
    }

    /// Whether paths are the contract's.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.prefix.is_empty() && self.pairs.is_empty()
    }

    /// The target's path for one of the contract, with its query.
    #[must_use]
    pub fn target(&self, path: &str) -> String {
        let pairs = self.pairs.iter().map(|(ours, theirs)| (ours.as_str(), theirs.as_str()));
        format!("{}{}", self.prefix, translated(path, pairs))
    }

    /// The contract's path for one of the target, with its query.
    #[must_use]
    pub fn contract(&self, path: &str) -> String {
        let path =
            path.strip_prefix(&self.prefix).filter(|rest| rest.is_empty() || rest.starts_with('/')).unwrap_or(path);
        translated(path, self.pairs.iter().map(|(ours, theirs)| (theirs.as_str(), ours.as_str())))
    }
}

fn translated<'r>(path: &str, pairs: impl Iterator<Item = (&'r str, &'r str)>) -> String {
    let (plain, query) = path.find('?').map_or((path, ""), |at| path.split_at(at));
    let segments: Vec<&str> = plain.split('/').collect();
    let fitting = pairs.filter_map(|(from, to)| fit(from, to, &segments)).max_by_key(|(length, _)| *length);
    format!("{}{query}", fitting.map_or_else(|| plain.to_owned(), |(_, path)| path))
}

/// The number of segments that `from` covers, and the whole path after it has become `to`.
fn fit(from: &str, to: &str, segments: &[&str]) -> Option<(usize, String)> {
    let pattern: Vec<&str> = from.split('/').collect();
    let covered = segments.get(..pattern.len())?;
    let mut values = BTreeMap::new();
    for (wanted, given) in pattern.iter().zip(covered) {
        if is_name(wanted) && !given.is_empty() {
            values.insert(*wanted, *given);
        } else if wanted != given {
            return None;
        }
    }
    let begin = to.split('/').map(|segment| values.get(segment).copied().unwrap_or(segment));
    let all: Vec<&str> = begin.chain(segments[pattern.len()..].iter().copied()).collect();
    Some((pattern.len(), all.join("/")))
}

fn is_name(segment: &str) -> bool {
    segment.starts_with('{') && segment.ends_with('}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Routes {
        let pairs = [
            ("/api/tenants", "/customers"),
            ("/api/tenants/{t}/conversations/{c}/stream", "/chats/{c}/of/{t}/events"),
            ("/health", "/status"),
        ];
        Routes::new("/v2", &pairs.map(|(ours, theirs)| (ours.to_owned(), theirs.to_owned())).into())
    }

    #[test]
    fn paths_are_translated_both_ways_and_the_longest_route_counts() {
        for (ours, theirs) in [
            ("/api/tenants", "/v2/customers"),
            ("/api/tenants/a/conversations?limit=2", "/v2/customers/a/conversations?limit=2"),
            ("/api/tenants/a/conversations/b/stream?x=/api/tenants", "/v2/chats/b/of/a/events?x=/api/tenants"),
            ("/api/tenantsandmore", "/v2/api/tenantsandmore"),
            ("/health/live", "/v2/status/live"),
            ("/", "/v2/"),
        ] {
            assert_eq!(routes().target(ours), theirs);
            assert_eq!(routes().contract(theirs), ours);
        }
        // A description names parameters in braces; they are kept.
        assert_eq!(routes().contract("/v2/chats/{id}/of/{who}/events"), "/api/tenants/{who}/conversations/{id}/stream");
        assert!(Routes::default().is_plain() && !routes().is_plain());
        assert_eq!(Routes::default().target("/a?b"), "/a?b");
    }
}
