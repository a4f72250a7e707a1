use http::HeaderMap;
use http::uri::PathAndQuery;

use super::*;
use crate::policy::Asked;
use crate::target::Target;

const CANARY: &str = "hunter2";

fn secret() -> SecretText {
    SecretText::new(CANARY.to_owned())
}

fn keys() -> Keys {
    Keys { access_key_id: "AKID".into(), secret_access_key: secret(), session_token: Some(secret()) }
}

fn spec(host: &str, source: Source) -> CredentialSpec {
    CredentialSpec {
        name: "c".into(),
        host: host.into(),
        methods: Vec::new(),
        paths: Vec::new(),
        when: When::Always,
        operations: None,
        source,
    }
}

fn bearer() -> Source {
    Source::header("Authorization", "Bearer {}", &secret()).expect("a header")
}

#[test]
fn rules_are_read_and_found_by_host() {
    let rules: CredentialRules =
        "bedrock-runtime.us-east-1.amazonaws.com=sigv4:bedrock:us-east-1,*.example.com=header:X-Key:env:KEY"
            .parse()
            .expect("rules");
    let rules = rules.with_header("api.anthropic.com", "x-api-key", CANARY);
    let get = |host: &str| {
        let host = Host::parse(host).expect("a host");
        rules.all().iter().position(|credential| credential.is_for(&host, 443))
    };
    assert_eq!(get("bedrock-runtime.us-east-1.amazonaws.com"), Some(0));
    assert!(rules.all()[0].signature().is_some() && !rules.all()[0].operations.are_any());
    assert_eq!(get("a.example.com"), Some(1));
    assert_eq!(get("example.com"), None);
    assert!(!format!("{rules:?}").contains(CANARY));
}

#[test]
fn a_rule_whose_secret_is_missing_is_named() {
    let rules: CredentialRules =
        "a.example=header:X-Key:file:/no/such/file,b.example=sigv4:s3:eu-west-1".parse().expect("rules");
    assert!(rules.need_aws() && !CredentialRules::default().need_aws());
    let missing = rules.with_header("c.example", "x-key", CANARY).missing_secrets();
    assert_eq!(missing, ["PROXY_CREDENTIALS: rule 1 (x-key): file:/no/such/file is missing or empty"]);
}

#[test]
fn an_error_does_not_reveal_the_secret() {
    for bad in ["hunter2", "a.example=hunter2", "a.example=header:x-key:hunter2", "a.example=sigv4:bedrock"] {
        let told = bad.parse::<CredentialRules>().expect_err(bad);
        assert!(!told.contains(CANARY), "{told}");
    }
    let line = SecretText::new(format!("{CANARY}\r\nx: y"));
    for told in [
        Source::header("x-key", "{}", &line).expect_err("two lines"),
        Source::header("x-key", "{} {}", &secret()).expect_err("two places"),
        Source::header("content-length", "{}", &secret()).expect_err("a framing header"),
        Source::header("proxy-authorization", "{}", &secret()).expect_err("a proxy's header"),
        Source::header("x key", "{}", &secret()).expect_err("no header"),
        Source::basic("u:x", &secret()).expect_err("a colon"),
        Source::basic("u", &line).expect_err("two lines"),
        Source::sigv4("s 3", "us-east-1", &keys()).expect_err("no service"),
        Credential::new(spec("http://a", bearer())).expect_err("no host"),
        Credential::new(spec("a.example:80", bearer())).expect_err("a port that never matches"),
        Credential::new(spec("a.example", Source::sigv4("s3", "us-east-1", &keys()).expect("keys")))
            .expect_err("no list"),
    ] {
        assert!(!told.to_string().contains(CANARY), "{told}");
    }
}

#[tokio::test]
async fn debugging_does_not_reveal_the_secret() {
    let sources = [
        bearer(),
        Source::basic("user", &secret()).expect("a header"),
        Source::sigv4("bedrock", "us-east-1", &keys()).expect("keys"),
    ];
    for source in sources {
        assert!(!format!("{source:?}").contains(CANARY), "{source:?}");
        let credential = Credential::new(spec("a.example", source)).expect("a credential");
        let shown = format!("{credential:?} {:?}", keys());
        assert!(!shown.contains(CANARY) && !shown.contains("dXNlcjpodW50ZXIy"), "{shown}");
        if let Kind::Header { value, .. } = &credential.kind {
            let value = value.current().await.expect("a value");
            assert!(!format!("{value:?}").contains(CANARY), "{value:?}");
        }
    }
}

