//! The address policy: which addresses a host may resolve to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::LazyLock;

use ipnet::IpNet;

use crate::allow::items;

/// Networks that may be reached although their addresses are special.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl FromStr for Networks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let networks = items(text).map(|item| {
            let single = || item.parse::<IpAddr>().ok().map(IpNet::from);
            let network = item.parse().ok().or_else(single);
            network.ok_or_else(|| format!("{item:?}: accepted: networks as 10.0.0.0/8 or fd00::/8, or addresses"))
        });
        Ok(Self(networks.collect::<Result<_, _>>()?))
    }
}

/// IANA's special-purpose registries (RFC 6890 and its updates), with the kind each block is of.
static SPECIAL: LazyLock<Vec<(IpNet, &'static str)>> = LazyLock::new(|| {
    [
        ("0.0.0.0/8", "reserved"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared"),
        ("127.0.0.0/8", "loopback"),
        // Contains the clouds' metadata services,
        ("169.254.0.0/16", "link-local"),
        // except Azure's second one, which has a public address.
        ("168.63.129.16/32", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "documentation"),
        ("192.31.196.0/24", "reserved"),
        ("192.52.193.0/24", "reserved"),
        ("192.88.99.0/24", "reserved"),
        ("192.168.0.0/16", "private"),
        ("192.175.48.0/24", "reserved"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "reserved"),
        ("::1/128", "loopback"),
        ("64:ff9b:1::/48", "private"),
        ("100::/64", "reserved"),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "documentation"),
        ("3fff::/20", "documentation"),
        ("5f00::/16", "reserved"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "reserved"),
        ("ff00::/8", "multicast"),
    ]
    .into_iter()
    .filter_map(|(network, kind)| Some((network.parse().ok()?, kind)))
    .collect()
});

impl Networks {
    /// Why an address may not be reached; `None` if it may.
    pub(crate) fn objection(&self, address: IpAddr) -> Option<&'static str> {
        if self.0.iter().any(|network| network.contains(&address)) {
            return None;
        }
        let special =
            |address: &IpAddr| SPECIAL.iter().find(|(network, _)| network.contains(address)).map(|(_, kind)| *kind);
        match address {
            IpAddr::V4(_) => special(&address),
            IpAddr::V6(v6) => match embedded(v6) {
                // A translator forwards to the IPv4 address, so the policy applies to that.
                Some(v4) => self.objection(v4.into()),
                None => special(&address),
            },
        }
    }
}

/// The IPv4 address that an IPv6 address embeds: mapped and compatible (RFC 4291), NAT64 (RFC 6052), 6to4 (RFC 3056).
/// Teredo (RFC 4380) is refused altogether, with the block that contains it.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let bits = address.to_bits();
    #[allow(clippy::cast_possible_truncation, reason = "a part of the address is what is wanted")]
    let part = |shift: u32| Ipv4Addr::from_bits((bits >> shift) as u32);
    let [a, b, c, d, e, f, ..] = address.segments();
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0xffff) => Some(part(0)),
        (0, 0, 0, 0, 0, 0) if bits > 1 => Some(part(0)),
        (0, 0, 0, 0, 0xffff, 0) => Some(part(0)),
        (0x64, 0xff9b, 0, 0, 0, 0) => Some(part(0)),
        (0x2002, ..) => Some(part(80)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objection(address: &str, networks: &str) -> Option<&'static str> {
        let networks: Networks = networks.parse().expect("networks");
        networks.objection(address.parse().expect("an address"))
    }

    #[test]
    fn special_addresses_are_refused_in_every_form() {
        for address in [
            "0.0.0.0",
            "127.0.0.1",
            "127.255.255.255",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "198.18.0.1",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "2001:db8::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "::ffff:0:10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2001:0:0:0:0:0:80ff:fffe",
        ] {
            assert!(objection(address, "").is_some(), "{address}");
        }
        for address in [
            "1.1.1.1",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
            "2002:101:101::",
        ] {
            assert_eq!(objection(address, ""), None, "{address}");
        }
    }

    #[test]
    fn allowed_networks_are_reachable() {
        assert_eq!(objection("10.1.2.3", "10.1.0.0/16"), None);
        assert_eq!(objection("::ffff:10.1.2.3", "10.1.0.0/16"), None);
        assert!(objection("10.2.0.1", "10.1.0.0/16 192.168.1.1").is_some());
        assert_eq!(objection("192.168.1.1", "192.168.1.1"), None);
        assert!("10.0.0.0/33".parse::<Networks>().is_err());
    }
}
