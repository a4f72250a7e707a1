//! Forwarding: absolute form, gateway, credentials.

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use nagaya_egress::{Decision, Settings};
use nagaya_fixtures::model::{Model, ModelOptions, sigv4};
use nagaya_fixtures::origin::Kind;

use crate::support::{Proxy, any, origin, settings};

const HOST: &str = "bedrock-runtime.us-east-1.amazonaws.com";
const PATH: &str = "/model/us.anthropic.claude-v1:0/invoke-with-response-stream";

async fn model(session_token: Option<&str>) -> Model {
    let credentials = sigv4::Credentials {
        access_key_id: "AKIDTEST".into(),
        secret_access_key: "secret".into(),
        session_token: session_token.map(Into::into),
    };
    let options = ModelOptions { hosts: vec![HOST.into()], credentials: Some(credentials), ..ModelOptions::default() };
    Model::start(any(), any(), options).await.expect("starts")
}

fn for_model(model: &Model) -> Settings {
    Settings {
        allowed: HOST.parse().expect("a list"),
        pins: format!("{HOST}:443:127.0.0.1:{}", model.addr().port()).parse().expect("a pin"),
        credentials: format!("{HOST}=sigv4:bedrock:us-east-1").parse().expect("a rule"),
        gateway: Some(HOST.into()),
        extra_ca_pem: model.ca_pem().map(|pem| pem.as_bytes().to_vec()),
        ..Settings::default()
    }
}

fn aws(secret: &str, token: Option<&str>) -> Option<SharedCredentialsProvider> {
    let credentials = Credentials::new("AKIDTEST", secret, token.map(Into::into), None, "test");
    Some(SharedCredentialsProvider::new(credentials))
}

fn request(target: &str, headers: &str) -> String {
    let body = r#"{"messages":[{"role":"user","content":"@say Guten Tag"}],"tools":[{"name":"Bash"}]}"#;
    let length = body.len();
    format!(
        "POST {target} HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
}

#[tokio::test]
async fn a_model_call_is_signed_and_sent_over_tls() {
    let model = model(Some("token")).await;
    let own =
        format!("host: {HOST}\r\nauthorization: Bearer mine\r\nx-amz-date: 20000101T000000Z\r\nx-api-key: mine\r\n");
    for (target, headers) in
        [(format!("http://{HOST}{PATH}"), own), (PATH.to_owned(), "host: 127.0.0.1:8080\r\n".to_owned())]
    {
        let proxy = Proxy::with_credentials(for_model(&model), aws("secret", Some("token")));
        let answer = proxy.talk(request(&target, &headers)).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("application/vnd.amazon.eventstream"), "{answer}");
        let seen = model.requests().pop().expect("a request");
        assert_eq!((seen.signature, seen.path.as_str()), ("valid", PATH));
        assert!(!seen.headers_seen.contains(&"x-api-key".to_owned()), "{:?}", seen.headers_seen);
        let record = proxy.record().await;
        assert_eq!((record.decision, record.status, record.host.as_str()), (Decision::Allowed, 200, HOST));
    }
}

