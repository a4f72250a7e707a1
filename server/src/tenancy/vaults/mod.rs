//! Vaults: a tenant's credentials for the requests of its workspaces. Their secrets are sealed in the database, and opened only to build
//! the policy of an open listener.

pub mod credential;
pub(super) mod live;
mod oauth;
pub mod seal;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use self::credential::{Auth, Purpose, Shown};
use self::seal::{Sealed, Sealer};
use super::address::https_host;
use super::problem::{MOST_ENTRIES, Problem, Problems};
use super::{Tenancy, TenancyError};
use crate::conversation::store::{StoreError, StoredCredential, Tenant, Vault};

/// A credential to create, or what replaces one.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CredentialCreation, example = json!({"name": "issues", "purpose": {"host": "api.example.com", "paths": ["/v1"]},
    "auth": {"type": "header", "name": "Authorization", "template": "Bearer {}", "secret": "…"}}))]
pub struct NewCredential {
    /// Name of the credential, unique in its vault, 1 to 100 characters.
    #[schema(min_length = 1, max_length = 100, pattern = r"^[^\u0000]*$")]
    pub name: String,
    /// Which requests get it.
    pub purpose: Purpose,
    /// The credential itself. It is never shown again.
    pub auth: Auth,
}

/// A credential without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Credential)]
pub struct Credential {
    /// Id of the credential.
    pub credential_id: String,
    /// Id of its vault.
    pub vault_id: String,
    /// Name of the credential.
    pub name: String,
    /// Which requests get it.
    pub purpose: Purpose,
    /// Its kind, without the secret.
    pub auth: Shown,
    /// Time when it was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Time of the last change.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// What sealing all secrets again has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Rekeyed {
    /// Id of the current key, which is not the key itself.
    pub key_id: String,
    /// Secrets that were sealed again.
    pub sealed: u64,
    /// Ids of credentials that cannot be opened with any known key: write them again, or add their key to `VAULT_OLD_KEY_FILES`.
    pub unreadable: Vec<String>,
}

/// What is stored in the open.
#[derive(Debug, Serialize, Deserialize)]
struct Open {
    purpose: Purpose,
    auth: Shown,
}

/// What a secret is sealed for.
fn bound_to(tenant: &str, vault: &str, credential: &str) -> String {
    format!("{tenant}/{vault}/{credential}")
}

fn shown(stored: StoredCredential) -> Result<Credential, TenancyError> {
    let Open { purpose, auth } = serde_json::from_str(&stored.purpose)?;
    let StoredCredential { credential_id, vault_id, name, created_at, updated_at, .. } = stored;
    Ok(Credential { credential_id, vault_id, name, purpose, auth, created_at, updated_at })
}

/// The present time as the database keeps it, in whole microseconds: what is answered now is read like that later.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

impl Tenancy {
    fn sealer(&self) -> Result<&Sealer, TenancyError> {
        self.settings.sealer.as_ref().ok_or(TenancyError::NoKey)
    }

    /// Creates a vault.
    ///
    /// # Errors
    /// The name is taken, there is no key for secrets, or the database failed.
    pub async fn create_vault(&self, tenant: &str, name: &str) -> Result<Vault, TenancyError> {
        self.sealer()?;
        Ok(self.store.create_vault(tenant, &Uuid::now_v7().to_string(), name).await?)
    }

    /// Deletes a vault with its credentials, also from open workspaces.
    ///
    /// # Errors
    /// There is no such vault, or the database failed.
    pub async fn delete_vault(&self, tenant: &str, vault: &str) -> Result<(), TenancyError> {
        self.store.delete_vault(tenant, vault).await?;
        self.spread(tenant, None, false).await;
        Ok(())
    }

    /// A vault's credentials.
    ///
    /// # Errors
    /// There is no such vault, or the database failed.
    pub async fn credentials(&self, tenant: &str, vault: &str) -> Result<Vec<Credential>, TenancyError> {
        let vault = self.store.vault(tenant, vault).await?.vault_id;
        self.store.credentials(tenant, &[&vault]).await?.into_iter().map(shown).collect()
    }

    /// A credential.
    ///
    /// # Errors
    /// There is no such credential, or the database failed.
    pub async fn credential(&self, tenant: &str, vault: &str, id: &str) -> Result<Credential, TenancyError> {
        let all = self.credentials(tenant, vault).await?;
        let found = all.into_iter().find(|credential| credential.credential_id == id);
        found.ok_or(TenancyError::Store(StoreError::NotFound("credential")))
    }

    /// Adds a credential.
    ///
    /// # Errors
    /// It has problems, its name is taken, there is no key for secrets, or the database failed.
    pub async fn add_credential(
        &self,
        tenant: &Tenant,
        vault: &str,
        new: NewCredential,
    ) -> Result<Credential, TenancyError> {
        let vault = self.store.vault(&tenant.tenant_id, vault).await?.vault_id;
        let stored = self.seal(tenant, &vault, Uuid::now_v7().to_string(), now(), &new).await?;
        let stored = StoredCredential { updated_at: stored.created_at, ..stored };
        let stored = self.store.create_credential(stored).await?;
        self.spread(&tenant.tenant_id, None, false).await;
        shown(stored)
    }

