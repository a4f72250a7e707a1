//! The rules of one layer, indexed by host, and small: thousands of tenants may each have dozens.

use super::asked::{Asked, Call};
use super::path;
use super::reach::Listed;
use super::spec::{Place, PolicyError, RuleSpec};
use crate::allow::{Pattern, parse_pattern};
use crate::host::Host;

/// Ports of a pattern without a port.
const DEFAULT_PORTS: [u16; 2] = [80, 443];
/// Methods that a rule names at no cost; a layer may use seven others.
const USUAL: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "REPORT"];
const MOST_UNUSUAL: usize = 7;
const TOO_MANY: &str = "a layer has too many rules or prefixes";

/// A part of [`RuleSet::text`].
type Span = (u32, u32);

/// Rules of hosts, ports, methods and paths. Deny rules win, whatever their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RuleSet {
    /// The rules as they were configured, their hosts, and their prefixes.
    text: Box<str>,
    rules: Box<[Rule]>,
    /// Rules for one host, and rules for the names below a suffix, each ordered by host.
    exact: Box<[u16]>,
    below: Box<[u16]>,
    prefixes: Box<[Span]>,
    /// Methods beyond the usual ones.
    unusual: Box<[Box<str>]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    text: Span,
    host: Span,
    /// 0 if the rule has none.
    port: u16,
    /// A bit for each method; 0 for every method.
    methods: u16,
    /// Which prefixes the rule has: the first, and how many.
    paths: (u16, u16),
    deny: bool,
}

/// What a layer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict<'r> {
    /// Allowed by this rule.
    Allowed(&'r str),
    /// Denied for this reason, by this rule if one decided.
    Denied(&'static str, Option<&'r str>),
}

impl Rule {
    fn is_restricted(&self) -> bool {
        self.methods != 0 || self.paths.1 != 0
    }

    fn has_port(&self, port: u16) -> bool {
        match self.port {
            // A deny rule without a port denies every port.
            0 => self.deny || DEFAULT_PORTS.contains(&port),
            wanted => wanted == port,
        }
    }
}

/// Collects rules.
#[derive(Debug, Default)]
struct Builder {
    text: String,
    rules: Vec<Rule>,
    suffix: Vec<bool>,
    prefixes: Vec<Span>,
    unusual: Vec<Box<str>>,
}

impl Builder {
    fn keep(&mut self, text: &str) -> Result<Span, String> {
        let too_long = || "the rules of a layer have at most 1 MiB of text".to_owned();
        if self.text.len() + text.len() > 1 << 20 {
            return Err(too_long());
        }
        let start = u32::try_from(self.text.len()).map_err(|_| too_long())?;
        self.text.push_str(text);
        Ok((start, u32::try_from(self.text.len()).map_err(|_| too_long())?))
    }

    fn method(&mut self, method: &str) -> Result<u16, String> {
        if let Some(bit) = USUAL.iter().position(|usual| *usual == method) {
            return Ok(1 << bit);
        }
        let token = !method.is_empty() && method.len() <= 32;
        if !token || !method.bytes().all(|byte| byte.is_ascii_uppercase() || b"-_".contains(&byte)) {
            return Err(format!("{:?}: accepted: a method in upper case, for example GET", cut(method)));
        }
        if ["CONNECT", "TRACE", "TRACK"].contains(&method) {
            return Err(format!("{method} never matches: tunnels match rules without methods, TRACE is not forwarded"));
        }
        let known = self.unusual.iter().position(|other| **other == *method);
        let bit = known.unwrap_or(self.unusual.len());
        if bit >= MOST_UNUSUAL {
            return Err(format!("the rules of a layer have at most {MOST_UNUSUAL} methods beyond {USUAL:?}"));
        }
        if known.is_none() {
            self.unusual.push(method.into());
        }
        Ok(1 << (USUAL.len() + bit))
    }

    fn add(&mut self, spec: &RuleSpec) -> Result<(), (Place, String)> {
        let (deny, rest) = spec.host.strip_prefix('!').map_or((false, spec.host.as_str()), |rest| (true, rest));
        let accepted =
            "accepted: a host, *.suffix or an address ([IPv6] in brackets), with an optional :port; ! before it denies";
        let (pattern, port) =
            parse_pattern(rest).ok_or_else(|| (Place::Host, format!("{:?}: {accepted}", cut(&spec.host))))?;
        let (host, suffix) = match &pattern {
            Pattern::Exactly(host) => (host.text(), false),
            Pattern::Below(suffix) => (suffix.as_str().into(), true),
        };
        let at_host = |text| (Place::Host, text);
        // Most rules are written in the form in which hosts are compared, and so need no second copy of their host.
        let text = self.keep(&spec.host).map_err(at_host)?;
        let host = match spec.host.find(&*host).and_then(|at| u32::try_from(at).ok()) {
            Some(at) => (text.0 + at, text.0 + at + u32::try_from(host.len()).unwrap_or(0)),
            None => self.keep(&host).map_err(at_host)?,
        };
        let mut methods = 0;
        for (index, method) in spec.methods.iter().enumerate() {
            methods |= self.method(method).map_err(|text| (Place::Method(index), text))?;
        }
        let paths = self.paths(&spec.paths)?;
        let many = |_| (Place::Host, TOO_MANY.to_owned());
        u16::try_from(self.rules.len()).map_err(many)?;
        self.rules.push(Rule { text, host, port: port.unwrap_or(0), methods, paths, deny });
        self.suffix.push(suffix);
        Ok(())
    }

