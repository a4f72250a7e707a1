//! Parses hosts into one canonical spelling, and refuses spellings that two parsers could read differently.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Maximum lengths of a DNS name and of a label, in bytes (RFC 1035, 2.3.4).
const LONGEST_NAME: usize = 253;
const LONGEST_LABEL: usize = 63;

/// A host, normalised.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    /// A DNS name: lower case, ASCII, without a trailing dot.
    Name(String),
    /// An IPv4 or IPv6 address.
    Address(IpAddr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// Why a text is not a valid host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct HostError(&'static str);

impl Host {
    /// The host as text; a name is not copied.
    pub(crate) fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Name(name) => Cow::Borrowed(name),
            Self::Address(_) => Cow::Owned(self.to_string()),
        }
    }

    /// Parses a host. Other spellings that C libraries read as an address (`127.1`, `0x7f.1`, `2130706433`) are refused, as are
    /// brackets around anything but IPv6.
    pub(crate) fn parse(text: &str) -> Result<Self, HostError> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(HostError("a bracket is not closed"))?;
            let address: Ipv6Addr = inner.parse().map_err(|_| HostError("brackets hold an IPv6 address"))?;
            return Ok(Self::Address(address.into()));
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Address(address.into()));
        }
        if text.bytes().any(|b| b <= b' ' || b == 0x7f || b"%@/\\?#[]:<>^|\"`{}".contains(&b)) {
            return Err(HostError("a host has letters, digits, '-', '_' and dots"));
        }
        let text = text.strip_suffix('.').unwrap_or(text);
        let name = if text.is_ascii() {
            text.to_ascii_lowercase()
        } else {
            idna::domain_to_ascii_strict(text).map_err(|_| HostError("not a valid internationalised name"))?
        };
        Self::check(&name)?;
        Ok(Self::Name(name))
    }

    fn check(name: &str) -> Result<(), HostError> {
        if name.is_empty() || name.len() > LONGEST_NAME {
            return Err(HostError("a host has 1 to 253 characters"));
        }
        for label in name.split('.') {
            if label.is_empty() || label.len() > LONGEST_LABEL {
                return Err(HostError("a label of a host has 1 to 63 characters"));
            }
            if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
                return Err(HostError("a host has letters, digits, '-', '_' and dots"));
            }
        }
        // WHATWG URL, "ends in a number": some parsers read such a name as an address.
        let last = name.rsplit('.').next().unwrap_or_default();
        let hexadecimal = last.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
        if last.bytes().all(|b| b.is_ascii_digit()) || hexadecimal {
            return Err(HostError("an address is written as four decimal numbers, or as IPv6 in brackets"));
        }
        Ok(())
    }
}

/// Splits `host:port`; the port is `None` if there is none.
pub(crate) fn split_port(text: &str) -> Result<(&str, Option<u16>), HostError> {
    let colon = match text.rfind(']') {
        Some(end) => text[end..].find(':').map(|at| at + end),
        None => text.rfind(':'),
    };
    let Some(colon) = colon else { return Ok((text, None)) };
    let port = &text[colon + 1..];
    let number = port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse::<u16>().ok()).flatten();
    match number {
        Some(port) if port > 0 => Ok((&text[..colon], Some(port))),
        _ => Err(HostError("a port is a number from 1 to 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_has_one_spelling() {
        let name = |name: &str| Ok(Host::Name(name.into()));
        assert_eq!(Host::parse("API.Example.COM."), name("api.example.com"));
        assert_eq!(Host::parse("Bücher.example"), name("xn--bcher-kva.example"));
        assert_eq!(Host::parse("127.0.0.1"), Ok(Host::Address(Ipv4Addr::LOCALHOST.into())));
        assert_eq!(Host::parse("[::1]"), Ok(Host::Address(Ipv6Addr::LOCALHOST.into())));
    }

    #[test]
    fn an_ambiguous_host_is_refused() {
        for bad in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a b",
            "a\0b",
            "a\r\nb",
            "a%2eb",
            "u@h",
            "[a.example]",
            "[127.0.0.1]",
            "[::1",
            "::1",
            "127.1",
            "0x7f.1",
            "0x7f000001",
            "2130706433",
            "0177.0.0.1",
            "1.2.3.4.5",
            "1.2.3",
            "127.0.0.1.",
            "a.0x1",
            "256.1.1.1",
            "[fe80::1%eth0]",
            "ex ample",
            "a/b",
            "a\\b",
            "a#b",
            "☃☃.\u{0}",
        ] {
            assert!(Host::parse(bad).is_err(), "{bad:?} → {:?}", Host::parse(bad));
        }
        assert!(Host::parse(&format!("{}.example", "a".repeat(64))).is_err());
    }

    #[test]
    fn ports_are_numbers() {
        assert_eq!(split_port("a:80"), Ok(("a", Some(80))));
        assert_eq!(split_port("[::1]:8"), Ok(("[::1]", Some(8))));
        assert_eq!(split_port("[::1]"), Ok(("[::1]", None)));
        for bad in ["a:", "a:0", "a:+80", "a:65536", "a:8 0", "[::1]:"] {
            assert!(split_port(bad).is_err(), "{bad}");
        }
    }
}
