//! Settings of the issuer whose tokens are accepted.

use url::Url;

use super::reader::Reader;
use crate::api::auth::{Grant, OidcSettings};

/// What the values of the claim of scopes grant unless `OIDC_SCOPES` says otherwise.
const SCOPES: &str = "nagaya:run=run,nagaya:read=read,nagaya:files=files,nagaya:approve=approve,nagaya:admin=admin,\
                      nagaya:metrics=metrics,nagaya:operator=operator";

/// Reads the settings; `None` if no issuer is named.
pub(super) fn read(r: &mut Reader) -> Option<OidcSettings> {
    let issuer = r.get("OIDC_ISSUER", "", "the issuer's URL, exactly as its tokens have it: https://HOST[/PATH], or http:// in a network that is trusted; or nothing", |text| {
        (text.is_empty() || is_issuer(text)).then(|| text.to_owned())
    });
    let audience =
        r.get("OIDC_AUDIENCE", "", "up to 255 characters", |text| (text.len() <= 255).then(|| text.to_owned()));
    let claim = |text: &str| (1..=255).contains(&text.len()).then(|| text.to_owned());
    let tenant_claim = r.get("OIDC_TENANT_CLAIM", "tenant", "the name of a claim", claim);
    let scope_claim = r.get("OIDC_SCOPE_CLAIM", "scope", "the name of a claim", claim);
    let grants = r.parse("OIDC_SCOPES", SCOPES, |text| {
        text.split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(str::parse)
            .collect::<Result<Vec<Grant>, _>>()
    });
    if issuer.is_empty() {
        if !audience.is_empty() {
            r.error("OIDC_AUDIENCE: has no effect without OIDC_ISSUER; set both or none");
        }
        return None;
    }
    if audience.is_empty() {
        r.error(
            "OIDC_ISSUER: set OIDC_AUDIENCE as well: the audience that the issuer writes into tokens for this server",
        );
    }
    Some(OidcSettings { issuer, audience, tenant_claim, scope_claim, grants })
}

fn is_issuer(text: &str) -> bool {
    let Ok(url) = text.parse::<Url>() else { return false };
    let bare =
        url.query().is_none() && url.fragment().is_none() && url.username().is_empty() && url.password().is_none();
    matches!(url.scheme(), "https" | "http") && url.has_host() && bare
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Config;

    fn config(pairs: &[(&str, &str)]) -> Result<Config, String> {
        let environment: BTreeMap<_, _> = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Config::parse(environment, None).map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn an_issuer_needs_an_audience_and_makes_keys_unnecessary() {
        let issuer = ("OIDC_ISSUER", "https://id.example/realms/one");
        let whole =
            config(&[issuer, ("OIDC_AUDIENCE", "nagaya"), ("APP_ENV", "production"), ("BIND_ADDR", "0.0.0.0:1")]);
        let oidc = whole.expect("valid").service.oidc.expect("an issuer");
        assert_eq!((oidc.tenant_claim.as_str(), oidc.scope_claim.as_str(), oidc.grants.len()), ("tenant", "scope", 7));
        assert!(config(&[]).expect("valid").service.oidc.is_none());
        assert!(config(&[issuer]).expect_err("no audience").contains("OIDC_AUDIENCE"));
        assert!(config(&[("OIDC_AUDIENCE", "nagaya")]).expect_err("no issuer").contains("OIDC_ISSUER"));
        for bad in ["id.example", "ftp://id.example", "https://user@id.example", "https://id.example/?x", "https://"] {
            assert!(config(&[("OIDC_ISSUER", bad)]).expect_err(bad).contains("OIDC_ISSUER"));
        }
        for bad in ["staff", "staff=", "=run", "staff=everything", "staff=run+"] {
            assert!(config(&[("OIDC_SCOPES", bad)]).expect_err(bad).contains("OIDC_SCOPES"));
        }
        let oidc = config(&[issuer, ("OIDC_AUDIENCE", "a"), ("OIDC_SCOPES", "https://x/a=b=run+operator, staff=read")]);
        let grants = oidc.expect("valid").service.oidc.expect("an issuer").grants;
        assert_eq!((grants[0].value.as_str(), grants[0].operator), ("https://x/a=b", true));
    }
}
