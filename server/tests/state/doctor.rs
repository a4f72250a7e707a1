//! `nagaya doctor` on Redis, and the validation of `REDIS_URL`.

use std::process::{Command, Output};

use nagaya_fixtures::redis::RedisServer;

fn nagaya(command: &str, environment: &[(&str, &str)]) -> (Output, String) {
    let home = tempfile::tempdir().expect("a directory");
    let mut nagaya = Command::new(env!("CARGO_BIN_EXE_nagaya"));
    // These tests need no container engine.
    nagaya.env_clear().env("HOME", home.path()).env("DOCKER_SOCKET_PATH", "/nonexistent").arg(command);
    nagaya.env("WORKSPACE_SOCKET_BASE_PATH", home.path().join("s")).envs(environment.iter().copied());
    let output = nagaya.output().expect("runs");
    let printed = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!printed.contains("hunter2"), "a password is printed: {printed}");
    (output, printed)
}

fn line<'a>(printed: &'a str, start: &str) -> &'a str {
    printed.lines().find(|line| line.contains(start)).unwrap_or_else(|| panic!("no {start:?} in {printed}"))
}

#[test]
fn a_redis_that_answers_over_a_socket_or_tls_is_ok() {
    let (server, address) = RedisServer::start_with_tls().expect("a Redis");
    let ca = server.ca_file();
    let trusted = [("SSL_CERT_FILE", ca.to_str().expect("text"))];
    for url in [&server.url(), &address] {
        let (_, printed) = nagaya("doctor", &[&[("REDIS_URL", url.as_str())], &trusted[..]].concat());
        assert!(line(&printed, "shared state").starts_with("ok "), "{printed}");
    }
    // Its certificate is not trusted.
    let (_, printed) =
        nagaya("doctor", &[("REDIS_URL", &address), ("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")]);
    assert!(line(&printed, "shared state").starts_with("BAD "), "{printed}");
}

#[test]
fn a_redis_that_is_down_or_rejects_the_password_is_bad_with_a_remedy() {
    let (output, printed) = nagaya("doctor", &[("REDIS_URL", "redis://:hunter2@127.0.0.1:1")]);
    assert!(line(&printed, "shared state").starts_with("BAD "), "{printed}");
    assert!(printed.contains("Start Redis"), "{printed}");
    assert_eq!(output.status.code(), Some(69));
    let server = RedisServer::start_with_password("right").expect("a Redis");
    let (_, printed) = nagaya("doctor", &[("REDIS_URL", &format!("{}?pass=hunter2", server.url()))]);
    assert!(line(&printed, "shared state").contains("refuses this server"), "{printed}");
    let (_, printed) = nagaya("doctor", &[("REDIS_URL", &format!("{}?pass=right", server.url()))]);
    assert!(line(&printed, "shared state").starts_with("ok "), "{printed}");
    let (_, printed) = nagaya("doctor", &[]);
    assert!(line(&printed, "shared state").starts_with("ok "), "{printed}");
}

#[test]
fn an_invalid_redis_url_is_a_configuration_error() {
    let (output, printed) = nagaya("config", &[("REDIS_URL", "http://u:hunter2@h")]);
    assert_eq!(output.status.code(), Some(64), "{printed}");
    assert!(line(&printed, "REDIS_URL").contains("accepted: redis://"), "{printed}");
    let (output, printed) = nagaya("config", &[("REDIS_URL", "redis://u:hunter2@h")]);
    assert_eq!(output.status.code(), Some(0), "{printed}");
    assert!(line(&printed, "REDIS_URL").contains("[redacted]"), "{printed}");
}
