//! Addresses that tenants give.

use url::Url;

/// Host and port of an `https` address, as rules name them; `None` if the text is none, or has a user, a password or a fragment.
pub(super) fn https_host(text: &str) -> Option<String> {
    let url = Url::parse(text).ok().filter(|url| url.scheme() == "https" && url.fragment().is_none())?;
    if !url.username().is_empty() || url.password().is_some() {
        return None;
    }
    Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_https_addresses_have_a_host() {
        assert_eq!(https_host("https://mcp.example/sse?a=b").as_deref(), Some("mcp.example:443"));
        assert_eq!(https_host("https://[2001:db8::1]:8443/").as_deref(), Some("[2001:db8::1]:8443"));
        for junk in
            ["http://a.example", "https://", "https://u@a.example", "https://:p@a.example", "https://a.example/#f", "a"]
        {
            assert_eq!(https_host(junk), None, "{junk}");
        }
    }
}