    /// Keeps the prefixes of a rule: the first, and how many. Those of the rule before are not kept twice.
    fn paths(&mut self, given: &[String]) -> Result<(u16, u16), (Place, String)> {
        let mut prefixes = Vec::with_capacity(given.len());
        for (index, text) in given.iter().enumerate() {
            prefixes.push(path::prefix(text).ok_or_else(|| {
                let accepted = "accepted: a path that begins with / and that every server reads alike: without //, ;, \
                                dot segments, or encoded dots and slashes";
                (Place::Path(index), format!("{:?}: {accepted}", cut(text)))
            })?);
        }
        if let Some(before) = self.rules.last().map(|rule| rule.paths)
            && self.prefixes_of(before).eq(prefixes.iter().map(String::as_str))
        {
            return Ok(before);
        }
        let many = |_| (Place::Host, TOO_MANY.to_owned());
        let first = u16::try_from(self.prefixes.len()).map_err(many)?;
        for (index, prefix) in prefixes.iter().enumerate() {
            let span = self.keep(prefix).map_err(|text| (Place::Path(index), text))?;
            self.prefixes.push(span);
        }
        Ok((first, u16::try_from(prefixes.len()).map_err(many)?))
    }

    fn prefixes_of(&self, (first, count): (u16, u16)) -> impl Iterator<Item = &str> {
        let first = usize::from(first);
        let spans = self.prefixes.get(first..first + usize::from(count)).unwrap_or_default();
        spans.iter().map(|span| self.text.get(span.0 as usize..span.1 as usize).unwrap_or_default())
    }

    fn finish(self) -> RuleSet {
        let Self { text, rules, suffix, prefixes, unusual } = self;
        let host = |rule: &Rule| text.get(rule.host.0 as usize..rule.host.1 as usize).unwrap_or_default();
        let index = |wanted: bool| {
            let all = rules.iter().zip(&suffix).zip(0_u16..).filter(|((_, suffix), _)| **suffix == wanted);
            let mut all: Vec<(&str, u16)> = all.map(|((rule, _), number)| (host(rule), number)).collect();
            all.sort_unstable();
            all.into_iter().map(|(_, number)| number).collect()
        };
        RuleSet {
            exact: index(false),
            below: index(true),
            rules: rules.into(),
            text: text.into(),
            prefixes: prefixes.into(),
            unusual: unusual.into(),
        }
    }
}

/// A text for a message: not longer than is useful.
pub(crate) fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

impl RuleSet {
    pub(crate) fn new(specs: &[RuleSpec], place: impl Fn(usize, Place) -> String) -> Result<Self, PolicyError> {
        let mut builder = Builder::default();
        for (index, spec) in specs.iter().enumerate() {
            let added = builder.add(spec);
            added.map_err(|(at, message)| PolicyError { place: place(index, at), message })?;
        }
        Ok(builder.finish())
    }

    fn part(&self, span: Span) -> &str {
        self.text.get(span.0 as usize..span.1 as usize).unwrap_or_default()
    }

    /// The rules whose host is `host`.
    fn listed<'s>(&'s self, index: &'s [u16], host: &str) -> impl Iterator<Item = &'s Rule> {
        let rule = |number: &u16| self.rules.get(usize::from(*number));
        let name = |number: &u16| rule(number).map_or("", |rule| self.part(rule.host));
        let start = index.partition_point(|number| name(number) < host);
        let rest = index.get(start..).unwrap_or_default();
        let end = rest.partition_point(|number| name(number) == host);
        rest.get(..end).unwrap_or_default().iter().filter_map(rule)
    }

    /// The rules for a host, of any port.
    fn of_host<'s>(&'s self, host: &Host, name: &'s str) -> impl Iterator<Item = &'s Rule> {
        let named = matches!(host, Host::Name(_)) && !self.below.is_empty();
        let dots = name.char_indices().filter(move |(_, c)| named && *c == '.').map(|(at, _)| at + 1);
        let below = dots.flat_map(|at| self.listed(&self.below, name.get(at..).unwrap_or_default()));
        self.listed(&self.exact, name).chain(below)
    }

