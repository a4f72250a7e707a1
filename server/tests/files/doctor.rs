//! `nagaya doctor` checks the bucket, and `nagaya config` its settings.

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
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!text.contains(SECRET_KEY), "the output shows a secret: {text}");
    (output, text)
}

fn line<'a>(text: &'a str, start: &str) -> &'a str {
    text.lines().find(|line| line.contains(start)).unwrap_or_else(|| panic!("no {start:?} in {text}"))
}

#[tokio::test]
async fn doctor_reports_a_usable_bucket_or_says_what_to_do() {
    let server = server().await;
    let url = server.url();
    let right = [
        ("S3_BUCKET_NAME", BUCKET),
        ("S3_ENDPOINT_URL", url.as_str()),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
    ];
    let (_, text) = nagaya("doctor", &right).await;
    assert!(line(&text, "object storage").starts_with("ok "), "{text}");
    let (_, text) = nagaya("doctor", &[]).await;
    assert!(line(&text, "object storage").contains("not configured"), "{text}");
    let (_, text) = nagaya("doctor", &right[..2]).await;
    assert!(line(&text, "object storage").starts_with("BAD ") && text.contains("s3:ListBucket"), "{text}");
    server.set_fault(Fault::Refuse).await.expect("sets the fault");
    let (output, text) = nagaya("doctor", &right).await;
    assert!(line(&text, "object storage").starts_with("BAD ") && text.contains("s3:ListBucket"), "{text}");
    assert_eq!(output.status.code(), Some(69));
    server.set_fault(Fault::Down).await.expect("sets the fault");
    let (_, text) = nagaya("doctor", &right).await;
    assert!(line(&text, "object storage").starts_with("BAD ") && text.contains("S3_ENDPOINT_URL"), "{text}");
}

#[tokio::test]
async fn every_invalid_setting_is_reported_at_once() {
    let bad = [
        ("S3_BUCKET_NAME", "Not A Bucket"),
        ("S3_WORKSPACE_PREFIX", "/../"),
        ("S3_ENDPOINT_URL", "s3.example.com"),
        ("S3_SYNC_TIMEOUT", "0"),
    ];
    let (output, text) = nagaya("config", &bad).await;
    assert_eq!(output.status.code(), Some(64), "{text}");
    for (name, _) in bad {
        assert!(text.contains(&format!("{name}=")), "{name} in {text}");
    }
    let (output, text) = nagaya("config", &[("S3_BUCKET_NAME", "rooms"), ("S3_WORKSPACE_PREFIX", "a/b")]).await;
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(line(&text, "S3_SYNC_TIMEOUT").contains("30"), "{text}");
}
