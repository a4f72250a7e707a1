//! Policies: layers, methods and paths, and how they are asked.

use nagaya_egress::{Policy, PolicySpec, Question, RuleSpec};
use tokio::io::AsyncWriteExt;

use crate::peer::Peer;
use crate::support::{Proxy, ask, built, layer, policy, settings};

const HOST: &str = "web.example";

async fn proxied(rules: &[&str]) -> (Peer, Proxy) {
    let peer = Peer::content().await;
    let mut settings = settings(&[("web.example:80", peer.addr()), ("web.example:8080", peer.addr())]);
    settings.gateway = Some(HOST.into());
    let proxy = Proxy::start(settings);
    proxy.own().apply(policy("tenant", rules));
    (peer, proxy)
}

fn request(method: &str, path: &str, header: &str) -> String {
    format!("{method} http://{HOST}{path} HTTP/1.1\r\nhost: {HOST}\r\n{header}connection: close\r\n\r\n")
}

/// Paths that a server may read as one within a prefix and another one as one without.
#[tokio::test]
async fn no_spelling_of_a_path_bypasses_a_prefix() {
    let (peer, proxy) = proxied(&["web.example GET,POST /v1"]).await;
    for path in ["/v1", "/v1/", "/v1/x?q=/../admin", "/%76%31/x", "/v1/a%20b", "/v1/~x"] {
        assert_eq!(proxy.reason(request("GET", path, "")).await, None, "{path}");
    }
    let reached = peer.connections();
    for (path, reason) in [
        ("", "path_not_allowed"),
        ("/", "path_not_allowed"),
        ("/v10", "path_not_allowed"),
        ("/V1/x", "path_not_allowed"),
        ("/admin", "path_not_allowed"),
        ("/?/v1", "path_not_allowed"),
        ("/v1/../admin", "ambiguous_path"),
        ("/v1/..", "ambiguous_path"),
        ("/v1/./x", "ambiguous_path"),
        ("/v1/%2e%2e/admin", "ambiguous_path"),
        ("/v1/.%2E/admin", "ambiguous_path"),
        ("/v1/%252e%252e/admin", "ambiguous_path"),
        ("/v1/..%2fadmin", "ambiguous_path"),
        ("/v1%2f..%2fadmin", "ambiguous_path"),
        ("/v1/..%5cadmin", "ambiguous_path"),
        ("/v1\\..\\admin", "ambiguous_path"),
        ("//v1/x", "ambiguous_path"),
        ("/v1//x", "ambiguous_path"),
        ("/v1/..;/admin", "ambiguous_path"),
        ("/v1;x=y/admin", "ambiguous_path"),
        ("/v1/x%3b", "ambiguous_path"),
        ("/v1/%c0%ae%c0%ae/admin", "ambiguous_path"),
        ("/v1/%ef%bc%8e%ef%bc%8e/admin", "ambiguous_path"),
        ("/v1/%ff", "ambiguous_path"),
        ("/v1/%00", "ambiguous_path"),
        ("/v1/%zz", "ambiguous_path"),
        ("/v1%3f/../admin", "ambiguous_path"),
    ] {
        assert_eq!(proxy.reason(request("GET", path, "")).await.as_deref(), Some(reason), "{path}");
        if path.starts_with('/') {
            // The same in origin form, by the gateway.
            let origin = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1:8080\r\nconnection: close\r\n\r\n");
            assert_eq!(proxy.reason(origin).await.as_deref(), Some(reason), "{path}");
        }
    }
    for (head, reason) in [
        (format!("CONNECT {HOST}:80 HTTP/1.1\r\nhost: {HOST}:80\r\n\r\n"), "tunnel_not_inspectable"),
        (format!("GET {HOST}:80 HTTP/1.1\r\nhost: {HOST}\r\n\r\n"), "malformed"),
        (format!("GET http://{HOST}:8080/v1 HTTP/1.1\r\nhost: {HOST}:8080\r\n\r\n"), "not_allowed"),
    ] {
        assert_eq!(proxy.reason(&head).await.as_deref(), Some(reason), "{head}");
    }
    assert_eq!(peer.connections(), reached, "none of them reached anybody");
}

#[tokio::test]
async fn no_spelling_of_a_method_bypasses_a_rule() {
    let (peer, proxy) = proxied(&["web.example GET,POST /v1", "web.example PURGE /cache"]).await;
    for (method, path) in [("GET", "/v1"), ("POST", "/v1"), ("PURGE", "/cache/x")] {
        let request = request(method, path, "content-length: 0\r\n");
        assert_eq!(proxy.reason(request).await, None, "{method} {path}");
    }
    let reached = peer.connections();
    for (method, path, header, reason) in [
        ("DELETE", "/v1", "", "method_not_allowed"),
        ("get", "/v1", "", "method_not_allowed"),
        ("PURGE", "/v1", "", "method_not_allowed"),
        ("HEAD", "/v1", "", "method_not_allowed"),
        ("POST", "/v1", "x-http-method-override: DELETE\r\n", "method_override"),
        ("POST", "/v1", "X-Method-Override: DELETE\r\n", "method_override"),
        ("POST", "/v1", "X-HTTP-Method: DELETE\r\n", "method_override"),
        ("POST", "/v1", "X_HTTP_Method_Override: DELETE\r\n", "method_override"),
        ("GET", "/v1", "x-original-url: /admin\r\n", "path_override"),
        ("GET", "/v1", "X-Rewrite-URL: /admin\r\n", "path_override"),
    ] {
        // The answer to HEAD has no body to read the reason from.
        let answer = proxy.talk(request(method, path, header)).await;
        let refused = answer.starts_with("HTTP/1.1 403 ") && (method == "HEAD" || answer.contains(reason));
        assert!(refused, "{method} {path} {header}: {answer}");
    }
    assert_eq!(peer.connections(), reached, "none of them reached anybody");
}