#[tokio::test]
async fn paths_and_queries_are_signed_as_they_are_sent() {
    let model = model(None).await;
    for path in [
        "/inference-profiles?type=SYSTEM_DEFINED",
        "/inference-profiles?b=2&a=1&a=0&empty=&flag",
        "/inference-profiles?space=%20&plus=%2B&utf8=%E9%95%B7&at=@&slash=%2F",
    ] {
        let proxy = Proxy::with_credentials(for_model(&model), aws("secret", None));
        let answer = proxy.talk(format!("GET http://{HOST}{path} HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await;
        let seen = model.requests().pop().expect("a request");
        assert_eq!((seen.signature, seen.path.as_str()), ("valid", path), "{:?}: {answer}", seen.signature_error);
    }
    for path in ["/model/a:b@c+d/invoke", "/model/a%2Fb/invoke", "/model/a%20b/invoke", "/model/%E9%95%B7/invoke"] {
        let proxy = Proxy::with_credentials(for_model(&model), aws("secret", None));
        let target = format!("http://{HOST}{path}");
        let answer = proxy.talk(request(&target, &format!("host: {HOST}\r\n"))).await;
        let seen = model.requests().pop().expect("a request");
        assert_eq!((seen.signature, seen.path.as_str()), ("valid", path), "{:?}: {answer}", seen.signature_error);
    }
}

#[tokio::test]
async fn without_its_credential_nothing_is_sent() {
    let model = model(None).await;
    let proxy = Proxy::with_credentials(for_model(&model), None);
    let answer = proxy.talk(request(&format!("http://{HOST}{PATH}"), &format!("host: {HOST}\r\n"))).await;
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("no_credentials"), "{answer}");
    assert!(model.requests().is_empty(), "the model was not called");
    // Control: the endpoint rejects a request signed with another secret.
    let proxy = Proxy::with_credentials(for_model(&model), aws("another", None));
    let answer = proxy.talk(request(&format!("http://{HOST}{PATH}"), &format!("host: {HOST}\r\n"))).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert_eq!(model.requests()[0].signature, "invalid");
}

#[tokio::test]
async fn a_host_with_a_credential_gets_no_tunnel() {
    let model = model(None).await;
    let proxy = Proxy::with_credentials(for_model(&model), aws("secret", None));
    let answer = proxy.talk(format!("CONNECT {HOST}:443 HTTP/1.1\r\nhost: {HOST}:443\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("credential_host"), "{answer}");
}

#[tokio::test]
async fn an_untrusted_certificate_is_rejected() {
    let model = model(None).await;
    let proxy = Proxy::with_credentials(Settings { extra_ca_pem: None, ..for_model(&model) }, aws("secret", None));
    let answer = proxy.talk(request(&format!("http://{HOST}{PATH}"), &format!("host: {HOST}\r\n"))).await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains(r#""reason":"tls_certificate""#), "{answer}");
    assert!(model.requests().is_empty());
}

#[tokio::test]
async fn a_header_rule_adds_its_header() {
    let origin = origin(Kind::Https(vec!["api.example".into()])).await;
    let mut settings = settings(&[("api.example:443", origin.addr())]);
    settings.credentials = settings.credentials.with_header("api.example", "X-Api-Key", "hunter2");
    settings.extra_ca_pem = origin.ca_pem().map(|pem| pem.as_bytes().to_vec());
    let proxy = Proxy::start(settings);
    let answer =
        proxy.talk("GET http://api.example/echo?q=1 HTTP/1.1\r\nhost: api.example\r\nx-api-key: mine\r\n\r\n").await;
    assert!(answer.contains(r#"["x-api-key","hunter2"]"#) && !answer.contains("mine"), "{answer}");
    assert!(answer.contains(r#"["host","api.example"]"#) && answer.contains(r#""query":"q=1""#), "{answer}");
}

/// A header that some servers read as the rule's, whichever that is, would arrive beside it.
#[tokio::test]
async fn a_twin_of_a_rules_header_is_refused() {
    let origin = origin(Kind::Https(vec!["api.example".into()])).await;
    let mut settings = settings(&[("api.example:443", origin.addr())]);
    settings.credentials = settings.credentials.with_header("api.example", "X-Private-Token", "hunter2");
    settings.extra_ca_pem = origin.ca_pem().map(|pem| pem.as_bytes().to_vec());
    let proxy = Proxy::start(settings);
    for (header, status) in
        [("x-private-token", 200), ("x_private_token2", 200), ("x_private_token", 400), ("x.private-token", 400)]
    {
        let head = "GET http://api.example/echo HTTP/1.1\r\nhost: api.example\r\nconnection: close\r\n";
        let answer = proxy.talk(format!("{head}{header}: mine\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{header}: {answer}");
    }
}

#[tokio::test]
async fn plain_http_is_forwarded_without_hop_by_hop_headers() {
    let origin = origin(Kind::Http).await;
    let proxy = Proxy::start(settings(&[("web.example:80", origin.addr())]));
    let answer = proxy
        .talk(
            "POST http://web.example/echo HTTP/1.1\r\nhost: web.example\r\nproxy-authorization: Basic c2VjcmV0\r\n\
             connection: close, x-hop\r\nx-hop: 1\r\nx-end: 2\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains(r#""body_bytes":4"#) && answer.contains(r#"["x-end","2"]"#), "{answer}");
    assert!(!answer.contains("x-hop") && !answer.contains("proxy-authorization"), "{answer}");
    let record = proxy.record().await;
    assert_eq!((record.method.as_str(), record.bytes_up, record.status), ("POST", 4, 200));
    assert!(record.bytes_down > 0 && record.rule.as_deref() == Some("web.example:80"));
}

#[tokio::test]
async fn a_response_is_streamed_as_it_arrives() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind(any()).await.expect("binds");
    let proxy = Proxy::start(settings(&[("slow.example:80", listener.local_addr().expect("an address"))]));
    let mut client = proxy.connect().await;
    client.write_all(b"GET http://slow.example/ HTTP/1.1\r\nhost: slow.example\r\n\r\n").await.expect("writes");
    let (mut target, _) = listener.accept().await.expect("accepts");
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    target.write_all(head).await.expect("writes");
    for n in 0..3 {
        target.write_all(format!("4\r\npar{n}\r\n").as_bytes()).await.expect("writes");
        // The next part is sent only once this one has arrived.
        let mut seen = String::new();
        while !seen.contains(&format!("par{n}")) {
            let mut byte = [0];
            let read = tokio::time::timeout(crate::support::DEADLINE, client.read(&mut byte));
            assert_eq!(read.await.expect("in time").expect("reads"), 1, "{seen}");
            seen.push(char::from(byte[0]));
        }
    }
}

#[tokio::test]
async fn denied_and_malformed_requests_are_refused_with_a_reason() {
    let origin = origin(Kind::Http).await;
    for (head, status) in [
        ("GET http://evil.example/secret?token=x HTTP/1.1\r\nhost: evil.example\r\n", 403),
        ("GET http://web.example:8080/ HTTP/1.1\r\nhost: web.example:8080\r\n", 403),
        ("GET http://169.254.169.254/latest HTTP/1.1\r\nhost: 169.254.169.254\r\n", 403),
        ("GET http://web.example/ HTTP/1.1\r\nhost: other.example\r\n", 400),
        ("GET http://web.example/ HTTP/1.1\r\nhost: web.example\r\nhost: web.example\r\n", 400),
        ("GET https://web.example/ HTTP/1.1\r\nhost: web.example\r\n", 400),
        ("GET http://u:p@web.example/ HTTP/1.1\r\nhost: web.example\r\n", 400),
        ("GET http://0x7f.1/ HTTP/1.1\r\nhost: 0x7f.1\r\n", 400),
        ("GET /origin-form HTTP/1.1\r\nhost: web.example\r\n", 400),
        ("POST http://web.example/ HTTP/1.1\r\nhost: web.example\r\ncontent-length: +5\r\n", 400),
        ("POST http://web.example/ HTTP/1.1\r\nhost: web.example\r\ncontent-length: 1\r\ncontent-length: 2\r\n", 400),
        ("GET http://web.example/ HTTP/1.1\r\nhost: web.example\r\nbad header: x\r\n", 400),
        ("POST http://web.example/ HTTP/1.1\r\nhost: web.example\r\ntransfer-encoding: gzip\r\n", 400),
        (
            "POST http://web.example/ HTTP/1.1\r\nhost: web.example\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n",
            400,
        ),
    ] {
        let proxy = Proxy::start(settings(&[("web.example:80", origin.addr())]));
        let answer = proxy.talk(format!("{head}\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {answer}");
        assert!(!answer.contains("token=x"), "an answer echoes nothing: {answer}");
    }
}

#[tokio::test]
async fn a_name_that_resolves_to_a_special_address_is_refused() {
    // Listed as an address, so that no DNS is needed; not pinned, so that the address policy applies.
    let settings = Settings { allowed: "127.0.0.1 [::ffff:10.0.0.1]".parse().expect("a list"), ..Settings::default() };
    for (target, reason) in [("127.0.0.1", "address_loopback"), ("[::ffff:10.0.0.1]", "address_private")] {
        let proxy = Proxy::start(settings.clone());
        let answer = proxy.talk(format!("GET http://{target}/ HTTP/1.1\r\nhost: {target}\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains(reason), "{target}: {answer}");
    }
}
