//! The Messages API, of Anthropic or of a gateway that speaks it: its endpoint, and the environment that leads the driver there.

use std::fmt;
use std::time::Duration;

use http::Uri;

use crate::bedrock::MODEL_RETRIES;

/// Base URL of Anthropic's own API.
pub const ANTHROPIC: &str = "https://api.anthropic.com";

/// What the driver is given as its credential. It refuses to start without one; the egress proxy removes it and adds the real one.
///
/// It is a bearer token and not a key: with a key, the driver asks Anthropic for its organisation's settings and limits before
/// each run, in a tunnel that the proxy refuses, and repeats that for twenty seconds.
pub const PLACEHOLDER: &str = "the-egress-proxy-adds-the-credential";

/// Every variable that [`environment`] may set, and those under which somebody could give the driver another credential.
pub const VARIABLES: [&str; 12] = [
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "ANTHROPIC_BASE_URL",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL",
    "ANTHROPIC_DEFAULT_OPUS_MODEL",
    "ANTHROPIC_DEFAULT_SONNET_MODEL",
    "CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS",
    "CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS",
    "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK",
    "CLAUDE_CODE_MAX_RETRIES",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_ENABLE_BYTE_WATCHDOG",
];

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

/// Environment of a driver that is to call models at an endpoint. It holds no secret: the calls leave the workspace with
/// [`PLACEHOLDER`], and the egress proxy adds the credential.
///
/// A call that fails is repeated at most [`MODEL_RETRIES`] times, and an answer that stalls for `idle` is given up, as for Bedrock.
#[must_use]
pub fn environment(endpoint: &Endpoint, idle: Duration) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        // Plain HTTP on purpose: the egress proxy upgrades it to TLS.
        ("ANTHROPIC_BASE_URL", format!("http://{}{}", endpoint.authority(), endpoint.path)),
        ("ANTHROPIC_AUTH_TOKEN", PLACEHOLDER.into()),
        ("CLAUDE_CODE_MAX_RETRIES", MODEL_RETRIES.to_string()),
        ("CLAUDE_ENABLE_BYTE_WATCHDOG", "1".into()),
        ("CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS", idle.as_millis().to_string()),
        ("CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK", "1".into()),
    ];
    if !endpoint.is_anthropics() {
        variables.extend([
            // The driver would send headers and fields that Anthropic is trying out, which a gateway may refuse.
            ("CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS", "1".into()),
        ]);
    }
    variables
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
    fn a_gateway_gets_nothing_that_anthropic_is_trying_out() {
        let of = |url: &str| environment(&Endpoint::parse(url).expect(url), Duration::from_secs(10));
        let value = |list: &[(&str, String)], name: &str| {
            list.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
        };
        let (own, gateway) = (of(ANTHROPIC), of("https://gw.example:8443/a"));
        assert_eq!(value(&own, "ANTHROPIC_BASE_URL").as_deref(), Some("http://api.anthropic.com"));
        assert_eq!(value(&gateway, "ANTHROPIC_BASE_URL").as_deref(), Some("http://gw.example:8443/a"));
        assert!(value(&gateway, "CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS").is_some());
        assert_eq!(value(&own, "CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS"), None);
        assert_eq!(value(&own, "CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS").as_deref(), Some("10000"));
        for (name, _) in own.iter().chain(&gateway) {
            assert!(VARIABLES.contains(name), "{name} would stay for another provider");
        }
        assert_eq!(Endpoint::parse(ANTHROPIC), Ok(Endpoint::anthropics()));
        // With a key the driver asks for settings and limits of its organisation before each run.
        assert!(own.iter().all(|(name, _)| *name != "ANTHROPIC_API_KEY"));
    }
}
