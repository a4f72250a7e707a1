//! What `nagaya doctor` says of Redis, and what the configuration says of its address.

use std::process::{Command, Output};

use nagaya_fixtures::redis::RedisServer;

fn nagaya(command: &str, environment: &[(&str, &str)]) -> (Output, String) {
    let home = tempfile::tempdir().expect("a directory");
    let mut nagaya = Command::new(env!("CARGO_BIN_EXE_nagaya"));
    // No engine: what is asked here is about Redis.
    nagaya.env_clear().env("HOME", home.path()).env("DOCKER_SOCKET_PATH", "/nonexistent").arg(command);
    nagaya.env("WORKSPACE_SOCKET_BASE_PATH", home.path().join("s")).envs(environment.iter().copied());
    let output = nagaya.output().expect("runs");
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!told.contains("hunter2"), "a password is told: {told}");
    (output, told)
}

fn line<'a>(told: &'a str, start: &str) -> &'a str {
    told.lines().find(|line| line.contains(start)).unwrap_or_else(|| panic!("no {start:?} in {told}"))
}

#[test]
fn a_redis_that_answers_is_well_over_a_socket_and_over_tls() {
    let (server, address) = RedisServer::start_with_tls().expect("a Redis");
    let ca = server.ca_file();
    let trusted = [("SSL_CERT_FILE", ca.to_str().expect("text"))];
    for url in [&server.url(), &address] {
        let (_, told) = nagaya("doctor", &[&[("REDIS_URL", url.as_str())], &trusted[..]].concat());
        assert!(line(&told, "shared state").starts_with("ok "), "{told}");
    }
    // Nobody vouches for it.
    let (_, told) =
        nagaya("doctor", &[("REDIS_URL", &address), ("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")]);
    assert!(line(&told, "shared state").starts_with("BAD "), "{told}");
}

#[test]
fn one_that_is_down_or_wants_a_password_is_bad_and_the_cure_is_told() {
    let (output, told) = nagaya("doctor", &[("REDIS_URL", "redis://:hunter2@127.0.0.1:1")]);
    assert!(line(&told, "shared state").starts_with("BAD "), "{told}");
    assert!(told.contains("Start Redis"), "{told}");
    assert_eq!(output.status.code(), Some(69));
    let server = RedisServer::start_with_password("right").expect("a Redis");
    let (_, told) = nagaya("doctor", &[("REDIS_URL", &format!("{}?pass=hunter2", server.url()))]);
    assert!(line(&told, "shared state").contains("refuses this server"), "{told}");
    let (_, told) = nagaya("doctor", &[("REDIS_URL", &format!("{}?pass=right", server.url()))]);
    assert!(line(&told, "shared state").starts_with("ok "), "{told}");
    let (_, told) = nagaya("doctor", &[]);
    assert!(line(&told, "shared state").starts_with("ok "), "{told}");
}

#[test]
fn an_address_that_is_none_is_refused_before_anything_else() {
    let (output, told) = nagaya("config", &[("REDIS_URL", "http://u:hunter2@h")]);
    assert_eq!(output.status.code(), Some(64), "{told}");
    assert!(line(&told, "REDIS_URL").contains("accepted: redis://"), "{told}");
    let (output, told) = nagaya("config", &[("REDIS_URL", "redis://u:hunter2@h")]);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(line(&told, "REDIS_URL").contains("[redacted]"), "{told}");
}