/// A rule that denies must hold in every reading, so its doubts count against the request.
#[tokio::test]
async fn a_rule_that_denies_holds_for_every_port_and_spelling() {
    let (peer, proxy) =
        proxied(&["*.example:8080", "web.example", "!web.example DELETE", "!web.example /admin", "!secret.example"])
            .await;
    for (method, path, reason) in [
        ("GET", "/x", None),
        ("DELETE", "/x", Some("denied_by_rule")),
        ("delete", "/x", Some("denied_by_rule")),
        ("GET", "/admin", Some("denied_by_rule")),
        ("GET", "/ADMIN/x", Some("denied_by_rule")),
        ("GET", "/%61dmin", Some("denied_by_rule")),
        ("GET", "/administrator", None),
        ("GET", "/x/../admin", Some("ambiguous_path")),
        ("GET", "//admin", Some("ambiguous_path")),
    ] {
        assert_eq!(proxy.reason(request(method, path, "")).await.as_deref(), reason, "{method} {path}");
    }
    let overridden = request("POST", "/x", "content-length: 0\r\nx-http-method-override: DELETE\r\n");
    assert_eq!(proxy.reason(overridden).await.as_deref(), Some("method_override"));
    let elsewhere = request("GET", "/x", "x-original-url: /admin\r\n");
    assert_eq!(proxy.reason(elsewhere).await.as_deref(), Some("path_override"));
    let tunnel = format!("CONNECT {HOST}:8080 HTTP/1.1\r\nhost: {HOST}:8080\r\n\r\n");
    assert_eq!(proxy.reason(tunnel).await.as_deref(), Some("tunnel_not_inspectable"), "it could carry what is denied");
    let reached = peer.connections();
    // A deny rule without a port is for every port, whatever another rule allows.
    for port in [80, 443, 8080] {
        let explained = proxy.own().explain(&Question {
            url: format!("http://secret.example:{port}/"),
            method: "GET".into(),
            ..Question::default()
        });
        let explained = explained.expect("a URL");
        assert!(!explained.allowed, "{port}: {explained:?}");
    }
    let denied = policy("tenant", &["web.example:8080", "web.example", "!web.example"]);
    proxy.own().apply(denied);
    for port in [80, 8080] {
        let request = format!("GET http://{HOST}:{port}/ HTTP/1.1\r\nhost: {HOST}:{port}\r\n\r\n");
        assert_eq!(proxy.reason(request).await.as_deref(), Some("denied_by_rule"), "{port}");
    }
    assert_eq!(peer.connections(), reached);
}

