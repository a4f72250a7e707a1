//! Model requests: which models may be asked, what their provider may execute, and when.

use std::sync::Arc;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use nagaya_egress::{
    Credential, CredentialSpec, ModelPolicy, Operations, Policy, PolicySpec, Question, Settings, Source,
};
use nagaya_fixtures::model::{Model, ModelOptions, sigv4};

use crate::support::{Proxy, any, built, layer, settings};
use crate::vaults::{secret, spec};

const MESSAGES: &str = "api.anthropic.com";
const BEDROCK: &str = "bedrock-runtime.us-east-1.amazonaws.com";
const KEY: &str = "sk-hunter2";

async fn model() -> (Model, Settings) {
    let options = ModelOptions {
        hosts: vec![MESSAGES.into(), BEDROCK.into()],
        credentials: Some(sigv4::Credentials {
            access_key_id: "AKIDTEST".into(),
            secret_access_key: "secret".into(),
            session_token: None,
        }),
        anthropic_api_key: Some(KEY.into()),
        ..ModelOptions::default()
    };
    let model = Model::start(any(), any(), options).await.expect("starts");
    let hosts = [(format!("{MESSAGES}:443"), model.addr()), (format!("{BEDROCK}:443"), model.addr())];
    let hosts: Vec<_> = hosts.iter().map(|(host, to)| (host.as_str(), *to)).collect();
    let mut settings = settings(&hosts);
    settings.extra_ca_pem = model.ca_pem().map(|pem| pem.as_bytes().to_vec());
    settings.credentials = format!("{BEDROCK}=sigv4:bedrock:us-east-1").parse().expect("a rule");
    (model, settings)
}

fn proxy(settings: Settings) -> Proxy {
    let credentials = Credentials::new("AKIDTEST", "secret", None, None, "test");
    Proxy::with_credentials(settings, Some(SharedCredentialsProvider::new(credentials)))
}

fn key() -> CredentialSpec {
    let source = Source::header("x-api-key", "{}", &secret(KEY)).expect("a header");
    CredentialSpec { operations: Some(Operations::messages()), ..spec("anthropic", MESSAGES, source) }
}

fn policy(models: ModelPolicy) -> Arc<Policy> {
    let credentials = vec![Arc::new(Credential::new(key()).expect("a credential"))];
    let layers = vec![layer("tenant", &[MESSAGES, BEDROCK])];
    built(PolicySpec { name: "models".into(), layers, credentials, models: Some(models) })
}

fn post(host: &str, path: &str, header: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST http://{host}{path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}\r\nconnection: close\r\n{header}\r\n{body}"
    )
}

