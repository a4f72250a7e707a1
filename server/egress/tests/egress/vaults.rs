//! Credentials that come with a policy.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use nagaya_egress::{
    Credential, CredentialSpec, Keys, Operations, Policy, PolicySpec, SecretText, Settings, Source, TokenSource, When,
};
use nagaya_fixtures::model::{Model, ModelOptions, sigv4};
use nagaya_fixtures::origin::{Kind, Origin};
use tokio::net::UnixStream;

use crate::support::{Proxy, any, ask, built, layer, origin, settings, tenant};

pub(crate) const HOST: &str = "api.example";
const BEDROCK: &str = "bedrock-runtime.us-east-1.amazonaws.com";

pub(crate) fn secret(text: &str) -> SecretText {
    SecretText::new(text.to_owned())
}

pub(crate) fn bearer(text: &str) -> Source {
    Source::header("authorization", "Bearer {}", &secret(text)).expect("a header")
}

pub(crate) fn spec(name: &str, host: &str, source: Source) -> CredentialSpec {
    CredentialSpec {
        name: name.into(),
        host: host.into(),
        methods: Vec::new(),
        paths: Vec::new(),
        when: When::Always,
        operations: None,
        source,
    }
}

/// A policy for these hosts with credentials.
pub(crate) fn with(hosts: &[&str], credentials: Vec<CredentialSpec>) -> Arc<Policy> {
    let credentials =
        credentials.into_iter().map(|spec| Arc::new(Credential::new(spec).expect("a credential"))).collect();
    built(PolicySpec { name: "vaults".into(), layers: vec![layer("tenant", hosts)], credentials, models: None })
}

/// A target that repeats what it is sent. The secrets of these tests are so short that they are not hidden in its answers.
pub(crate) async fn echo() -> (Origin, Settings) {
    let origin = origin(Kind::Https(vec![HOST.into()])).await;
    let mut settings = settings(&[("api.example:443", origin.addr())]);
    settings.extra_ca_pem = origin.ca_pem().map(|pem| pem.as_bytes().to_vec());
    (origin, settings)
}

pub(crate) fn get(path: &str, header: &str) -> String {
    format!("GET http://{HOST}{path} HTTP/1.1\r\nhost: {HOST}\r\n{header}\r\n")
}

#[tokio::test]
async fn two_listeners_get_their_own_credential_for_one_host() {
    let (_origin, settings) = echo().await;
    let proxy = Proxy::start(settings);
    let (_dir, other, path) = proxy.another_as(tenant("b"));
    proxy.own().assign(tenant("a"), with(&[HOST], vec![spec("a", HOST, bearer("of-a"))]));
    other.apply(with(&[HOST], vec![spec("b", HOST, bearer("of-b"))]));
    let (mut one, mut two) = (proxy.connect().await, UnixStream::connect(&path).await.expect("connects"));
    for _ in 0..5 {
        let (_, body) = ask(&mut one, &get("/echo", "")).await;
        assert!(body.contains("Bearer of-a") && !body.contains("of-b"), "{body}");
        let (_, body) = ask(&mut two, &get("/echo", "")).await;
        assert!(body.contains("Bearer of-b") && !body.contains("of-a"), "{body}");
    }
    // Without a credential of its own, one gets none.
    other.apply(with(&["api.example:443"], vec![]));
    assert!(ask(&mut two, &get("/echo", "")).await.1.contains("not_allowed"), "not by TLS, so by port 80");
}

/// The first that matches counts: those of the policy in their order, then the operator's.
#[tokio::test]
async fn the_first_credential_that_matches_is_added() {
    let (_origin, mut settings) = echo().await;
    settings.credentials = settings.credentials.with_header(HOST, "x-operator", "the-op");
    let proxy = Proxy::start(settings);
    let mcp = CredentialSpec { paths: vec!["/echo/mcp".into()], ..spec("mcp", HOST, bearer("for-mcp")) };
    let write = CredentialSpec {
        methods: vec!["PUT".into()],
        paths: vec!["/echo".into()],
        ..spec("write", HOST, bearer("writes"))
    };
    let never = spec("never", "api.example:8443", bearer("port"));
    proxy.own().apply(with(&[HOST], vec![never, mcp, write]));
    let mut stream = proxy.connect().await;
    for (method, path, expected, name) in [
        ("GET", "/echo/mcp", "for-mcp", "mcp"),
        ("PUT", "/echo/mcp/x", "for-mcp", "mcp"),
        ("PUT", "/echo/x", "writes", "write"),
        ("GET", "/echo/x", "the-op", "operator:1"),
        ("GET", "/echo/mcpx", "the-op", "operator:1"),
    ] {
        proxy.records.clear();
        let head = format!("{method} http://{HOST}{path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 0\r\n\r\n");
        let (_, body) = ask(&mut stream, &head).await;
        let secrets = ["for-mcp", "writes", "the-op", "port"];
        let added: Vec<&str> = secrets.into_iter().filter(|secret| body.contains(secret)).collect();
        assert_eq!(added, [expected], "{method} {path}: {body}");
        assert_eq!(proxy.record().await.credential.as_deref(), Some(name), "{method} {path}");
    }
    for (path, header, reason) in [
        ("/echo/x/../mcp", "", "ambiguous_path"),
        ("/echo//mcp", "", "ambiguous_path"),
        ("/echo/%6dcp", "x-http-method-override: PUT\r\n", ""),
        ("/echo/x", "x-http-method-override: PUT\r\n", "method_override"),
        ("/echo/mcp", "x-original-url: /admin\r\n", "path_override"),
    ] {
        let (_, body) = ask(&mut stream, &get(path, header)).await;
        assert!(body.contains(if reason.is_empty() { "for-mcp" } else { reason }), "{path} {header}: {body}");
    }
}