/// No layer widens another, and the record says which one decided.
#[tokio::test]
async fn every_layer_must_allow() {
    let (peer, proxy) = proxied(&[]).await;
    let layers = |tenant: &[&str], conversation: &[&str]| {
        built(PolicySpec {
            name: "version 7".into(),
            layers: vec![layer("tenant", tenant), layer("conversation", conversation)],
            ..PolicySpec::default()
        })
    };
    let web = "web.example";
    for (policy, host, layer, rule, reason) in [
        (layers(&[web], &["*.example"]), web, "conversation", Some("*.example"), None),
        (layers(&["*.example"], &["web.example GET /"]), web, "conversation", Some("web.example"), None),
        // Of several that allow a request, the first is named.
        (layers(&[web], &["web.example", "*.example"]), web, "conversation", Some("web.example"), None),
        (layers(&[web], &["*.example", "web.example"]), web, "conversation", Some("*.example"), None),
        (layers(&[], &["*.example"]), web, "tenant", None, Some("not_allowed")),
        (layers(&[web], &[]), web, "conversation", None, Some("not_allowed")),
        (layers(&["*.example", "!web.example"], &[web]), web, "tenant", Some("!web.example"), Some("denied_by_rule")),
        (layers(&[web], &["web.example POST"]), web, "conversation", Some("web.example"), Some("method_not_allowed")),
        // Beyond the operator's list, whatever the layers say.
        (layers(&["*.example"], &["*.example"]), "other.example", "operator", None, Some("not_allowed")),
    ] {
        proxy.own().apply(policy);
        proxy.records.clear();
        let head = format!("GET http://{host}/ HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        assert_eq!(proxy.reason(&head).await.as_deref(), reason, "{layer} {rule:?}");
        let record = proxy.record().await;
        assert_eq!((record.layer.as_deref(), record.rule.as_deref()), (Some(layer), rule), "{reason:?}");
        assert_eq!(record.policy.as_deref(), Some("version 7"));
    }
    assert_eq!(peer.seen().matches("GET / ").count(), 4);
}

/// A listener without an owner allows nothing.
#[tokio::test]
async fn a_closed_policy_denies_everything() {
    let (peer, proxy) = proxied(&["web.example"]).await;
    proxy.own().apply(std::sync::Arc::new(Policy::closed()));
    let tunnel = format!("CONNECT {HOST}:80 HTTP/1.1\r\nhost: {HOST}:80\r\n\r\n");
    for request in [request("GET", "/", ""), tunnel] {
        assert_eq!(proxy.reason(&request).await.as_deref(), Some("closed"), "{request}");
    }
    assert_eq!(peer.connections(), 0);
}

/// Explanations come from the function that decides: they agree with what happens.
#[tokio::test]
async fn explanations_agree_with_what_happens() {
    let (_peer, proxy) = proxied(&["web.example GET,POST /v1", "web.example:8080", "!web.example:8080 /x"]).await;
    let mut stream = proxy.connect().await;
    for (method, url) in [
        ("GET", "http://web.example/v1/a"),
        ("PUT", "http://web.example/v1/a"),
        ("GET", "http://web.example/v2"),
        ("GET", "http://WEB.example./v1/../v2"),
        ("GET", "http://web.example:8080/y"),
        ("GET", "http://web.example:8080/x"),
        ("GET", "http://web.example:8081/y"),
        ("GET", "http://other.example/"),
    ] {
        let question = Question { url: url.into(), method: method.into(), ..Question::default() };
        let explained = proxy.own().explain(&question).expect("a URL");
        let host = url.split('/').nth(2).expect("a host");
        let (head, body) = ask(&mut stream, &format!("{method} {url} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        assert_eq!(explained.allowed, head.starts_with("HTTP/1.1 200 "), "{method} {url}: {explained:?}");
        let reason = explained.reason.map(|reason| format!(r#""reason":"{reason}""#));
        assert!(reason.is_none_or(|reason| body.contains(&reason)), "{url}: {body}");
    }
    stream.shutdown().await.expect("closes");
    for (url, method, place) in [
        ("web.example", "GET", "url"),
        ("ftp://web.example/", "GET", "url"),
        ("http://a b/", "GET", "url"),
        ("http://web.example/", "G T", "method"),
    ] {
        let question = Question { url: url.into(), method: method.into(), ..Question::default() };
        assert_eq!(proxy.own().explain(&question).expect_err(url).place, place);
    }
    let tunnel = Question { url: "https://web.example/v1".into(), method: "GET".into(), ..Question::default() };
    let explained = proxy.own().explain(&tunnel).expect("a URL");
    assert_eq!((explained.allowed, explained.reason), (false, Some("not_allowed")), "{explained:?}");
}

/// A rule that can never match, or is not understood, is refused with its place.
#[test]
fn a_bad_rule_is_refused_with_its_place() {
    for (host, methods, paths, place) in [
        ("http://a", &[][..], &[][..], "host"),
        ("*", &[], &[], "host"),
        ("a.example:0", &[], &[], "host"),
        ("a.example", &["get"], &[], "methods[0]"),
        ("a.example", &["GET", "CONNECT"], &[], "methods[1]"),
        ("a.example", &["TRACE"], &[], "methods[0]"),
        ("a.example", &[""], &[], "methods[0]"),
        ("a.example", &[], &["v1"], "paths[0]"),
        ("a.example", &[], &["/v1", "/v1/../v2"], "paths[1]"),
        ("a.example", &[], &["/v1//x"], "paths[0]"),
        ("a.example", &[], &["/v1?x"], "paths[0]"),
        ("a.example", &[], &[""], "paths[0]"),
    ] {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let rule = RuleSpec { host: host.into(), methods: texts(methods), paths: texts(paths) };
        let mut tenant = layer("tenant", &["good.example"]);
        tenant.rules.push(rule);
        let spec = PolicySpec { layers: vec![layer("first", &[]), tenant], ..PolicySpec::default() };
        let error = Policy::new(spec).expect_err(host);
        assert_eq!(error.place, format!("layers[1].rules[1].{place}"), "{error}");
        assert!(error.message.contains("accepted") || error.message.contains("never matches"), "{error}");
    }
}

/// Thousands of tenants may each have dozens of rules.
#[test]
fn fifty_rules_take_less_than_four_kib() {
    let rules: Vec<String> = (0..50)
        .map(|number| match number % 5 {
            0 => format!("*.service-{number}.example.com"),
            1 => format!("api-{number}.example.com:8443 GET,POST /v1"),
            2 => format!("!secret-{number}.example.com"),
            _ => format!("host-{number}.example.com"),
        })
        .collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let bytes = policy("tenant", &rules).bytes();
    assert!(bytes <= 4096, "{bytes}");
}
