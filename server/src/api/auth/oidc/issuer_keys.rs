//! The issuer's public keys: fetched every few minutes, and when a token names one that is not known.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;

use super::fetch::{Fetch, FetchError};

/// How often the keys are fetched.
const REFRESH: Duration = Duration::from_secs(300);
/// Pause after a failure, and the shortest time between two fetches that tokens with unknown keys cause.
const PAUSE: Duration = Duration::from_secs(5);
/// How long known keys are used while the issuer does not answer.
const LONGEST_ABSENCE: Duration = Duration::from_secs(24 * 3600);
/// Keys of which the issuer may have so many; further ones are ignored.
const MOST_KEYS: usize = 100;

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct IssuerKeys {
    issuer: String,
    fetch: Fetch,
    known: RwLock<Option<Known>>,
    /// When the last fetch began; the lock makes fetches come one after the other.
    last: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Known {
    keys: Vec<IssuerKey>,
    at: Instant,
}

#[derive(Debug)]
struct IssuerKey {
    id: Option<String>,
    /// The algorithms for which the key may be used.
    algorithms: Vec<Algorithm>,
    key: Arc<DecodingKey>,
}

/// The result of looking for a key.
pub(super) enum Found {
    /// The key that may have signed the token.
    Key(Arc<DecodingKey>),
    /// The issuer has no such key.
    None,
    /// The issuer's keys are not known.
    Away,
}

/// The part of the discovery document that matters.
#[derive(Debug, Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Debug, Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

impl IssuerKeys {
    pub(super) fn new(issuer: &str) -> io::Result<Self> {
        let (known, last) = (RwLock::default(), Mutex::default());
        Ok(Self { issuer: issuer.to_owned(), fetch: Fetch::new()?, known, last })
    }

    /// Fetches the keys every few minutes, and more often while that fails.
    pub(super) async fn follow(&self) {
        let mut away = false;
        loop {
            let result = {
                let mut last = self.last.lock().await;
                *last = Some(Instant::now());
                self.refresh().await
            };
            let pause = match result {
                Ok(()) => {
                    if std::mem::replace(&mut away, false) {
                        tracing::info!(issuer = self.issuer, "the issuer's keys are known again");
                    }
                    REFRESH
                }
                Err(error) => {
                    if !std::mem::replace(&mut away, true) {
                        tracing::warn!(issuer = self.issuer, %error, "the issuer's keys were not fetched; known keys stay valid for a day");
                    }
                    PAUSE
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// The key with an id; without one, the only key for the algorithm. Looks at the issuer again if there is none, but not too often.
    pub(super) async fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Found {
        let found = self.look(id, algorithm);
        if matches!(found, Found::Key(_)) {
            return found;
        }
        let mut last = self.last.lock().await;
        // Somebody else may have fetched it meanwhile.
        let found = self.look(id, algorithm);
        if matches!(found, Found::Key(_)) || last.is_some_and(|last| last.elapsed() < PAUSE) {
            return found;
        }
        *last = Some(Instant::now());
        if let Err(error) = self.refresh().await {
            tracing::warn!(issuer = self.issuer, %error, "the issuer's keys were not fetched for a token with an unknown key");
        }
        self.look(id, algorithm)
    }

    fn look(&self, id: Option<&str>, algorithm: Algorithm) -> Found {
        let known = self.known.read();
        let Some(known) = known.as_ref().filter(|known| known.at.elapsed() < LONGEST_ABSENCE) else {
            return Found::Away;
        };
        let fits = |key: &&IssuerKey| key.algorithms.contains(&algorithm) && (id.is_none() || key.id.as_deref() == id);
        let mut fitting = known.keys.iter().filter(fits);
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Found::Key(key.key.clone()),
            _ => Found::None,
        }
    }

    async fn refresh(&self) -> Result<(), FetchError> {
        let address = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let discovery: Discovery = self.fetch.json(&address).await?;
        if discovery.issuer != self.issuer {
            let why =
                format!("{address} is of the issuer {:?}; OIDC_ISSUER must be exactly the same", discovery.issuer);
            return Err(FetchError::Answer(why));
        }
        let url: Option<Url> = discovery.jwks_uri.parse().ok();
        let plain = self.issuer.starts_with("http://");
        if !url.is_some_and(|url| url.scheme() == "https" || (plain && url.scheme() == "http")) {
            return Err(FetchError::Answer(format!("{address} has a jwks_uri that is not an https URL")));
        }
        let set: KeySet = self.fetch.json(&discovery.jwks_uri).await?;
        let keys: Vec<IssuerKey> = set.keys.into_iter().take(MOST_KEYS).filter_map(usable).collect();
        if keys.is_empty() {
            return Err(FetchError::Answer(format!(
                "{} has no key for RS256, PS256, ES256 or EdDSA",
                discovery.jwks_uri
            )));
        }
        *self.known.write() = Some(Known { keys, at: Instant::now() });
        Ok(())
    }
}

/// A key that may sign tokens; `None` for one of another kind, or one that is not understood.
fn usable(key: Value) -> Option<IssuerKey> {
    let named = key.get("alg").and_then(Value::as_str).map(str::to_owned);
    let key: Jwk = serde_json::from_value(key).ok()?;
    if key.common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
        return None;
    }
    let algorithms: &[(Algorithm, &str)] = match &key.algorithm {
        AlgorithmParameters::RSA(_) => &[(Algorithm::RS256, "RS256"), (Algorithm::PS256, "PS256")],
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => {
            &[(Algorithm::ES256, "ES256")]
        }
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            &[(Algorithm::EdDSA, "EdDSA")]
        }
        _ => return None,
    };
    let fits = |name: &str| named.as_deref().is_none_or(|named| named == name);
    let algorithms: Vec<Algorithm> = algorithms.iter().filter(|(_, name)| fits(name)).map(|(one, _)| *one).collect();
    if algorithms.is_empty() {
        return None;
    }
    Some(IssuerKey { id: key.common.key_id.clone(), algorithms, key: Arc::new(DecodingKey::from_jwk(&key).ok()?) })
}

#[cfg(test)]
impl IssuerKeys {
    /// Allows the next fetch at once.
    pub(super) async fn forget_the_last_fetch(&self) {
        *self.last.lock().await = None;
    }
}
