//! What `nagaya doctor` says of the bucket, and what the configuration says of its settings.

use std::process::Output;

use nagaya_fixtures::s3::{ACCESS_KEY, BUCKET, Fault, SECRET_KEY};

use crate::support::server;

async fn nagaya(command: &str, environment: &[(&str, &str)]) -> (Output, String) {
    let home = tempfile::tempdir().expect("a directory");
    let mut nagaya = tokio::process::Command::new(env!("CARGO_BIN_EXE_nagaya"));
    nagaya.env_clear().env("HOME", home.path()).env("DOCKER_SOCKET_PATH", "/nonexistent").arg(command);
    nagaya.env("AWS_EC2_METADATA_DISABLED", "true");
    nagaya.env("WORKSPACE_SOCKET_BASE_PATH", home.path().join("s")).envs(environment.iter().copied());
    let output = nagaya.output().await.expect("runs");
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!told.contains(SECRET_KEY), "a secret is told: {told}");
    (output, told)
}

fn line<'a>(told: &'a str, start: &str) -> &'a str {
    told.lines().find(|line| line.contains(start)).unwrap_or_else(|| panic!("no {start:?} in {told}"))
}

#[tokio::test]
async fn the_bucket_is_well_or_it_is_told_what_to_do() {
    let server = server().await;
    let url = server.url();
    let right = [
        ("S3_BUCKET_NAME", BUCKET),
        ("S3_ENDPOINT_URL", url.as_str()),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
    ];
    let (_, told) = nagaya("doctor", &right).await;
    assert!(line(&told, "object storage").starts_with("ok "), "{told}");
    let (_, told) = nagaya("doctor", &[]).await;
    assert!(line(&told, "object storage").contains("not configured"), "{told}");
    let (_, told) = nagaya("doctor", &right[..2]).await;
    assert!(line(&told, "object storage").starts_with("BAD ") && told.contains("s3:ListBucket"), "{told}");
    server.set_fault(Fault::Refuse).await.expect("is set");
    let (output, told) = nagaya("doctor", &right).await;
    assert!(line(&told, "object storage").starts_with("BAD ") && told.contains("s3:ListBucket"), "{told}");
    assert_eq!(output.status.code(), Some(69));
    server.set_fault(Fault::Down).await.expect("is set");
    let (_, told) = nagaya("doctor", &right).await;
    assert!(line(&told, "object storage").starts_with("BAD ") && told.contains("S3_ENDPOINT_URL"), "{told}");
}

#[tokio::test]
async fn every_bad_setting_is_told_at_once() {
    let bad = [
        ("S3_BUCKET_NAME", "Not A Bucket"),
        ("S3_WORKSPACE_PREFIX", "/../"),
        ("S3_ENDPOINT_URL", "s3.example.com"),
        ("S3_SYNC_TIMEOUT", "0"),
    ];
    let (output, told) = nagaya("config", &bad).await;
    assert_eq!(output.status.code(), Some(64), "{told}");
    for (name, _) in bad {
        assert!(told.contains(&format!("{name}=")), "{name} in {told}");
    }
    let (output, told) = nagaya("config", &[("S3_BUCKET_NAME", "rooms"), ("S3_WORKSPACE_PREFIX", "a/b")]).await;
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(line(&told, "S3_SYNC_TIMEOUT").contains("30"), "{told}");
}