#[tokio::test]
async fn templates_are_filled_in() {
    for (source, expected) in [
        (bearer(), "Bearer hunter2"),
        (Source::header("x-key", "{}", &secret()).expect("a header"), "hunter2"),
        (Source::basic("user", &secret()).expect("a header"), "Basic dXNlcjpodW50ZXIy"),
    ] {
        let Source(Kind::Header { value, .. }) = source else { panic!("a header") };
        assert_eq!(value.current().await.expect("a value"), expected);
    }
}

#[test]
fn a_credential_covers_its_methods_and_paths() {
    let mut limited = spec("*.example:8443", bearer());
    (limited.methods, limited.paths) = (vec!["GET".into()], vec!["/mcp".into()]);
    let credential = Credential::new(limited).expect("a credential");
    let host = Host::parse("a.example").expect("a host");
    assert!(credential.is_for(&host, 8443) && !credential.is_for(&host, 443));
    let covers = |method: &'static str, path: &'static str, headers: &[(&'static str, &'static str)]| {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)))
            .collect();
        let (target, _) = Target::of_url("a.example:8443/", 80).expect("a target");
        let path = PathAndQuery::from_static(path);
        let asked = Asked::new(&target, method, &path, Some(&headers));
        credential.covers(asked.call.as_ref().expect("a call"))
    };
    assert_eq!(covers("GET", "/mcp/x", &[]), Applies::Yes);
    assert_eq!(covers("POST", "/mcp/x", &[]), Applies::No("method_not_allowed"));
    assert_eq!(covers("GET", "/mcpx", &[]), Applies::No("path_not_allowed"));
    assert_eq!(covers("GET", "/x/../mcp", &[]), Applies::Unknown("ambiguous_path"));
    assert_eq!(covers("GET", "/mcp", &[("x_http_method_override", "DELETE")]), Applies::Unknown("method_override"));
    assert_eq!(covers("GET", "/mcp", &[("x-rewrite-url", "/admin")]), Applies::Unknown("path_override"));
}

