//! A target that repeats a request's credential does not show it to the client.

use std::sync::Arc;

use async_trait::async_trait;
use nagaya_egress::{Keys, Operations, SecretText, Source, TokenSource};

use crate::support::{Proxy, ask};
use crate::vaults::{HOST, bearer, echo, get, secret, spec, with};

struct Token;

#[async_trait]
impl TokenSource for Token {
    async fn value(&self) -> Option<SecretText> {
        Some(secret("Bearer fetched/token+1=="))
    }
}

/// Each kind of credential, the parts of it that must not be seen, and a part of what the target repeats of it.
fn kinds() -> Vec<(Source, Vec<&'static str>, &'static str)> {
    let keys = Keys {
        access_key_id: "AKIAEXAMPLE1".into(),
        secret_access_key: secret("a secret access key"),
        session_token: Some(secret("a/session/token")),
    };
    let template = Source::header("x-key", "Token token=\"{}\"", &secret("0123-secret-4567")).expect("a header");
    vec![
        (bearer("canary/of-the-header"), vec!["canary/of-the-header"], "authorization: Bearer *"),
        (template, vec!["0123-secret-4567"], "x-key: Token token=\"****************\""),
        (
            Source::basic("user", &secret("the-password")).expect("a password"),
            vec!["the-password", "dXNlcjp0aGUtcGFzc3dvcmQ"],
            "authorization: Basic *",
        ),
        (
            Source::token("authorization", Arc::new(Token)).expect("a header"),
            vec!["fetched/token+1"],
            "authorization: Bearer *",
        ),
        (
            Source::sigv4("execute-api", "us-east-1", &keys).expect("keys"),
            vec!["AKIAEXAMPLE1", "a/session/token", "a secret access key"],
            "x-amz-security-token: ***************\n",
        ),
    ]
}

#[tokio::test]
async fn an_error_page_does_not_show_the_credential_it_repeats() {
    let (_origin, settings) = echo().await;
    for size in [1, 7, 100_000] {
        let proxy = Proxy::start(settings.clone());
        for (source, hidden, repeated) in kinds() {
            let operations = Operations::list([("Mirror", "GET", "/mirror/{size}")]).expect("a list");
            let credential = nagaya_egress::CredentialSpec { operations: Some(operations), ..spec("c", HOST, source) };
            proxy.own().apply(with(&[HOST], vec![credential]));
            // The client does not know the secrets; here it stands for a target that does, and shows them in other forms.
            let says = hidden.join(".").replace(' ', "%20");
            // A client of HTTP/1.0 gets no chunks.
            let request = format!("GET http://{HOST}/mirror/{size}?{says} HTTP/1.0\r\nhost: {HOST}\r\n\r\n");
            let answer = proxy.talk(request).await;
            let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
            assert!(head.starts_with("HTTP/1.1 500 "), "{head}");
            let shown = repeated.replace("\n", "</li>");
            let (name, value) = shown.split_once(": ").expect("a header");
            assert!(body.contains(&format!("<li>{name}: {value}")), "{size} {repeated}: {body}");
            assert!(
                body.ends_with("<p>The end</p>\n") && body.contains("user-agent") == head.contains("user-agent"),
                "{body}"
            );
            for part in hidden {
                let escaped = part.replace(' ', "%20");
                for form in [part, escaped.as_str()] {
                    assert!(!body.contains(form) && !head.contains(form), "{size} {form}: {head}{body}");
                }
            }
            assert!(!head.contains("x-mirror") || head.contains('*'), "{head}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_refused_and_none_is_asked_for() {
    let (_origin, settings) = echo().await;
    let proxy = Proxy::start(settings);
    proxy.own().apply(with(&[HOST], vec![spec("c", HOST, bearer("canary-of-the-header"))]));
    let mut stream = proxy.connect().await;
    let (head, body) = ask(&mut stream, &get("/mirror/9/packed", "accept-encoding: gzip\r\n")).await;
    assert!(head.starts_with("HTTP/1.1 502 ") && body.contains("compressed_answer"), "{head}{body}");
    let mut stream = proxy.connect().await;
    let (_, body) = ask(&mut stream, &get("/echo", "accept-encoding: gzip\r\n")).await;
    assert!(body.contains(r#"["accept-encoding","identity"]"#) && !body.contains("gzip"), "{body}");
    assert!(body.contains(&format!("Bearer {}", "*".repeat(20))), "{body}");
}

/// What object storage has stored in a coding is passed on in it: it repeats no credential there.
#[tokio::test]
async fn stored_objects_keep_their_coding() {
    let (_origin, settings) = echo().await;
    let proxy = Proxy::start(settings);
    let keys =
        Keys { access_key_id: "AKIAEXAMPLE1".into(), secret_access_key: secret("a secret key"), session_token: None };
    let source = Source::sigv4("s3", "us-east-1", &keys).expect("keys");
    let operations = Operations::list([("Get", "GET", "/{bucket}/{+key}")]).expect("a list");
    let credential = nagaya_egress::CredentialSpec { operations: Some(operations), ..spec("c", HOST, source) };
    proxy.own().apply(with(&[HOST], vec![credential]));
    let (head, body) = ask(&mut proxy.connect().await, &get("/mirror/9/packed", "")).await;
    assert!(head.contains("content-encoding: gzip") && body == "not really compressed", "{head}{body}");
    let (_, body) = ask(&mut proxy.connect().await, &get("/echo/x", "")).await;
    assert!(body.contains("Credential=************/"), "{body}");
}
