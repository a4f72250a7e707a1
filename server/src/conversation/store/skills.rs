//! Skills of tenants in the store.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;
use sqlx::Row;
use sqlx::any::AnyRow;
use utoipa::ToSchema;

use super::{Store, StoreError, from_micros, on_write, to_micros, within};

/// Skills of one tenant, at most.
const MOST_SKILLS: i64 = 100;
/// Versions of one skill, at most.
const MOST_VERSIONS: i64 = 50;
/// Names that a tenant's skills ever had, at most: the numbers of their versions are kept.
const MOST_NAMES: i64 = 1_000;
/// Size of all versions of a tenant's skills, in bytes.
const MOST_BYTES: i64 = 256 << 20;

/// One version of a skill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Skill {
    /// Name of the skill.
    pub name: String,
    /// Number of the version, from 1. A version never changes.
    pub version: i64,
    /// What the skill is for, as its manifest says.
    pub description: String,
    /// SHA-256 of the version's content, in hexadecimal.
    pub digest: String,
    /// Number of the version's files.
    pub files: i64,
    /// Size of the files together, in bytes.
    pub bytes: i64,
    /// Time when the version was uploaded.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// A version that is to be added.
#[derive(Debug)]
pub struct NewSkill<'a> {
    /// Id of the tenant.
    pub tenant: &'a str,
    /// Name of the skill.
    pub name: &'a str,
    /// What it is for.
    pub description: &'a str,
    /// SHA-256 of the content.
    pub digest: &'a str,
    /// Number of its files.
    pub files: i64,
    /// Size of its files, in bytes.
    pub bytes: i64,
    /// The files as JSON.
    pub content: &'a str,
}

/// All columns but the content, which is large.
const COLUMNS: &str = "name, version, description, digest, files, bytes, created_at";

fn read(row: &AnyRow) -> sqlx::Result<Skill> {
    Ok(Skill {
        name: row.try_get("name")?,
        version: row.try_get("version")?,
        description: row.try_get("description")?,
        digest: row.try_get("digest")?,
        files: row.try_get("files")?,
        bytes: row.try_get("bytes")?,
        created_at: from_micros(row.try_get("created_at")?)?,
    })
}

/// Whether a tenant with all these versions, and with so many other names of skills past and present, may have this one too.
fn has_room(all: &[Skill], names: i64, new: &NewSkill<'_>) -> Result<(), String> {
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let versions = count(all.iter().filter(|skill| skill.name == new.name).count());
    let skills: BTreeSet<&str> = all.iter().map(|skill| skill.name.as_str()).collect();
    if versions == 0 && count(skills.len()) >= MOST_SKILLS {
        return Err(format!("the tenant has {MOST_SKILLS} skills, as many as it may; delete one"));
    }
    if versions >= MOST_VERSIONS {
        return Err(format!("the skill has {MOST_VERSIONS} versions, as many as it may; delete some"));
    }
    if names >= MOST_NAMES {
        return Err(format!(
            "the tenant's skills have had {MOST_NAMES} names, as many as they may; use one of them again"
        ));
    }
    if all.iter().map(|skill| skill.bytes).fold(new.bytes, i64::saturating_add) > MOST_BYTES {
        let most = MOST_BYTES >> 20;
        return Err(format!("all versions of the tenant's skills may have {most} MiB together; delete some"));
    }
    Ok(())
}

impl Store {
    /// Adds a version of a skill, unless the latest one has the same content; returns the latest version, and whether it is new.
    ///
    /// # Errors
    /// The tenant does not exist, or has as many skills, versions or bytes of them as it may.
    pub async fn add_skill(&self, new: NewSkill<'_>) -> Result<(Skill, bool), StoreError> {
        within(async {
            let mut transaction = self.0.begin().await?;
            // Locks the tenant, so that two uploads do not both find room for one more. For SQLite, see `delete_conversation`.
            let tenant = sqlx::query("UPDATE tenants SET tenant_id = tenant_id WHERE tenant_id = $1").bind(new.tenant);
            if tenant.execute(&mut *transaction).await?.rows_affected() == 0 {
                return Err(StoreError::NotFound("tenant"));
            }
            let all = format!("SELECT {COLUMNS} FROM skills WHERE tenant_id = $1 ORDER BY version DESC");
            let all = sqlx::query(sqlx::AssertSqlSafe(all)).bind(new.tenant).fetch_all(&mut *transaction).await?;
            let all: Vec<Skill> = all.iter().map(read).collect::<sqlx::Result<_>>()?;
            let latest = all.iter().find(|skill| skill.name == new.name);
            if let Some(same) = latest.filter(|latest| latest.digest == new.digest) {
                return Ok((same.clone(), false));
            }
            let names: i64 =
                sqlx::query_scalar("SELECT COUNT(*) FROM skill_numbers WHERE tenant_id = $1 AND name <> $2")
                    .bind(new.tenant)
                    .bind(new.name)
                    .fetch_one(&mut *transaction)
                    .await?;
            has_room(&all, names, &new).map_err(StoreError::Conflict)?;
            let version: i64 = sqlx::query_scalar(
                "INSERT INTO skill_numbers (tenant_id, name, last) VALUES ($1, $2, 1)
                 ON CONFLICT (tenant_id, name) DO UPDATE SET last = skill_numbers.last + 1 RETURNING last",
            )
            .bind(new.tenant)
            .bind(new.name)
            .fetch_one(&mut *transaction)
            .await?;
            let added = format!(
                "INSERT INTO skills (tenant_id, name, version, description, digest, files, bytes, content, created_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING {COLUMNS}"
            );
            let row = sqlx::query(sqlx::AssertSqlSafe(added))
                .bind(new.tenant)
                .bind(new.name)
                .bind(version)
                .bind(new.description)
                .bind(new.digest)
                .bind(new.files)
                .bind(new.bytes)
                .bind(new.content)
                .bind(to_micros(Timestamp::now()))
                .fetch_one(&mut *transaction)
                .await
                .map_err(|error| on_write(error, || "another upload has added this version".into(), "tenant"))?;
            transaction.commit().await?;
            Ok((read(&row)?, true))
        })
        .await
    }

