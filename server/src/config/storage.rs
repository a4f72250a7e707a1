//! Settings of storage: state directory, database, shared state, audit trail, bucket.

use std::path::PathBuf;

use super::reader::Reader;
use super::units;
use crate::conversation::journal::Retention;
use crate::conversation::store::Database;
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use nagaya_workspace::objects::BucketSettings;
use nagaya_workspace::state::RedisAddress;

/// Settings of storage.
#[derive(Debug, Clone)]
pub struct Storage {
    /// `STATE_DIR`: directory for this server's journals, uploads and, by default, its database and audit trail.
    pub state_dir: PathBuf,
    /// `DATABASE_URL`: SQLite or PostgreSQL database.
    pub database: Database,
    /// `LOG_RETENTION`, `LOG_MAX_BYTES`: how long the log of runs is kept, and how much of it on this server's disk.
    pub log: Retention,
    /// `REDIS_URL`: Redis in which several servers share workspace records; `None` for a file in the state directory.
    pub redis: Option<RedisAddress>,
    /// `AUDIT_LOG`: file of the audit trail; `None` for one in the state directory.
    pub audit_log: Option<PathBuf>,
    /// `DEPLOYMENT_ID`: marks the containers of this deployment; `None` for the id in the state directory.
    pub deployment_id: Option<String>,
    /// `S3_BUCKET_NAME`, `S3_WORKSPACE_PREFIX`, `S3_ENDPOINT_URL`, `S3_SYNC_TIMEOUT`: bucket in which the workspaces' files are
    /// stored; `None` for no file sync.
    pub bucket: Option<BucketSettings>,
    /// `S3_ACCESS_KEY_ID`, `S3_SECRET_ACCESS_KEY`: credentials for the bucket alone; `None` for those that sign calls of models.
    pub bucket_credentials: Option<Credentials>,
}

/// Reads the bucket's own credentials.
fn bucket_credentials(r: &mut Reader) -> Option<Credentials> {
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
    let id = r.get("S3_ACCESS_KEY_ID", "", "the id of an access key", |text| plain(text).then(|| text.to_owned()));
    let secret = r.secret("S3_SECRET_ACCESS_KEY", |text| {
        plain(text).then(|| text.to_owned()).ok_or_else(|| "accepted: one line of visible ASCII".to_owned())
    });
    if id.is_empty() != secret.is_empty() {
        r.error("S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY: set both, or none for the AWS credential chain");
    }
    (!id.is_empty() && !secret.is_empty()).then(|| Credentials::new(id, secret, None, None, "S3_ACCESS_KEY_ID"))
}

/// Whether `text` is a valid deployment id, which becomes a Docker label and part of a directory's name.
fn is_deployment_id(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

impl Storage {
    /// The bucket's own credentials, else `others`.
    #[must_use]
    pub fn bucket_keys(&self, others: Option<SharedCredentialsProvider>) -> Option<SharedCredentialsProvider> {
        self.bucket_credentials.clone().map(SharedCredentialsProvider::new).or(others)
    }

    pub(super) fn read(r: &mut Reader, home: Option<&str>) -> Self {
        let default = format!("{}/.local/state/nagaya", home.unwrap_or("/var/lib/nagaya"));
        let state_dir = r.get("STATE_DIR", &default, "an absolute path", |text| {
            Some(PathBuf::from(text)).filter(|path| path.is_absolute())
        });
        // A secret, because the URL may contain a password.
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
        let log = Retention {
            time: r.get("LOG_RETENTION", "720h", units::DURATION, units::duration),
            bytes: r.get("LOG_MAX_BYTES", "10GiB", units::BYTES, units::bytes),
        };
        Self {
            state_dir,
            database,
            log,
            redis,
            audit_log,
            deployment_id,
            bucket: bucket(r),
            bucket_credentials: bucket_credentials(r),
        }
    }
}

/// Reads the settings of the bucket; `None` if no bucket is named.
fn bucket(r: &mut Reader) -> Option<BucketSettings> {
    let name = r.get(
        "S3_BUCKET_NAME",
        "",
        "the name of a bucket: 3 to 63 lower-case letters, digits, '-', '.'; or nothing for no file sync",
        |text| (text.is_empty() || is_bucket(text)).then(|| text.to_owned()),
    );
    let prefix = r.get(
        "S3_WORKSPACE_PREFIX",
        "workspaces/",
        "up to 200 letters, digits, '-', '_', '.', in components that end with '/', for example workspaces/",
        prefix,
    );
    let endpoint = r.get(
        "S3_ENDPOINT_URL",
        "",
        "http://HOST[:PORT] or https://HOST[:PORT], or nothing for the endpoint of AWS_REGION",
        |text| match text.is_empty() {
            true => Some(None),
            false => endpoint(text).map(Some),
        },
    );
    let sync_timeout = r.get("S3_SYNC_TIMEOUT", "30", "a time from 1s to 60s", |text| {
        units::duration(text).filter(|time| (1..=60).contains(&time.as_secs()))
    });
    (!name.is_empty()).then_some(BucketSettings { name, prefix, endpoint, sync_timeout })
}

/// Whether `text` can be a bucket's name. Of Amazon S3's "General purpose bucket naming rules" it checks those that keep a name from
/// being mistaken for another part of a URL.
fn is_bucket(text: &str) -> bool {
    (3..=63).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && !text.contains("..")
}

/// Normalizes the prefix of object keys so that it ends with '/'.
fn prefix(text: &str) -> Option<String> {
    let parts = text.strip_suffix('/').unwrap_or(text);
    let is_part = |part: &str| {
        !matches!(part, "" | "." | "..") && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    (parts.len() <= 200 && parts.split('/').all(is_part)).then(|| format!("{parts}/"))
}

/// Normalizes the endpoint's URL so that it does not end with '/'.
fn endpoint(text: &str) -> Option<String> {
    let url = url::Url::parse(text).ok()?;
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    let is_valid = matches!(url.scheme(), "http" | "https") && url.has_host() && bare && url.password().is_none();
    is_valid.then(|| url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_names_prefixes_and_endpoints_are_validated() {
        for valid in ["abc", "my-files.eu", "0files9"] {
            assert!(is_bucket(valid), "{valid}");
        }
        for invalid in ["ab", "Files", "a..b", "-files", "files-", "a/b", "a b", &"a".repeat(64)] {
            assert!(!is_bucket(invalid), "{invalid}");
        }
        assert_eq!(prefix("workspaces/").as_deref(), Some("workspaces/"));
        assert_eq!(prefix("a/b_c.d").as_deref(), Some("a/b_c.d/"));
        for invalid in ["", "/", "/a", "a//b", "a/../b", "a/./", "a b/", "ä/"] {
            assert_eq!(prefix(invalid), None, "{invalid}");
        }
        assert_eq!(endpoint("http://127.0.0.1:9000/").as_deref(), Some("http://127.0.0.1:9000"));
        assert_eq!(endpoint("https://s3.example.com").as_deref(), Some("https://s3.example.com"));
        for invalid in
            ["s3.example.com", "ftp://h", "http://u:hunter2@h", "http://h/bucket", "http://h/?x=1", "http://"]
        {
            assert_eq!(endpoint(invalid), None, "{invalid}");
        }
    }
}
