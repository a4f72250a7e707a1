//! Where state lives.

use std::path::PathBuf;

use super::reader::Reader;
use super::units;
use crate::conversation::store::Database;
use nagaya_workspace::objects::BucketSettings;
use nagaya_workspace::state::RedisAddress;

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
    /// `S3_BUCKET_NAME`, `S3_WORKSPACE_PREFIX`, `S3_ENDPOINT_URL`, `S3_SYNC_TIMEOUT`: where rooms' files are kept; `None`
    /// is nowhere.
    pub bucket: Option<BucketSettings>,
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
        Self { state_dir, database, redis, audit_log, deployment_id, bucket: bucket(r) }
    }
}

/// Where rooms' files are kept; `None` where no bucket is named.
fn bucket(r: &mut Reader) -> Option<BucketSettings> {
    let name = r.get(
        "S3_BUCKET_NAME",
        "",
        "a bucket's name: 3 to 63 lower-case letters, digits, '-', '.'; or nothing for no file sync",
        |text| (text.is_empty() || is_bucket(text)).then(|| text.to_owned()),
    );
    let prefix = r.get(
        "S3_WORKSPACE_PREFIX",
        "workspaces/",
        "up to 200 letters, digits, '-', '_', '.', in parts that '/' ends, as workspaces/",
        prefix,
    );
    let endpoint = r.get(
        "S3_ENDPOINT_URL",
        "",
        "http://HOST[:PORT] or https://HOST[:PORT], or nothing for the region's own",
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

/// Amazon S3, "General purpose bucket naming rules", as far as a name could be taken for something else.
fn is_bucket(text: &str) -> bool {
    (3..=63).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && !text.contains("..")
}

/// The prefix with its last '/'.
fn prefix(text: &str) -> Option<String> {
    let parts = text.strip_suffix('/').unwrap_or(text);
    let is_part = |part: &str| {
        !matches!(part, "" | "." | "..") && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    (parts.len() <= 200 && parts.split('/').all(is_part)).then(|| format!("{parts}/"))
}

/// The endpoint without its last '/'.
fn endpoint(text: &str) -> Option<String> {
    let url = url::Url::parse(text).ok()?;
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    let fit = matches!(url.scheme(), "http" | "https") && url.has_host() && bare && url.password().is_none();
    fit.then(|| url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_a_prefix_and_an_endpoint_are_known_from_what_is_none() {
        for good in ["abc", "my-rooms.eu", "0rooms9"] {
            assert!(is_bucket(good), "{good}");
        }
        for bad in ["ab", "Rooms", "a..b", "-rooms", "rooms-", "a/b", "a b", &"a".repeat(64)] {
            assert!(!is_bucket(bad), "{bad}");
        }
        assert_eq!(prefix("workspaces/").as_deref(), Some("workspaces/"));
        assert_eq!(prefix("a/b_c.d").as_deref(), Some("a/b_c.d/"));
        for bad in ["", "/", "/a", "a//b", "a/../b", "a/./", "a b/", "ä/"] {
            assert_eq!(prefix(bad), None, "{bad}");
        }
        assert_eq!(endpoint("http://127.0.0.1:9000/").as_deref(), Some("http://127.0.0.1:9000"));
        assert_eq!(endpoint("https://s3.example.com").as_deref(), Some("https://s3.example.com"));
        for bad in ["s3.example.com", "ftp://h", "http://u:hunter2@h", "http://h/bucket", "http://h/?x=1", "http://"] {
            assert_eq!(endpoint(bad), None, "{bad}");
        }
    }
}
