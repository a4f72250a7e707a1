//! Where state lives.

use std::path::PathBuf;

use super::reader::Reader;
use crate::conversation::store::Database;
use crate::state::RedisAddress;

/// Settings of what is kept.
#[derive(Debug, Clone)]
pub struct Storage {
    /// `STATE_DIR`
    pub state_dir: PathBuf,
    /// `DATABASE_URL`
    pub database: Database,
    /// `REDIS_URL`: state that several servers share; `None` is a file in the state directory.
    pub redis: Option<RedisAddress>,
    /// `AUDIT_LOG`: the audit trail's file; `None` is the one in the state directory.
    pub audit_log: Option<PathBuf>,
    /// `DEPLOYMENT_ID`; `None` is the one kept in the state directory.
    pub deployment_id: Option<String>,
}

/// Characters of a deployment id: it becomes a Docker label and part of a directory's name.
fn is_deployment_id(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

impl Storage {
    pub(super) fn read(r: &mut Reader, home: Option<&str>) -> Self {
        let default = format!("{}/.local/state/nagaya", home.unwrap_or("/var/lib/nagaya"));
        let state_dir = r.get("STATE_DIR", &default, "an absolute path", |text| {
            Some(PathBuf::from(text)).filter(|path| path.is_absolute())
        });
        // It may hold a password.
        let file = Database::Sqlite(state_dir.join("nagaya.sqlite"));
        let database = r.secret("DATABASE_URL", |text| match text.is_empty() {
            true => Ok(file.clone()),
            false => text.parse().map_err(str::to_owned),
        });
        let audit_log = r.get("AUDIT_LOG", "", "an absolute path, or nothing for a file in STATE_DIR", |text| {
            let path = Some(PathBuf::from(text)).filter(|_| !text.is_empty());
            path.as_ref().is_none_or(|path| path.is_absolute()).then_some(path)
        });
        let deployment_id =
            r.get("DEPLOYMENT_ID", "", "1 to 63 letters, digits, '-', '_', '.'", |text| match text.is_empty() {
                true => Some(None),
                false => is_deployment_id(text).then(|| Some(text.to_owned())),
            });
        let redis = r.secret("REDIS_URL", |text| match text.is_empty() {
            true => Ok(None),
            false => RedisAddress::parse(text).map(Some),
        });
        unsupported(r, "S3_BUCKET_NAME", "this version has no file sync");
        Self { state_dir, database, redis, audit_log, deployment_id }
    }
}

/// A setting of the contract that this version cannot honour: better refused than ignored.
fn unsupported(r: &mut Reader, name: &'static str, why: &str) {
    r.secret(name, |text| if text.is_empty() { Ok(()) } else { Err(format!("{why}; leave it empty")) });
}