    /// Replaces a credential, its secret included.
    ///
    /// # Errors
    /// There is no such credential, the new one has problems, there is no key for secrets, or the database failed.
    pub async fn replace_credential(
        &self,
        tenant: &Tenant,
        vault: &str,
        id: &str,
        new: NewCredential,
    ) -> Result<Credential, TenancyError> {
        let old = self.credential(&tenant.tenant_id, vault, id).await?;
        let stored = self.seal(tenant, &old.vault_id, old.credential_id, old.created_at, &new).await?;
        if !self.store.replace_credential(&stored, None).await? {
            return Err(TenancyError::Store(StoreError::NotFound("credential")));
        }
        self.spread(&tenant.tenant_id, None, false).await;
        shown(stored)
    }

    /// Deletes a credential, also from open workspaces.
    ///
    /// # Errors
    /// There is no such credential, or the database failed.
    pub async fn delete_credential(&self, tenant: &str, vault: &str, id: &str) -> Result<(), TenancyError> {
        let vault = self.store.vault(tenant, vault).await?.vault_id;
        self.store.delete_credential(&vault, id).await?;
        self.spread(tenant, None, false).await;
        Ok(())
    }

    /// Seals every secret with the current key that is sealed with another one.
    ///
    /// # Errors
    /// There is no key for secrets, or the database failed; what was sealed so far stays so.
    pub async fn rekey(&self) -> Result<Rekeyed, TenancyError> {
        let sealer = self.sealer()?;
        let mut done = Rekeyed { key_id: sealer.key_id().to_owned(), ..Rekeyed::default() };
        let mut after = String::new();
        loop {
            let some = self.store.sealed_otherwise(sealer.key_id(), &after).await?;
            let Some((_, last)) = some.last() else { return Ok(done) };
            after.clone_from(&last.credential_id);
            for (tenant, old) in some {
                let bound = bound_to(&tenant, &old.vault_id, &old.credential_id);
                let sealed = Sealed { text: old.sealed.clone(), key_id: old.key_id.clone() };
                let Ok(secret) = sealer.open(&bound, &sealed) else {
                    done.unreadable.push(old.credential_id);
                    continue;
                };
                let Sealed { text, key_id } = sealer.seal(&bound, &secret)?;
                let new = StoredCredential { sealed: text, key_id, ..old.clone() };
                // One that was replaced meanwhile is sealed with the current key already.
                done.sealed += u64::from(self.store.replace_credential(&new, Some(&old.sealed)).await?);
            }
        }
    }

    /// The secret of a stored credential.
    pub(super) fn unseal(&self, tenant: &str, stored: &StoredCredential) -> Result<(Purpose, Auth), TenancyError> {
        let Open { purpose, .. } = serde_json::from_str(&stored.purpose)?;
        let sealed = Sealed { text: stored.sealed.clone(), key_id: stored.key_id.clone() };
        let bound = bound_to(tenant, &stored.vault_id, &stored.credential_id);
        let opened = self.sealer()?.open(&bound, &sealed)?;
        let auth = serde_json::from_slice(&opened).map_err(|_| TenancyError::Seal(seal::SealError::Broken))?;
        Ok((purpose, auth))
    }

    async fn seal(
        &self,
        tenant: &Tenant,
        vault: &str,
        id: String,
        created_at: Timestamp,
        new: &NewCredential,
    ) -> Result<StoredCredential, TenancyError> {
        let sealer = self.sealer()?;
        let problems = self.credential_problems(tenant, new).await?;
        if !problems.is_empty() {
            return Err(TenancyError::Problems(problems));
        }
        let NewCredential { name, purpose, auth } = new;
        let open = Open { purpose: purpose.clone(), auth: auth.shown() };
        let secret = zeroize::Zeroizing::new(serde_json::to_vec(auth)?);
        let Sealed { text, key_id } = sealer.seal(&bound_to(&tenant.tenant_id, vault, &id), &secret)?;
        Ok(StoredCredential {
            credential_id: id,
            vault_id: vault.to_owned(),
            name: name.clone(),
            purpose: serde_json::to_string(&open)?,
            sealed: text,
            key_id,
            created_at,
            updated_at: now(),
        })
    }

    async fn credential_problems(&self, tenant: &Tenant, new: &NewCredential) -> Result<Vec<Problem>, TenancyError> {
        let mut problems = Problems(new.auth.problems(&self.settings.roles));
        let length = (1..=100).contains(&new.name.chars().count()) && !new.name.contains('\0');
        problems.require(length, "name", "must have 1 to 100 characters, none of them NUL");
        let Purpose { methods, paths, operations, .. } = &new.purpose;
        for (place, entries) in [
            ("purpose.methods", methods.as_ref().map(Vec::len)),
            ("purpose.paths", paths.as_ref().map(Vec::len)),
            ("purpose.operations", operations.as_ref().map(Vec::len)),
        ] {
            let few = entries.is_none_or(|entries| entries <= MOST_ENTRIES);
            problems.require(few, place, format!("must have at most {MOST_ENTRIES} entries"));
        }
        // The proxy's words for what is told already are left out.
        let told = problems.0.iter().any(|of| of.place.starts_with("auth"));
        let further = live::problem(&new.purpose, &new.auth);
        problems.0.extend(further.filter(|of| !told || !of.place.starts_with("auth.")));
        let effective = self.effective(tenant, None).await?;
        if self.may_reach(&effective, &new.purpose.host) == Ok(false) {
            problems.add("purpose.host", "the tenant's workspaces may not reach this host: allow it first");
        }
        if let Auth::Oauth { token_url, .. } = &new.auth
            && let Some(host) = https_host(token_url)
            && self.may_reach(&effective, &host) == Ok(false)
        {
            problems.add("auth.token_url", "the tenant's workspaces may not reach this host: allow it first");
        }
        Ok(problems.0)
    }
}