/// What a room may send to the Messages API by itself, and what never arrives there.
#[tokio::test]
async fn a_messages_request_with_a_forbidden_model_tool_or_operation_is_refused() {
    let (model, settings) = model().await;
    let proxy = proxy(settings);
    proxy.own().apply(policy(ModelPolicy::new(["claude-main", "claude-small"]).with_server_tools(["web_search"])));
    let good = r#"{"model":"claude-main","max_tokens":1,"messages":[{"role":"user","content":"@say hi"}],"tools":[{"name":"Bash"}]}"#;
    let large = format!(r#"{{"system":"{}","model":"claude-small","messages":[]}}"#, "x".repeat(3 << 20));
    let searching =
        r#"{"model":"claude-main","tools":[{"type":"web_search_20250305","name":"web_search"}],"messages":[]}"#;
    for (path, body) in [
        ("/v1/messages", good),
        ("/v1/messages?beta=true", good),
        ("/v1/messages/count_tokens", good),
        ("/v1/messages", &large),
        ("/v1/messages", searching),
    ] {
        let answer = proxy.talk(post(MESSAGES, path, "", body)).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
        assert_eq!(model.requests().pop().map(|seen| seen.signature), Some("valid"), "{path}");
    }
    let chunked = format!(
        "POST http://{MESSAGES}/v1/messages HTTP/1.1\r\nhost: {MESSAGES}\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n{:x}\r\n{good}\r\n0\r\n\r\n",
        good.len()
    );
    assert!(proxy.talk(chunked).await.starts_with("HTTP/1.1 200 "));
    let before = model.requests().len();
    let late =
        format!(r#"{{"model":"claude-main","x":"{}","mcp_servers":[{{"url":"https://x"}}]}}"#, "x".repeat(2 << 20));
    for (path, header, body, status, reason) in [
        ("/v1/messages", "", r#"{"model":"claude-large"}"#, 403, "model_not_allowed"),
        ("/v1/messages/count_tokens", "", r#"{"model":"claude-large"}"#, 403, "model_not_allowed"),
        ("/v1/messages", "", r#"{"messages":[]}"#, 403, "model_not_allowed"),
        ("/v1/messages", "", r#"{"model":"claude-main","fallbacks":["claude-large"]}"#, 403, "model_not_allowed"),
        (
            "/v1/messages",
            "",
            r#"{"model":"claude-main","tools":[{"type":"web_fetch_20250910"}]}"#,
            403,
            "server_tool_not_allowed",
        ),
        ("/v1/messages", "", r#"{"model":"claude-main","mcp_servers":[{}]}"#, 403, "server_tool_not_allowed"),
        ("/v1/messages", "", &late, 403, "server_tool_not_allowed"),
        (
            "/v1/messages",
            "",
            r#"{"model":"claude-main","messages":[{"role":"user","content":[{"type":"image","source":{"type":"url","url":"https://x"}}]}]}"#,
            403,
            "server_tool_not_allowed",
        ),
        ("/v1/messages", "", r#"{"model":"claude-main","model":"claude-large"}"#, 400, "ambiguous_body"),
        ("/v1/messages", "", r#"{"model":"claude-main","m\u006fdel":"claude-large"}"#, 400, "ambiguous_body"),
        ("/v1/messages", "", "", 400, "ambiguous_body"),
        ("/v1/messages", "content-encoding: gzip\r\n", good, 403, "compressed_body"),
        ("/v1/messages/batches", "", good, 403, "operation_not_allowed"),
        ("/v1/files", "", good, 403, "operation_not_allowed"),
        ("/v1//messages", "", good, 403, "operation_not_allowed"),
        ("/v1/%6dessages", "", good, 403, "operation_not_allowed"),
    ] {
        let answer = proxy.talk(post(MESSAGES, path, header, body)).await;
        let shown = body.chars().take(200).collect::<String>();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(reason),
            "{path} {shown}: {answer}"
        );
        // In the form of the Messages API, so that its clients show the message.
        assert!(answer.contains(r#""type":"error""#), "{answer}");
    }
    assert_eq!(model.requests().len(), before, "none of them arrived");
    assert!(!format!("{:?}", proxy.records.all()).contains(KEY));
}

#[tokio::test]
async fn a_refusal_names_the_model_and_nothing_harmful() {
    let (_model, settings) = model().await;
    let proxy = proxy(settings);
    proxy.own().apply(policy(ModelPolicy::new(["claude-main"])));
    let name = format!("evil\u{1b}<b>{}", "x".repeat(300)).replace('\u{1b}', "\u{7f}");
    let answer = proxy.talk(post(MESSAGES, "/v1/messages", "", &format!(r#"{{"model":"{name}"}}"#))).await;
    assert!(answer.contains("model_not_allowed") && answer.contains("evil??b?xxx"), "{answer}");
    assert!(!answer.contains('<') && !answer.contains(&"x".repeat(200)), "{answer}");
}

/// For Bedrock the model is in the path, decoded; bodies are read as well.
#[tokio::test]
async fn a_bedrock_request_with_a_forbidden_model_or_tool_is_refused() {
    let (model, settings) = model().await;
    let proxy = proxy(settings);
    let arn = "arn:aws:bedrock:us-east-1:1:inference-profile/us.claude";
    proxy.own().apply(policy(ModelPolicy::new(["us.claude-main-v1:0", arn])));
    let body =
        r#"{"anthropic_version":"x","messages":[{"role":"user","content":"@say hi"}],"tools":[{"name":"Bash"}]}"#;
    let encoded = arn.replace(':', "%3A").replace('/', "%2F");
    for path in [
        "/model/us.claude-main-v1:0/invoke".to_owned(),
        "/model/us.claude-main-v1%3A0/invoke-with-response-stream".to_owned(),
        format!("/model/{encoded}/invoke"),
        "/model/us.claude-main-v1:0/count-tokens".to_owned(),
    ] {
        let answer = proxy.talk(post(BEDROCK, &path, "", body)).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
        assert_eq!(model.requests().pop().map(|seen| (seen.signature, seen.path)), Some(("valid", path)));
    }
    let before = model.requests().len();
    let additional = r#"{"messages":[],"additionalModelRequestFields":{"tools":[{"type":"web_search_20250305"}]}}"#;
    for (path, header, body, reason) in [
        ("/model/us.claude-large/invoke", "", body, "model_not_allowed"),
        ("/model/us.claude-main-v1:0%20/invoke", "", body, "model_not_allowed"),
        ("/model/us.claude-large/count-tokens", "", body, "model_not_allowed"),
        ("/model/us.claude-main-v1:0/converse", "", additional, "server_tool_not_allowed"),
        (
            "/model/us.claude-main-v1:0/converse-stream",
            "",
            r#"{"toolConfig":{"tools":[{"systemTool":{}}]}}"#,
            "server_tool_not_allowed",
        ),
        ("/model/us.claude-main-v1:0/invoke", "", r#"{"model":"us.claude-large"}"#, "model_not_allowed"),
        ("/model/us.claude-main-v1:0/invoke", "", r#"{"tools":[],"tools":[]}"#, "ambiguous_body"),
        ("/model/us.claude-main-v1:0/invoke", "content-encoding: gzip\r\n", body, "compressed_body"),
    ] {
        let answer = proxy.talk(post(BEDROCK, path, header, body)).await;
        assert!(answer.contains(&format!(r#""reason":"{reason}""#)), "{path}: {answer}");
    }
    assert_eq!(model.requests().len(), before, "none of them arrived");
}

/// Outside runs no model is asked; what else the credential is for goes on.
#[tokio::test]
async fn outside_runs_models_are_not_asked() {
    let (model, settings) = model().await;
    let proxy = proxy(settings);
    proxy.own().apply(policy(ModelPolicy::new(["claude-main"])));
    let message = post(MESSAGES, "/v1/messages", "", r#"{"model":"claude-main","messages":[]}"#);
    let bedrock = post(BEDROCK, "/model/claude-main/invoke", "", r#"{"messages":[]}"#);
    let profiles =
        format!("GET http://{BEDROCK}/inference-profiles HTTP/1.1\r\nhost: {BEDROCK}\r\nconnection: close\r\n\r\n");
    for running in [false, true] {
        proxy.own().running(running);
        let before = model.requests().len();
        for request in [&message, &bedrock] {
            let reason = proxy.reason(request).await;
            assert_eq!(reason.as_deref(), (!running).then_some("no_run"), "{request}");
        }
        assert_eq!(model.requests().len() - before, if running { 2 } else { 0 });
        assert_eq!(proxy.reason(&profiles).await, None, "no model is asked");
    }
}

/// A client's own key does not help: an endpoint of the policy is one whatever authenticates the request.
#[tokio::test]
async fn a_clients_own_key_bypasses_nothing() {
    let (model, mut settings) = model().await;
    settings.allowed = format!("{MESSAGES}:443 {MESSAGES}:80").parse().expect("a list");
    settings.pins = format!("{MESSAGES}:80:127.0.0.1:{}", model.addr().port()).parse().expect("a pin");
    let proxy = proxy(settings);
    let models =
        ModelPolicy::new(["claude-main"]).with_endpoint(MESSAGES, Operations::messages()).expect("an endpoint");
    let layers = vec![layer("tenant", &[MESSAGES])];
    proxy.own().apply(built(PolicySpec { layers, models: Some(models), ..PolicySpec::default() }));
    let own = "x-api-key: mine\r\n";
    for (request, reason) in [
        (post(MESSAGES, "/v1/messages", own, r#"{"model":"claude-large"}"#), "model_not_allowed"),
        (post(MESSAGES, "/v1/messages/batches", own, "{}"), "operation_not_allowed"),
        (format!("CONNECT {MESSAGES}:443 HTTP/1.1\r\nhost: {MESSAGES}:443\r\n\r\n"), "tunnel_not_inspectable"),
    ] {
        assert_eq!(proxy.reason(&request).await.as_deref(), Some(reason), "{request}");
    }
    assert!(model.requests().is_empty());
    assert!(ModelPolicy::default().with_endpoint("a:443", Operations::messages()).is_err());
    assert!(ModelPolicy::default().with_endpoint("a", Operations::any()).is_err());
}

#[tokio::test]
async fn a_model_request_is_explained() {
    let (_model, settings) = model().await;
    let proxy = proxy(settings);
    proxy.own().apply(policy(ModelPolicy::new(["claude-main"])));
    let explain = |url: &str, running: bool, model: Option<&str>| {
        let question = Question { url: url.into(), method: "POST".into(), running, model: model.map(Into::into) };
        proxy.own().explain(&question).expect("a URL")
    };
    let messages = format!("http://{MESSAGES}/v1/messages");
    let explained = explain(&messages, true, Some("claude-main"));
    assert!(explained.allowed, "{explained:?}");
    assert_eq!(
        (explained.credential.as_deref(), explained.operation.as_deref()),
        (Some("anthropic"), Some("CreateMessage"))
    );
    assert_eq!((explained.port, explained.layer.as_deref()), (443, Some("tenant")));
    for (url, running, model, reason) in [
        (messages.clone(), false, Some("claude-main"), "no_run"),
        (messages.clone(), true, Some("claude-large"), "model_not_allowed"),
        (format!("http://{MESSAGES}/v1/files"), true, None, "operation_not_allowed"),
        (format!("https://{MESSAGES}/v1/messages"), true, None, "credential_host"),
        (format!("http://{BEDROCK}/model/claude-large/invoke"), true, None, "model_not_allowed"),
    ] {
        let explained = explain(&url, running, model);
        assert_eq!((explained.allowed, explained.reason), (false, Some(reason)), "{url}: {explained:?}");
    }
}
