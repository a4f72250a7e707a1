//! Which issuer is trusted, and what its tokens mean.

use std::str::FromStr;

use serde_json::Value;

use crate::api::auth::Scopes;
use crate::conversation::store::Scope;

/// Settings of the issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OidcSettings {
    /// `OIDC_ISSUER`: the issuer's URL, exactly as its tokens have it.
    pub issuer: String,
    /// `OIDC_AUDIENCE`: the audience that tokens must be for.
    pub audience: String,
    /// `OIDC_TENANT_CLAIM`: the claim that names the tenant.
    pub tenant_claim: String,
    /// `OIDC_SCOPE_CLAIM`: the claim that has the scopes: words separated by spaces, or an array of texts.
    pub scope_claim: String,
    /// `OIDC_SCOPES`: what each value of that claim grants.
    pub grants: Vec<Grant>,
}

/// What a value of the claim of scopes grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The value.
    pub value: String,
    /// Whether its owner acts as an operator.
    pub operator: bool,
    /// The scopes.
    pub scopes: Scopes,
}

/// Stands for an operator among the scopes of a grant.
const OPERATOR: &str = "operator";

/// `VALUE=run+read`.
impl FromStr for Grant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let accepted = || {
            format!(
                "{text:?}: accepted: VALUE=WORD+WORD, where a word is run, read, files, approve, admin, metrics or {OPERATOR}"
            )
        };
        let (value, words) = text.rsplit_once('=').filter(|(value, _)| !value.is_empty()).ok_or_else(accepted)?;
        let mut grant = Self { value: value.to_owned(), operator: false, scopes: Scopes::default() };
        let mut scopes = Vec::new();
        for word in words.split('+') {
            match word {
                OPERATOR => grant.operator = true,
                word => scopes.push(Scope::from_text(word).ok_or_else(accepted)?),
            }
        }
        grant.scopes = scopes.into_iter().collect();
        Ok(grant)
    }
}

impl OidcSettings {
    /// Whether the values of a claim make their owner an operator, and the scopes that they grant. Values that are not listed grant
    /// nothing.
    pub(super) fn granted(&self, claim: Option<&Value>) -> (bool, Scopes) {
        let values: Vec<&str> = match claim {
            Some(Value::String(text)) => text.split(' ').collect(),
            Some(Value::Array(values)) => values.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let granted: Vec<&Grant> = self.grants.iter().filter(|grant| values.contains(&grant.value.as_str())).collect();
        let scopes = granted.iter().flat_map(|grant| grant.scopes.list()).collect();
        (granted.iter().any(|grant| grant.operator), scopes)
    }
}
