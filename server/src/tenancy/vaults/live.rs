//! Credentials as the proxy uses them. One that has not changed stays the same object, with its tokens and its connections.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use aws_credential_types::provider::SharedCredentialsProvider;
use nagaya_egress::{Credential, CredentialSpec, Keys, Operations, PolicyError, SecretText, Source, TokenSource, When};
use parking_lot::Mutex;

use super::Open;
use super::credential::{self, Auth, Purpose};
use super::oauth::Client;
use crate::aws;
use crate::conversation::store::StoredCredential;
use crate::tenancy::problem::Problem;
use crate::tenancy::{Tenancy, TenancyError};

/// Credentials that open listeners use, by their id, each with the sealed text that it was made of.
#[derive(Debug, Default)]
pub(in crate::tenancy) struct Live(Mutex<HashMap<String, (String, Weak<Credential>)>>);

/// A credential, with its vault.
#[derive(Debug)]
pub(in crate::tenancy) struct OfVault {
    /// Id of the vault.
    pub(in crate::tenancy) vault: String,
    pub(in crate::tenancy) credential: Arc<Credential>,
}

impl Live {
    fn get(&self, stored: &StoredCredential) -> Option<Arc<Credential>> {
        let live = self.0.lock();
        let (made_of, credential) = live.get(&stored.credential_id)?;
        if *made_of == fingerprint(stored) { credential.upgrade() } else { None }
    }

    fn keep(&self, stored: &StoredCredential, credential: &Arc<Credential>) {
        let mut live = self.0.lock();
        live.retain(|_, (_, credential)| credential.strong_count() > 0);
        live.insert(stored.credential_id.clone(), (fingerprint(stored), Arc::downgrade(credential)));
    }
}

/// What a credential is made of: each sealing has a nonce of its own, so that the text changes with every change.
fn fingerprint(stored: &StoredCredential) -> String {
    format!("{} {}", stored.purpose, stored.sealed)
}

impl Tenancy {
    /// The credentials of these vaults, those of each vault in the order in which they are tried. Requests that need one that cannot be
    /// opened are refused, and the log says why: they must not go out with another one.
    pub(in crate::tenancy) async fn credentials_of(
        &self,
        tenant: &str,
        vaults: &[&String],
    ) -> Result<Vec<OfVault>, TenancyError> {
        let mut credentials = Vec::new();
        for stored in self.store.credentials(tenant, vaults).await? {
            let credential = match self.live.get(&stored) {
                Some(credential) => credential,
                None => {
                    let made = match self.make(tenant, &stored).await {
                        Ok(credential) => Arc::new(credential),
                        Err(error) => {
                            tracing::error!(tenant, credential = stored.credential_id, %error, "a vault's credential cannot be used: requests that need it are refused");
                            Arc::new(unavailable(&stored)?)
                        }
                    };
                    self.live.keep(&stored, &made);
                    made
                }
            };
            credentials.push(OfVault { vault: stored.vault_id, credential });
        }
        Ok(credentials)
    }

    async fn make(&self, tenant: &str, stored: &StoredCredential) -> Result<Credential, TenancyError> {
        let (purpose, auth) = self.unseal(tenant, stored)?;
        let source = match &auth {
            Auth::Role { service, region, role_arn } => {
                let keys = self.assume(tenant, region, role_arn).await;
                Source::sigv4_from(service, region, keys)?
            }
            Auth::Oauth { .. } => {
                let client = Client::new(&auth, tenant, self.me.clone());
                Source::token("authorization", Arc::new(client.ok_or(TenancyError::NoKey)?))?
            }
            other => simple(other)?,
        };
        Ok(Credential::new(spec(&stored.credential_id, &purpose, source)?)?)
    }

    /// Keys of a role, which the server assumes with its own credentials.
    async fn assume(&self, tenant: &str, region: &str, role_arn: &str) -> SharedCredentialsProvider {
        aws::role(region, role_arn, &external_id(tenant)).await
    }
}

/// The external id with which roles are assumed for a tenant: a tenant cannot use another one's role by its name.
pub(in crate::tenancy) fn external_id(tenant: &str) -> String {
    format!("nagaya:{tenant}")
}

/// A secret that cannot be opened.
struct Unavailable;

#[async_trait]
impl TokenSource for Unavailable {
    async fn value(&self) -> Option<SecretText> {
        None
    }
}

/// A credential whose requests are refused.
fn unavailable(stored: &StoredCredential) -> Result<Credential, TenancyError> {
    let Open { purpose, .. } = serde_json::from_str(&stored.purpose)?;
    let source = Source::token("authorization", Arc::new(Unavailable))?;
    Ok(Credential::new(spec(&stored.credential_id, &purpose, source)?)?)
}

/// Sources that need nothing but the secret.
fn simple(auth: &Auth) -> Result<Source, PolicyError> {
    let text = |secret: &credential::Secret| SecretText::new(secret.reveal().to_owned());
    match auth {
        Auth::Header { name, template, secret } => {
            Source::header(name, template.as_deref().unwrap_or("{}"), &text(secret))
        }
        Auth::Basic { username, password } => Source::basic(username, &text(password)),
        Auth::Sigv4 { service, region, access_key_id, secret_access_key, session_token } => {
            let keys = Keys {
                access_key_id: access_key_id.clone(),
                secret_access_key: text(secret_access_key),
                session_token: session_token.as_ref().map(text),
            };
            Source::sigv4(service, region, &keys)
        }
        // Only checked here: the source is made with what it needs elsewhere.
        Auth::Role { service, region, .. } => {
            let keys = Keys {
                access_key_id: "checked".into(),
                secret_access_key: SecretText::new("checked".into()),
                session_token: None,
            };
            Source::sigv4(service, region, &keys)
        }
        Auth::Oauth { .. } => Source::header("authorization", "Bearer {}", &SecretText::new("checked".into())),
    }
}

fn spec(name: &str, purpose: &Purpose, source: Source) -> Result<CredentialSpec, PolicyError> {
    let operations = match &purpose.operations {
        Some(listed) => {
            let named: Vec<String> = listed.iter().map(|of| format!("{} {}", of.method, of.path)).collect();
            let listed = named.iter().zip(listed).map(|(name, of)| (name.as_str(), &*of.method, &*of.path));
            Some(Operations::list(listed)?)
        }
        None => None,
    };
    Ok(CredentialSpec {
        name: name.to_owned(),
        host: purpose.host.clone(),
        methods: purpose.methods.clone().unwrap_or_default(),
        paths: purpose.paths.clone().unwrap_or_default(),
        when: match purpose.when {
            credential::When::Run => When::Run,
            credential::When::Always => When::Always,
        },
        operations,
        source,
    })
}

/// What is wrong with a credential, as the proxy reads it.
pub(in crate::tenancy) fn problem(purpose: &Purpose, auth: &Auth) -> Option<Problem> {
    let of_auth = |error: PolicyError| Problem { place: format!("auth.{}", error.place), why: error.message };
    let of_purpose = |error: PolicyError| Problem { place: format!("purpose.{}", error.place), why: error.message };
    let source = match simple(auth) {
        Ok(source) => source,
        Err(error) => return Some(of_auth(error)),
    };
    spec("checked", purpose, source).and_then(Credential::new).err().map(of_purpose)
}