    /// Judges a request, or a tunnel, to this port of its host.
    pub(crate) fn judge<'s>(&'s self, asked: &Asked<'_>, port: u16) -> Verdict<'s> {
        let mut allowed: Option<&Rule> = None;
        let mut nearest = Nearest::default();
        for rule in self.of_host(asked.host, asked.name.as_ref()).filter(|rule| rule.has_port(port)) {
            let text = self.part(rule.text);
            let applies = match (&asked.call, rule.is_restricted()) {
                (_, false) => Applies::Yes,
                (None, true) => Applies::Unknown("tunnel_not_inspectable"),
                (Some(call), true) => self.applies(rule, call),
            };
            match (rule.deny, applies) {
                (true, Applies::Yes) => return Verdict::Denied("denied_by_rule", Some(text)),
                // Whether the rule denies the request depends on who reads it.
                (true, Applies::Unknown(reason)) => return Verdict::Denied(reason, Some(text)),
                (true, Applies::No(_)) => {}
                (false, Applies::Yes) if allowed.is_none_or(|other| rule.text < other.text) => allowed = Some(rule),
                (false, Applies::Yes) => {}
                (false, Applies::Unknown(reason)) => nearest.note(3, reason, text),
                (false, Applies::No(reason)) => {
                    nearest.note(if reason == "method_not_allowed" { 2 } else { 1 }, reason, text);
                }
            }
        }
        match allowed {
            Some(rule) => Verdict::Allowed(self.part(rule.text)),
            None => nearest
                .0
                .map_or(Verdict::Denied("not_allowed", None), |(_, reason, text)| Verdict::Denied(reason, Some(text))),
        }
    }

    /// Whether the methods and prefixes of the first rule cover a request; yes if there is no rule.
    pub(crate) fn first_applies(&self, call: &Call<'_>) -> Applies {
        self.rules.first().map_or(Applies::Yes, |rule| self.applies(rule, call))
    }

    /// Whether the methods and prefixes of a rule cover a request.
    fn applies(&self, rule: &Rule, call: &Call<'_>) -> Applies {
        let first = usize::from(rule.paths.0);
        let prefixes = self.prefixes.get(first..first + usize::from(rule.paths.1)).unwrap_or_default();
        if !prefixes.is_empty() {
            let Some(path) = call.plain() else { return Applies::Unknown("ambiguous_path") };
            let covers = if rule.deny { path::is_below_in_any_case } else { path::is_below };
            if !prefixes.iter().any(|prefix| covers(path, self.part(*prefix))) {
                // A server that takes its path from a header is asked for another one.
                let elsewhere = rule.deny && call.overrides_path();
                return if elsewhere { Applies::Unknown("path_override") } else { Applies::No("path_not_allowed") };
            }
            if call.overrides_path() {
                return Applies::Unknown("path_override");
            }
        }
        if rule.methods != 0 {
            if call.overrides_method() {
                return Applies::Unknown("method_override");
            }
            if rule.methods & self.bit(call.method, rule.deny) == 0 {
                return Applies::No("method_not_allowed");
            }
        }
        Applies::Yes
    }

    /// The bit of a method. Methods are case-sensitive (RFC 9110, 9.1); a rule that denies does not rely on that.
    fn bit(&self, method: &str, any_case: bool) -> u16 {
        let known = USUAL.iter().copied().chain(self.unusual.iter().map(|method| &**method));
        let same = |name: &str| name == method || (any_case && name.eq_ignore_ascii_case(method));
        known.zip(0_u32..).find(|(name, _)| same(name)).map_or(0, |(_, bit)| 1 << bit)
    }

    /// The rules' hosts and ports.
    pub(crate) fn patterns(&self) -> impl Iterator<Item = Listed<'_>> {
        let of = |index: &'_ [u16], suffix: bool| {
            let numbers: Vec<usize> = index.iter().map(|number| usize::from(*number)).collect();
            numbers.into_iter().filter_map(|number| self.rules.get(number)).map(move |rule| (rule, suffix))
        };
        let all = of(&self.exact, false).chain(of(&self.below, true));
        all.map(|(rule, suffix)| Listed {
            host: self.part(rule.host),
            suffix,
            port: rule.port,
            deny: rule.deny,
            restricted: rule.is_restricted(),
        })
    }

    /// Memory that the rules take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let unusual: usize = self.unusual.iter().map(|method| size_of::<Box<str>>() + method.len()).sum();
        size_of_val(&*self.text)
            + size_of_val(&*self.rules)
            + size_of_val(&*self.exact)
            + size_of_val(&*self.below)
            + size_of_val(&*self.prefixes)
            + unusual
    }
}

/// Whether a rule covers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applies {
    Yes,
    No(&'static str),
    /// It depends on how the request is read.
    Unknown(&'static str),
}

/// The rule that came nearest to allowing a request: it explains the refusal.
#[derive(Default)]
struct Nearest<'r>(Option<(u8, &'static str, &'r str)>);

impl<'r> Nearest<'r> {
    fn note(&mut self, near: u8, reason: &'static str, rule: &'r str) {
        if self.0.is_none_or(|(before, ..)| near > before) {
            self.0 = Some((near, reason, rule));
        }
    }
}
