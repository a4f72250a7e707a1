//! What of a policy can never take effect, because a layer around it does not allow it.

use super::rules::{RuleSet, cut};
use super::spec::{PolicyError, PolicySpec};
use super::{Layer, Policy};
use crate::allow::{Pattern, parse_pattern};

/// Ports that a rule without a port is for.
pub(super) const WEB: [u16; 2] = [80, 443];

/// The rules and credentials of a policy that can never take effect, each with its place.
pub(crate) fn unreachable(operator: &Layer, spec: &PolicySpec, policy: &Policy) -> Vec<PolicyError> {
    let layers: Vec<&Layer> = std::iter::once(operator).chain(&policy.layers).collect();
    let mut found = Vec::new();
    for (index, layer) in spec.layers.iter().enumerate() {
        let around = layers.get(..=index).unwrap_or_default();
        for (number, rule) in layer.rules.iter().enumerate().filter(|(_, rule)| !rule.host.starts_with('!')) {
            let Some((pattern, port)) = parse_pattern(&rule.host) else { continue };
            let ports = port.map_or(WEB.to_vec(), |port| vec![port]);
            if let Some(outer) = around.iter().find(|outer| !outer.may_allow(&pattern, Some(&ports))) {
                let message =
                    format!("{:?} never matches: the layer {:?} does not allow it", cut(&rule.host), outer.name);
                found.push(PolicyError::new(format!("layers[{index}].rules[{number}].host"), message));
            }
        }
    }
    for (index, credential) in spec.credentials.iter().enumerate() {
        let (pattern, port) = credential.host();
        let ports = port.map(|port| [port]);
        let ports = ports.as_ref().map(<[u16; 1]>::as_slice);
        if let Some(outer) = layers.iter().find(|outer| !outer.may_allow(pattern, ports)) {
            let message = format!("its host may not be reached: the layer {:?} does not allow it", outer.name);
            found.push(PolicyError::new(format!("credentials[{index}].host"), message));
        }
    }
    found
}

impl Layer {
    /// Whether some host of `pattern` may be allowed on one of `ports`, or on any port.
    pub(super) fn may_allow(&self, pattern: &Pattern, ports: Option<&[u16]>) -> bool {
        match self.allows_rest {
            true => ports.unwrap_or(&WEB).iter().any(|port| !self.rules.denies_all(pattern, *port)),
            false => self.rules.may_allow(pattern, ports),
        }
    }
}

impl RuleSet {
    /// Whether a rule denies every host of `pattern` on a port.
    fn denies_all(&self, pattern: &Pattern, port: u16) -> bool {
        self.patterns().any(|rule| rule.deny && !rule.restricted && rule.has_port(port) && covers_all(&rule, pattern))
    }

    /// Whether some host of `pattern` may be allowed on one of `ports`, or on any port.
    fn may_allow(&self, pattern: &Pattern, ports: Option<&[u16]>) -> bool {
        self.patterns().filter(|listed| !listed.deny).any(|listed| {
            let on = |port: u16| {
                let denied = |other: &Listed<'_>| {
                    other.deny && !other.restricted && other.has_port(port) && covers(other, pattern, &listed)
                };
                listed.has_port(port) && !self.patterns().any(|other| denied(&other))
            };
            overlap(&listed, pattern)
                && match ports {
                    Some(ports) => ports.iter().any(|port| on(*port)),
                    None => listed.ports().iter().any(|port| on(*port)),
                }
        })
    }
}

/// A rule, as far as its host and port go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listed<'r> {
    pub(crate) host: &'r str,
    pub(crate) suffix: bool,
    /// 0 for none.
    pub(crate) port: u16,
    pub(crate) deny: bool,
    pub(crate) restricted: bool,
}

impl Listed<'_> {
    fn ports(&self) -> Vec<u16> {
        if self.port == 0 { WEB.to_vec() } else { vec![self.port] }
    }

    fn has_port(&self, port: u16) -> bool {
        match self.port {
            0 => self.deny || WEB.contains(&port),
            own => own == port,
        }
    }
}

