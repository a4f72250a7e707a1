//! The Messages API, of Anthropic or of a gateway that speaks it: its endpoint.

use std::fmt;

use http::Uri;

/// Base URL of Anthropic's own API.
pub const ANTHROPIC: &str = "https://api.anthropic.com";

/// What is accepted as an endpoint.
const ACCEPTED: &str =
    "accepted: https://HOST[:PORT][/PATH] without user, query and a final /v1, for example https://api.anthropic.com";

/// An endpoint of the Messages API: `https://HOST[:PORT][/PATH]`, below which the driver calls `/v1/messages`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Host in lower case.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Path below which `/v1/messages` is, without a slash at its end; empty for none.
    pub path: String,
}

impl Endpoint {
    /// Anthropic's own.
    #[must_use]
    pub fn anthropics() -> Self {
        Self { host: "api.anthropic.com".into(), port: 443, path: String::new() }
    }

    /// Reads a base URL.
    ///
    /// # Errors
    /// It is none, or not one by HTTPS: a credential is sent by TLS only.
    pub fn parse(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|_| ACCEPTED.to_owned())?;
        let authority = uri.authority().ok_or(ACCEPTED)?;
        let path = uri.path().trim_end_matches('/');
        let is_plain = uri.scheme_str() == Some("https") && uri.query().is_none() && !authority.as_str().contains('@');
        // `http` drops a fragment in silence.
        if !is_plain || authority.host().is_empty() || text.contains('#') || path.ends_with("/v1") {
            return Err(ACCEPTED.into());
        }
        Ok(Self {
            host: authority.host().to_ascii_lowercase(),
            port: match authority.as_str().rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
                Some((_, port)) => port.parse().map_err(|_| ACCEPTED.to_owned())?,
                None => 443,
            },
            path: path.to_owned(),
        })
    }

    /// Path below which the API is; empty for none.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Host, and the port where it is not that of HTTPS.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.port == 443 { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }

    /// Its URL for the driver: plain HTTP on purpose, which the egress proxy upgrades to TLS.
    #[must_use]
    pub fn in_plain(&self) -> String {
        format!("http://{}{}", self.authority(), self.path)
    }

    /// Whether it is Anthropic's own.
    #[must_use]
    pub fn is_anthropics(&self) -> bool {
        self.host == "api.anthropic.com"
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_are_read() {
        for (text, shown, authority) in [
            ("https://api.anthropic.com", "https://api.anthropic.com", "api.anthropic.com"),
            ("https://API.anthropic.com/", "https://api.anthropic.com", "api.anthropic.com"),
            ("https://gw.example/llm/anthropic/", "https://gw.example/llm/anthropic", "gw.example"),
            ("https://gw.example:8443/a", "https://gw.example:8443/a", "gw.example:8443"),
            ("https://gw.example:443", "https://gw.example", "gw.example"),
            ("https://[fd00::1]:8443", "https://[fd00::1]:8443", "[fd00::1]:8443"),
            ("https://[fd00::1]/a", "https://[fd00::1]/a", "[fd00::1]"),
        ] {
            let endpoint = Endpoint::parse(text).expect(text);
            assert_eq!((endpoint.to_string().as_str(), endpoint.authority().as_str()), (shown, authority));
        }
        for bad in [
            "",
            "api.anthropic.com",
            "http://gw.example",
            "https://",
            "https://user:hunter2@gw.example",
            "https://gw.example/?a=b",
            "https://gw.example/#a",
            "https://gw.example:0x1/",
            "https://gw.example:70000/",
            "https://gw.example/v1",
            "https://gw.example/a/v1/",
            "https://gw example/",
        ] {
            let told = Endpoint::parse(bad).expect_err(bad);
            assert!(told.contains("accepted") && !told.contains("hunter2"), "{bad}: {told}");
        }
    }

    #[test]
    fn the_driver_speaks_plain_http() {
        let of = |url: &str| Endpoint::parse(url).expect(url).in_plain();
        assert_eq!(of(ANTHROPIC), "http://api.anthropic.com");
        assert_eq!(of("https://gw.example:8443/a"), "http://gw.example:8443/a");
        assert_eq!(Endpoint::parse(ANTHROPIC), Ok(Endpoint::anthropics()));
    }
}
