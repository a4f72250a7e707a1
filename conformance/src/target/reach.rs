//! Reaches a target that the suite did not launch: its URL, its certificate, and the key for it.

use anyhow::{Context as _, bail};
use serde_json::json;

use crate::client::http::Api;
use crate::harness::exchanges::{Exchanges, Secrets};
use crate::harness::options::Options;
use crate::harness::trust::Trust;

/// Where operators' keys come from, for a message.
const OPERATORS_KEY: &str = "give an operator's key (--api-key, or NAGAYA_CONFORMANCE_API_KEY)";

/// Checks that a URL can be one of a deployment.
///
/// # Errors
/// It cannot, with the cure.
pub fn check_url(target: &str, options: &Options) -> anyhow::Result<()> {
    let Some((scheme, rest)) = target.split_once("://") else {
        bail!(
            "--target {target}: the scheme is missing: --target http://{target}, or https://{target} if it speaks TLS"
        );
    };
    if !matches!(scheme, "http" | "https") {
        bail!("--target {target}: {scheme} is not a scheme of this suite: give http://host:port or https://host:port");
    }
    if rest.is_empty() || rest.starts_with(['/', ':']) || rest.contains(['?', '#', ' ']) {
        bail!("--target {target}: not the base URL of a deployment: give http://host:port, without a query");
    }
    if scheme == "http" && options.ca.is_some() {
        bail!("--target {target}: --ca is for https:// only: remove it, or give https://{rest}");
    }
    Ok(())
}

/// The cure for an error of a connection, if it has a usual one.
fn cure(error: &str, options: &Options) -> &'static str {
    match (error.contains("certificate"), options.ca.is_some()) {
        (true, false) => "; --ca FILE names the certificate authority that issued its certificate (PEM)",
        (true, true) => {
            "; the file of --ca must have the authority that issued its certificate, and the certificate this host name"
        }
        (false, _) if error.contains("corrupt message") => "; it does not speak TLS at this port: give http://",
        _ => "",
    }
}

/// A client for `target`, and the certificate authorities that it trusts; the key is an operator's.
///
/// # Errors
/// The target cannot be reached, or refuses the key, with the cure.
pub(super) async fn reach(target: &str, options: &Options) -> anyhow::Result<(Api, Trust)> {
    check_url(target, options)?;
    let trust = if target.starts_with("https://") {
        Trust::load(options.ca.as_deref()).map_err(anyhow::Error::msg).context("--ca")?
    } else {
        Trust::default()
    };
    let fault = |failure: crate::harness::failure::Failure| {
        let text = failure.to_string();
        anyhow::anyhow!("--target {target}: {text}{}", cure(&text, options))
    };
    let api = Api::trusting(&trust, target, options.api_key.as_deref(), Exchanges::new(Secrets::default()))
        .and_then(|api| api.speaking(&options.description.speech))
        .map_err(fault)?
        .waiting_out_limits();
    let live = api.get("/health/live").await.map_err(fault)?;
    if live.status != 200 {
        bail!(
            "--target {target}: GET /health/live answered {}, not 200: is this the base URL of a deployment?",
            live.status
        );
    }
    let keyed = api.get("/api/tenants").await.map_err(fault)?;
    // An empty model is refused in any case: an operator's as invalid, a tenant's as not theirs to create.
    let operators = api.post("/api/models", &json!({})).await.map_err(fault)?;
    match (keyed.status.as_u16(), operators.status.as_u16()) {
        (401, _) if options.api_key.is_none() => bail!("--target {target}: it wants an API key: {OPERATORS_KEY}"),
        (401, _) => bail!("--target {target}: the API key was refused: {OPERATORS_KEY}"),
        (403, _) | (_, 403) => bail!(
            "--target {target}: the API key is not an operator's (POST /api/models answered {}), and the suite creates tenants and models: \
             {OPERATORS_KEY}",
            operators.status
        ),
        _ => Ok((api, trust)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_url_that_cannot_be_a_deployments_is_refused_with_the_cure() {
        for (target, ca, says) in [
            ("host:8000", None, "http://host:8000"),
            ("localhost", None, "the scheme is missing"),
            ("ftp://host", None, "ftp"),
            ("http://", None, "http://host:port"),
            ("http://:8000", None, "http://host:port"),
            ("http://host/?a=b", None, "without a query"),
            ("http://host", Some("ca.pem"), "https://host"),
        ] {
            let options = Options { ca: ca.map(Into::into), ..Options::default() };
            let why = check_url(target, &options).expect_err(target).to_string();
            assert!(why.contains(says) && why.contains(&format!("--target {target}")), "{target}: {why}");
        }
        for target in ["http://host:8000", "https://host", "https://[::1]:8443/below", "http://10.0.0.1"] {
            check_url(target, &Options::default()).expect(target);
        }
    }

    #[test]
    fn a_certificate_that_nobody_vouches_for_names_the_flag() {
        let error = "error trying to connect: invalid peer certificate: UnknownIssuer";
        assert!(cure(error, &Options::default()).contains("--ca FILE"));
        let error = "client error (Connect): received corrupt message of type InvalidContentType";
        assert!(cure(error, &Options::default()).contains("give http://"));
        assert_eq!(cure("connection refused", &Options::default()), "");
    }
}
