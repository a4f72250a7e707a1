//! Bearer tokens of an OpenID Connect issuer (RFC 7519; OpenID Connect Discovery 1.0).
//!
//! A token is accepted if a key of the issuer has signed it with an asymmetric algorithm, if it names exactly the configured issuer and
//! audience, and if it is valid now. Its claims say whom its owner acts for, and with which scopes.

mod crypto;
mod fetch;
mod issuer_keys;
mod settings;

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::super::error::{ApiError, Code};
use super::scopes::Scopes;
use super::{Caller, Credential, Principal, is_id};
use crate::conversation::store::Scope;
use issuer_keys::{Found, IssuerKeys};
pub use settings::{Grant, OidcSettings};

/// How far the issuer's clock may be off, in seconds.
const LEEWAY: u64 = 30;
/// Longest token, in bytes.
const LONGEST_TOKEN: usize = 16 * 1024;
/// Longest name of a token's owner, in bytes.
const LONGEST_SUBJECT: usize = 255;
/// Accepted algorithms. A secret shared with the issuer (HS256) would let this server make tokens.
const ALGORITHMS: [Algorithm; 4] = [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::EdDSA];

/// The issuer whose tokens are accepted.
#[derive(Debug)]
pub struct Oidc {
    settings: OidcSettings,
    keys: IssuerKeys,
}

/// Whether a text has the form of a signed token.
pub(super) fn is_token(text: &str) -> bool {
    text.starts_with("eyJ") && text.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// 401 with what is wrong with a token. It names no value of the token.
fn refused(why: &str) -> ApiError {
    ApiError::new(Code::Unauthorized, format!("the token is not accepted: {why}"))
}

impl Oidc {
    /// Accepts the tokens of an issuer. Nothing is fetched yet.
    ///
    /// # Errors
    /// The host's certificate authorities cannot be read.
    pub fn new(settings: OidcSettings) -> io::Result<Self> {
        crypto::install();
        Ok(Self { keys: IssuerKeys::new(&settings.issuer)?, settings })
    }

    /// Fetches the issuer's keys again and again, until `closing` is cancelled.
    pub async fn follow(&self, closing: CancellationToken) {
        closing.run_until_cancelled(self.keys.follow()).await;
    }

    /// The owner of a token.
    ///
    /// # Errors
    /// 401 if the token is not accepted, 403 if it names no tenant, 503 if the issuer's keys are not known.
    pub(super) async fn caller(&self, token: &str) -> Result<Caller, ApiError> {
        let header = header(token)?;
        let key = match self.keys.find(header.kid.as_deref(), header.alg).await {
            Found::Key(key) => key,
            Found::None => return Err(refused("it is signed by a key that the issuer does not have")),
            Found::Away => return Err(ApiError::unavailable("the keys of OIDC_ISSUER are not known yet; try again")),
        };
        let mut validation = Validation::new(header.alg);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.aud = Some(HashSet::from([self.settings.audience.clone()]));
        validation.iss = Some(HashSet::from([self.settings.issuer.clone()]));
        validation.required_spec_claims = ["exp", "iss", "aud", "sub"].map(str::to_owned).into();
        let claims = decode::<Map<String, Value>>(token, &key, &validation).map_err(|error| refused(reason(&error)))?;
        self.owner(&claims.claims)
    }

    /// Whom the claims name.
    fn owner(&self, claims: &Map<String, Value>) -> Result<Caller, ApiError> {
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        if subject.is_empty() || subject.len() > LONGEST_SUBJECT {
            return Err(refused("its claim sub must be a text of 1 to 255 bytes"));
        }
        let until = claims.get("exp").and_then(Value::as_f64).and_then(time);
        let until = until.ok_or_else(|| refused("its claim exp must be a time"))?;
        let (operator, scopes) = self.settings.granted(claims.get(&self.settings.scope_claim));
        let credential = Credential::Token(subject.into());
        if operator {
            return Ok(Caller { principal: Principal::Operator, scopes, credential, until: Some(until) });
        }
        let claim = &self.settings.tenant_claim;
        let tenant = claims.get(claim).and_then(Value::as_str).filter(|tenant| is_id(tenant));
        let tenant = tenant.ok_or_else(|| {
            ApiError::new(
                Code::Forbidden,
                format!("the token's claim {claim} (OIDC_TENANT_CLAIM) is not the id of a tenant"),
            )
        })?;
        let scopes: Scopes = scopes.list().into_iter().filter(|scope| *scope != Scope::Metrics).collect();
        Ok(Caller { principal: Principal::Tenant(tenant.to_owned()), scopes, credential, until: Some(until) })
    }
}

/// The header of a token, if its algorithm is accepted.
fn header(token: &str) -> Result<Header, ApiError> {
    if token.len() > LONGEST_TOKEN {
        return Err(refused("it is too long"));
    }
    // The header cannot be parsed if its algorithm is unknown, as is `none`.
    let header = decode_header(token).map_err(|_| refused("its header is not one of a signed token"))?;
    if !ALGORITHMS.contains(&header.alg) {
        return Err(refused("its algorithm is not RS256, PS256, ES256 or EdDSA"));
    }
    if header.crit.is_some() {
        return Err(refused("its header demands an extension (crit)"));
    }
    Ok(header)
}

fn time(seconds: f64) -> Option<Timestamp> {
    let since = Duration::try_from_secs_f64(seconds).ok()?;
    Some(Timestamp::UNIX_EPOCH.saturating_add(since).unwrap_or(Timestamp::MAX))
}

/// What is wrong with a token, without its content.
fn reason(error: &jsonwebtoken::errors::Error) -> &'static str {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::InvalidSignature => "its signature is wrong",
        ErrorKind::ExpiredSignature => "it has expired",
        ErrorKind::ImmatureSignature => "it is not valid yet",
        ErrorKind::InvalidIssuer => "it is of another issuer than OIDC_ISSUER",
        ErrorKind::InvalidAudience => "it is for another audience than OIDC_AUDIENCE",
        ErrorKind::MissingRequiredClaim(_) => "it lacks one of the claims exp, iss, aud and sub",
        ErrorKind::InvalidAlgorithm => "its algorithm does not fit its key",
        _ => "it is malformed",
    }
}

#[cfg(test)]
mod tests;