/// What is signed for Bedrock and the Messages API, and what never is.
#[test]
fn operations_are_compared_exactly() {
    let (bedrock, messages) = (Operations::bedrock(), Operations::messages());
    let arn = "arn%3Aaws%3Abedrock%3Aus-east-1%3A123%3Ainference-profile%2Fus.anthropic.claude";
    for (operations, method, path, name) in [
        (&bedrock, "POST", "/model/anthropic.claude-v1:0/invoke".to_owned(), Some("InvokeModel")),
        (&bedrock, "POST", format!("/model/{arn}/invoke-with-response-stream"), Some("InvokeModelWithResponseStream")),
        (&bedrock, "POST", format!("/model/{arn}/converse"), Some("Converse")),
        (&bedrock, "POST", format!("/model/{arn}/converse-stream"), Some("ConverseStream")),
        (&bedrock, "POST", format!("/model/{arn}/count-tokens"), Some("CountTokens")),
        (&bedrock, "GET", "/inference-profiles".into(), Some("ListInferenceProfiles")),
        (&bedrock, "GET", format!("/inference-profiles/{arn}"), Some("GetInferenceProfile")),
        (&bedrock, "POST", "/model/x/invoke-with-bidirectional-stream".into(), None),
        (&bedrock, "POST", "/async-invoke".into(), None),
        (&bedrock, "GET", "/model/x/invoke".into(), None),
        (&bedrock, "post", "/model/x/invoke".into(), None),
        (&bedrock, "POST", "/model/x/invoke/".into(), None),
        (&bedrock, "POST", "//model/x/invoke".into(), None),
        (&bedrock, "POST", "/model//invoke".into(), None),
        (&bedrock, "POST", "/model/x/y/invoke".into(), None),
        (&bedrock, "POST", "/Model/x/invoke".into(), None),
        (&bedrock, "POST", "/model/x/%69nvoke".into(), None),
        (&bedrock, "POST", "/model/../invoke".into(), None),
        (&bedrock, "POST", "/model/%2e%2e/invoke".into(), None),
        (&bedrock, "POST", "/model/..%2Fx/invoke".into(), None),
        (&bedrock, "POST", "/model/x%2F..%2Fy/invoke".into(), None),
        (&bedrock, "POST", "/model/%2Fx/invoke".into(), None),
        (&bedrock, "POST", "/model/x%252Fy/invoke".into(), None),
        (&bedrock, "POST", "/model/x;y/invoke".into(), None),
        (&bedrock, "POST", "/model/x%3Fy/invoke".into(), None),
        (&bedrock, "POST", "/model/x%5Cy/invoke".into(), None),
        (&bedrock, "POST", "/model/x%00/invoke".into(), None),
        (&bedrock, "POST", "/model/%ff/invoke".into(), None),
        (&bedrock, "GET", "/foundation-models".into(), None),
        (&bedrock, "POST", "/inference-profiles".into(), None),
        (&bedrock, "DELETE", "/inference-profiles/x".into(), None),
        (&messages, "POST", "/v1/messages".into(), Some("CreateMessage")),
        (&messages, "POST", "/v1/messages/count_tokens".into(), Some("CountMessageTokens")),
        (&messages, "GET", "/v1/models".into(), Some("ListModels")),
        (&messages, "GET", "/v1/models/claude-a".into(), Some("GetModel")),
        (&messages, "POST", "/v1/messages/batches".into(), None),
        (&messages, "GET", "/v1/messages/batches/x/results".into(), None),
        (&messages, "POST", "/v1/files".into(), None),
        (&messages, "POST", "/v1/complete".into(), None),
        (&messages, "GET", "/v1/organizations/users".into(), None),
        (&messages, "POST", "/v1/messages/".into(), None),
        (&messages, "POST", "/v1/./messages".into(), None),
        (&messages, "POST", "/v1/messages%2fbatches".into(), None),
        (&messages, "GET", "/v1/models/..%2ffiles".into(), None),
    ] {
        let found = operations.find(method, &path).map(|(operation, _)| operation.name.to_string());
        assert_eq!(found.as_deref(), name, "{method} {path}");
    }
    let model = bedrock.find("POST", "/model/a%2Fb:0/invoke").and_then(|(_, model)| segment_text(model?));
    assert_eq!(model.as_deref(), Some("a/b:0"));
}

#[test]
fn a_list_of_ones_own_is_exact_too() {
    let operations =
        Operations::list([("Read", "GET", "/repos/{owner}/{repo}"), ("Get", "GET", "/files/{+key}")]).expect("a list");
    for (path, found) in [
        ("/repos/a/b", true),
        ("/repos/a", false),
        ("/repos/a/b/c", false),
        ("/files/a/b/c", true),
        ("/files/", false),
        ("/files/a/../b", false),
        ("/files/a%2fb", false),
    ] {
        assert_eq!(operations.find("GET", path).is_some(), found, "{path}");
    }
    for (method, path, place) in [
        ("get", "/a", "operations[0].method"),
        ("GET", "a", "operations[0].path"),
        ("GET", "/a//b", "operations[0].path"),
        ("GET", "/{+a}/b", "operations[0].path"),
        ("GET", "/a{b}", "operations[0].path"),
    ] {
        assert_eq!(Operations::list([("X", method, path)]).expect_err(path).place, place);
    }
    assert!(Operations::list([]).is_err());
    let gateway = Operations::messages_below("/anthropic/").expect("a base");
    assert!(gateway.find("POST", "/anthropic/v1/messages").is_some() && gateway.find("POST", "/v1/messages").is_none());
    assert!(Operations::messages_below("/a/../b").is_err());
}

/// Connections are kept apart by credential, so another version of a secret is another credential.
#[test]
fn every_credential_is_another_one() {
    let build = || Credential::new(spec("a.example", bearer())).expect("a credential").id;
    assert_ne!(build(), build());
}