    /// All versions of a tenant's skills, by name, the latest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn skills(&self, tenant: &str) -> Result<Vec<Skill>, StoreError> {
        within(async {
            let all = format!("SELECT {COLUMNS} FROM skills WHERE tenant_id = $1 ORDER BY name, version DESC");
            let rows = sqlx::query(sqlx::AssertSqlSafe(all)).bind(tenant).fetch_all(&self.0).await?;
            Ok(rows.iter().map(read).collect::<sqlx::Result<_>>()?)
        })
        .await
    }

    /// The content of a version, as JSON.
    ///
    /// # Errors
    /// The tenant has no such version.
    pub async fn skill_content(&self, tenant: &str, name: &str, version: i64) -> Result<String, StoreError> {
        within(async {
            let content: Option<String> =
                sqlx::query_scalar("SELECT content FROM skills WHERE tenant_id = $1 AND name = $2 AND version = $3")
                    .bind(tenant)
                    .bind(name)
                    .bind(version)
                    .fetch_optional(&self.0)
                    .await?;
            content.ok_or(StoreError::NotFound("skill"))
        })
        .await
    }

    /// Deletes a version of a tenant's skill, or all of them.
    ///
    /// # Errors
    /// The tenant has no such skill or version.
    pub async fn delete_skill(&self, tenant: &str, name: &str, version: Option<i64>) -> Result<(), StoreError> {
        within(async {
            let deleted =
                sqlx::query("DELETE FROM skills WHERE tenant_id = $1 AND name = $2 AND (version = $3 OR $3 = 0)")
                    .bind(tenant)
                    .bind(name)
                    .bind(version.unwrap_or(0))
                    .execute(&self.0)
                    .await?;
            if deleted.rows_affected() == 0 { Err(StoreError::NotFound("skill")) } else { Ok(()) }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_so_many_skills_versions_names_and_bytes() {
        let skill = |name: String, bytes| Skill {
            name,
            version: 1,
            description: String::new(),
            digest: String::new(),
            files: 1,
            bytes,
            created_at: Timestamp::UNIX_EPOCH,
        };
        let new =
            |bytes| NewSkill { tenant: "t", name: "new", description: "", digest: "", files: 1, bytes, content: "" };
        let others = |count: i64| (0..count).map(|n| skill(format!("s{n}"), 1)).collect::<Vec<_>>();
        let versions = |count: i64| (0..count).map(|_| skill("new".into(), 1)).collect::<Vec<_>>();
        for (all, names, bytes, fits) in [
            (others(0), 0, MOST_BYTES, true),
            (others(0), 0, MOST_BYTES + 1, false),
            (others(1), 0, MOST_BYTES - 1, true),
            (others(1), 0, MOST_BYTES, false),
            (others(MOST_SKILLS - 1), 0, 1, true),
            (others(MOST_SKILLS), 0, 1, false),
            (versions(MOST_VERSIONS - 1), 0, 1, true),
            (versions(MOST_VERSIONS), 0, 1, false),
            // A further version of a skill is no further skill.
            ([others(MOST_SKILLS - 1), versions(1)].concat(), 0, 1, true),
            (others(0), MOST_NAMES - 1, 1, true),
            (others(0), MOST_NAMES, 1, false),
        ] {
            assert_eq!(has_room(&all, names, &new(bytes)).is_ok(), fits, "{} {names} {bytes}", all.len());
        }
    }
}
