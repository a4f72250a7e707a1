//! Names pinned to addresses, as curl's `--resolve` and `--connect-to` do: for tests and for private endpoints.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::allow::items;
use crate::host::{Host, split_port};

/// Pins of the form `host:port:address` or `host:port:address:port`, separated by commas or white space. A pinned address counts as
/// allowed, whatever network it is in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pins(Vec<(Host, u16, SocketAddr)>);

fn parse(item: &str) -> Option<(Host, u16, SocketAddr)> {
    let end = if item.starts_with('[') { item.find(']')? } else { 0 };
    let first = item[end..].find(':')? + end;
    let (host, rest) = (&item[..first], &item[first + 1..]);
    let (port, rest) = rest.split_once(':')?;
    let (_, port) = split_port(&format!("h:{port}")).ok().filter(|(_, port)| port.is_some())?;
    let port = port?;
    let (address, to) = split_port(rest).ok()?;
    let address: IpAddr = match Host::parse(address).ok()? {
        Host::Address(address) => address,
        Host::Name(_) => return None,
    };
    Some((Host::parse(host).ok()?, port, SocketAddr::new(address, to.unwrap_or(port))))
}

impl FromStr for Pins {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let accepted = "host:port:address or host:port:address:port, IPv6 in brackets";
        let pins = items(text).map(|item| parse(item).ok_or_else(|| format!("{item:?}: accepted: {accepted}")));
        Ok(Self(pins.collect::<Result<_, _>>()?))
    }
}

impl Pins {
    /// The addresses this host and port are pinned to.
    pub(crate) fn get(&self, host: &Host, port: u16) -> Vec<SocketAddr> {
        self.0.iter().filter(|(pinned, from, _)| pinned == host && *from == port).map(|(_, _, to)| *to).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_hosts_resolve_to_their_addresses() {
        let pins: Pins = "a.example:443:127.0.0.1,A.example:80:[::1]:8080 [::2]:443:10.0.0.1:1".parse().expect("pins");
        let get = |host: &str, port| pins.get(&Host::parse(host).expect("a host"), port);
        assert_eq!(get("a.example", 443), ["127.0.0.1:443".parse().expect("an address")]);
        assert_eq!(get("a.example", 80), ["[::1]:8080".parse().expect("an address")]);
        assert_eq!(get("[::2]", 443), ["10.0.0.1:1".parse().expect("an address")]);
        assert_eq!(get("a.example", 8080), []);
        for bad in
            ["a", "a:443", "a:443:b.example", "a:x:127.0.0.1", "a:443:127.0.0.1:0", "a:443:::1", ":443:127.0.0.1"]
        {
            assert!(bad.parse::<Pins>().is_err(), "{bad}");
        }
    }
}