fn is_below(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

/// Whether a rule and a pattern have a host in common.
fn overlap(listed: &Listed<'_>, pattern: &Pattern) -> bool {
    match (pattern, listed.suffix) {
        (Pattern::Exactly(host), false) => *host.text() == *listed.host,
        (Pattern::Exactly(host), true) => is_below(&host.text(), listed.host),
        (Pattern::Below(suffix), false) => is_below(listed.host, suffix),
        (Pattern::Below(suffix), true) => {
            suffix == listed.host || is_below(suffix, listed.host) || is_below(listed.host, suffix)
        }
    }
}

/// Whether a rule that denies covers every host that `pattern` and `allowed` have in common.
fn covers(deny: &Listed<'_>, pattern: &Pattern, allowed: &Listed<'_>) -> bool {
    covers_all(deny, pattern) || covers_host(deny, allowed.host, allowed.suffix)
}

/// Whether a rule covers every host of `pattern`.
fn covers_all(rule: &Listed<'_>, pattern: &Pattern) -> bool {
    match pattern {
        Pattern::Exactly(name) => covers_host(rule, &name.text(), false),
        Pattern::Below(suffix) => covers_host(rule, suffix, true),
    }
}

/// Whether a rule covers a host, or all hosts below a suffix.
fn covers_host(rule: &Listed<'_>, name: &str, suffix: bool) -> bool {
    match (suffix, rule.suffix) {
        (false, false) => name == rule.host,
        (false, true) => is_below(name, rule.host),
        (true, false) => false,
        (true, true) => name == rule.host || is_below(name, rule.host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{LayerSpec, RuleSpec};

    fn layer(name: &str, rules: &str) -> LayerSpec {
        let rules = rules.split_whitespace().map(RuleSpec::host).collect();
        LayerSpec { name: name.into(), rules, ..LayerSpec::default() }
    }

    fn places(operator: &str, tenant: &str, conversation: &str) -> Vec<String> {
        let policy = |layers: Vec<LayerSpec>| {
            let spec = PolicySpec { layers, ..PolicySpec::default() };
            (Policy::new(spec.clone()).expect("a policy"), spec)
        };
        let (ceiling, _) = policy(vec![layer("operator", operator)]);
        let (policy, spec) = policy(vec![layer("tenant", tenant), layer("conversation", conversation)]);
        unreachable(&ceiling.layers[0], &spec, &policy).into_iter().map(|error| error.place).collect()
    }

    #[test]
    fn rules_beyond_the_layers_around_them_are_found() {
        let none: [&str; 0] = [];
        for (operator, tenant, conversation, found) in [
            (
                "a.example *.b.example",
                "a.example x.b.example *.b.example *.x.b.example *.example",
                "a.example",
                &none[..],
            ),
            (
                "a.example",
                "b.example a.example a.example:8443",
                "",
                &["layers[0].rules[0].host", "layers[0].rules[2].host"],
            ),
            ("*.example", "a.example", "a.example b.example", &["layers[1].rules[1].host"]),
            ("*.example !secret.example", "secret.example open.example", "", &["layers[0].rules[0].host"]),
            (
                "*.example !*.secret.example",
                "*.secret.example x.secret.example",
                "",
                &["layers[0].rules[0].host", "layers[0].rules[1].host"],
            ),
            ("a.example !a.example:443", "a.example a.example:443", "", &["layers[0].rules[1].host"]),
            ("*.example", "example", "", &["layers[0].rules[0].host"]),
            ("10.0.0.1:80", "10.0.0.1:80 10.0.0.2:80", "!anything.example", &["layers[0].rules[1].host"]),
        ] {
            assert_eq!(places(operator, tenant, conversation), found, "{operator} | {tenant} | {conversation}");
        }
    }
    #[test]
    fn a_layer_that_only_denies_allows_the_rest() {
        let denies = LayerSpec { allows_rest: true, ..layer("tenant", "!a.example !*.b.example !c.example:443") };
        let policy = Policy::new(PolicySpec { layers: vec![denies], ..PolicySpec::default() }).expect("a policy");
        let ceiling = LayerSpec { allows_rest: true, ..layer("operator", "") };
        let ceiling = Policy::new(PolicySpec { layers: vec![ceiling], ..PolicySpec::default() }).expect("a policy");
        for (pattern, reached) in [
            ("a.example", false),
            ("*.a.example", true),
            ("x.b.example", false),
            ("*.x.b.example", false),
            ("b.example", true),
            ("c.example", true),
            ("c.example:443", false),
            ("d.example:8080", true),
        ] {
            let (parsed, port) = parse_pattern(pattern).expect(pattern);
            assert_eq!(policy.meets(&ceiling.layers[0], &parsed, port), reached, "{pattern}");
        }
        assert!(!Policy::closed().meets(&ceiling.layers[0], &parse_pattern("d.example").expect("a host").0, None));
    }
}