/// A client's own header of the same name does not arrive beside the secret, in whatever case or spelling.
#[tokio::test]
async fn a_clients_own_header_gives_way() {
    let (_origin, settings) = echo().await;
    let proxy = Proxy::start(settings);
    let source = Source::header("X-Private-Token", "{}", &secret("hunter2")).expect("a header");
    proxy.own().apply(with(&[HOST], vec![spec("c", HOST, source)]));
    for header in
        ["x-private-token: mine\r\n", "X-PRIVATE-TOKEN: mine\r\nx-private-token: mine\r\n", "authorization: mine\r\n"]
    {
        let answer = proxy.talk(get("/echo", &format!("{header}connection: close\r\n"))).await;
        assert!(answer.contains(r#"["x-private-token","hunter2"]"#) && !answer.contains("mine"), "{answer}");
        assert_eq!(answer.matches("x-private-token").count(), 1, "{answer}");
    }
    let twin = proxy.talk(get("/echo", "x_private_token: mine\r\n")).await;
    assert!(twin.starts_with("HTTP/1.1 400 "), "{twin}");
}

#[tokio::test]
async fn outside_runs_credentials_follow_their_rule() {
    let (_origin, settings) = echo().await;
    let proxy = Proxy::start(settings);
    let run = CredentialSpec { when: When::Run, paths: vec!["/echo/run".into()], ..spec("run", HOST, bearer("r")) };
    proxy.own().apply(with(&[HOST], vec![run, spec("always", HOST, bearer("a"))]));
    let mut stream = proxy.connect().await;
    for running in [false, true, false] {
        proxy.own().running(running);
        let (head, body) = ask(&mut stream, &get("/echo/run", "")).await;
        assert_eq!(head.starts_with("HTTP/1.1 200 "), running, "{head}{body}");
        assert!(body.contains(if running { "Bearer r" } else { "no_run" }) && !body.contains("Bearer a"), "{body}");
        assert!(ask(&mut stream, &get("/echo/other", "")).await.1.contains("Bearer a"));
    }
}

/// A token that is refreshed by its owner.
struct Counting(AtomicUsize);

#[async_trait]
impl TokenSource for Counting {
    async fn value(&self) -> Option<SecretText> {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        (number < 2).then(|| secret(&format!("t-{number}")))
    }
}

#[tokio::test]
async fn a_token_is_the_current_one() {
    let (_origin, settings) = echo().await;
    let proxy = Proxy::start(settings);
    let source = Source::token("authorization", Arc::new(Counting(AtomicUsize::new(0)))).expect("a header");
    proxy.own().apply(with(&[HOST], vec![spec("oauth", HOST, source)]));
    let mut stream = proxy.connect().await;
    for number in 0..2 {
        let (_, body) = ask(&mut stream, &get("/echo", "")).await;
        assert!(body.contains(&format!("\"t-{number}\"")), "{body}");
    }
    let (head, body) = ask(&mut stream, &get("/echo", "")).await;
    assert!(head.starts_with("HTTP/1.1 401 ") && body.contains("no_credentials"), "{head}{body}");
}

/// A tenant's own keys sign, although the operator has none; operations that are not listed are not signed.
#[tokio::test]
async fn a_tenants_own_keys_sign_the_listed_operations_only() {
    let credentials = sigv4::Credentials {
        access_key_id: "AKIDTENANT".into(),
        secret_access_key: "hunter2".into(),
        session_token: Some("token".into()),
    };
    let options =
        ModelOptions { hosts: vec![BEDROCK.into()], credentials: Some(credentials), ..ModelOptions::default() };
    let model = Model::start(any(), any(), options).await.expect("starts");
    let mut settings = settings(&[("bedrock-runtime.us-east-1.amazonaws.com:443", model.addr())]);
    settings.extra_ca_pem = model.ca_pem().map(|pem| pem.as_bytes().to_vec());
    let proxy = Proxy::start(settings);
    let keys = Keys {
        access_key_id: "AKIDTENANT".into(),
        secret_access_key: secret("hunter2"),
        session_token: Some(secret("token")),
    };
    let source = Source::sigv4("bedrock", "us-east-1", &keys).expect("keys");
    proxy.own().apply(with(&[BEDROCK], vec![spec("own", BEDROCK, source)]));
    let request = |method: &str, path: &str, header: &str| {
        let body = r#"{"messages":[{"role":"user","content":"@say hi"}]}"#;
        format!(
            "{method} http://{BEDROCK}{path} HTTP/1.1\r\nhost: {BEDROCK}\r\ncontent-length: {}\r\n{header}connection: close\r\n\r\n{body}",
            body.len()
        )
    };
    let arn = "arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Ainference-profile%2Fus.claude";
    for (path, operation) in
        [("/model/claude/invoke".to_owned(), "InvokeModel"), (format!("/model/{arn}/invoke"), "InvokeModel")]
    {
        proxy.records.clear();
        let answer = proxy.talk(request("POST", &path, "")).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
        assert_eq!(model.requests().pop().map(|seen| (seen.signature, seen.path)), Some(("valid", path)));
        assert_eq!(proxy.record().await.operation.as_deref(), Some(operation));
    }
    let before = model.requests().len();
    for (method, path, header) in [
        ("POST", "/model/claude/invoke-with-bidirectional-stream", ""),
        ("POST", "/async-invoke", ""),
        ("POST", "/guardrail/x/version/1/apply", ""),
        ("GET", "/foundation-models", ""),
        ("DELETE", "/inference-profiles/x", ""),
        ("POST", "/model/claude/./invoke", ""),
        ("POST", "//model/claude/invoke", ""),
        ("POST", "/model/..%2fclaude/invoke", ""),
        ("POST", "/model/claude/invoke;x", ""),
        ("POST", "/model/claude/invoke", "x-http-method-override: GET\r\n"),
    ] {
        let reason = if header.is_empty() { "operation_not_allowed" } else { "method_override" };
        let answer = proxy.talk(request(method, path, header)).await;
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains(reason), "{path}: {answer}");
        if header.is_empty() {
            assert!(answer.contains(&path.replace(';', "?")), "the operation is named: {answer}");
        }
    }
    assert_eq!(model.requests().len(), before, "nothing was signed");
}

/// No error, record or debugging output shows a secret.
#[tokio::test]
async fn secrets_are_never_shown() {
    let (_origin, mut settings) = echo().await;
    settings.allowed = "api.example:443 down.example:443".parse().expect("a list");
    settings.pins = "api.example:443:127.0.0.1:1 down.example:443:127.0.0.1:1".parse().expect("pins");
    let proxy = Proxy::start(settings);
    let canary = "canary-8d1f";
    let basic = Source::basic("user", &secret(canary)).expect("a header");
    let keys =
        Keys { access_key_id: "AKID".into(), secret_access_key: secret(canary), session_token: Some(secret(canary)) };
    let signed = CredentialSpec {
        operations: Some(Operations::list([("Any", "GET", "/{+rest}")]).expect("a list")),
        ..spec("signed", "signed.example", Source::sigv4("s3", "us-east-1", &keys).expect("keys"))
    };
    let policy = with(
        &["api.example", "down.example", "signed.example"],
        vec![spec("bearer", HOST, bearer(canary)), spec("basic", "down.example", basic), signed],
    );
    proxy.own().apply(policy.clone());
    let mut shown = format!("{policy:?} {:?} {:?}", proxy.own(), proxy.egress);
    for host in [HOST, "down.example", "signed.example"] {
        for path in ["/x", "/%zz", "/a//b"] {
            let head = format!("GET http://{host}{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
            let answer = proxy.talk(head).await;
            assert!(answer.contains("x-nagaya-egress"), "the proxy's own: {answer}");
            shown.push_str(&answer);
        }
    }
    shown.push_str(&format!("{:?}", proxy.records.all()));
    // Also not as base64, which is how it is sent: user:canary-8d1f.
    assert!(!shown.contains(canary) && !shown.contains("dXNlcjpjYW5hcnktOGQxZg"), "{shown}");
}
