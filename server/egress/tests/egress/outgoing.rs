//! Requests that the server itself makes under a policy.

use nagaya_egress::{Egress, Outgoing, OutgoingError};
use nagaya_fixtures::origin::Kind;

use crate::support::{Proxy, any, built, layer, origin, policy, settings};
use nagaya_egress::{Policy, PolicySpec};

const HOST: &str = "token.example";

async fn post(egress: &Egress, policy: &Policy, url: &str, most: usize) -> Result<(u16, String), OutgoingError> {
    let headers = vec![("content-type", "text/plain".to_owned()), ("authorization", "Basic dTpw".to_owned())];
    let request = Outgoing { url, headers, body: b"grant=x".to_vec(), most };
    let (status, body) = egress.post(policy, request).await?;
    Ok((status.as_u16(), String::from_utf8_lossy(&body).into_owned()))
}

#[tokio::test]
async fn a_request_of_the_servers_own_is_judged_and_sent_as_it_is() {
    let target = origin(Kind::Https(vec![HOST.into()])).await;
    let nobody = tokio::net::TcpListener::bind(any()).await.expect("binds").local_addr().expect("an address");
    let mut settings = settings(&[
        ("token.example:443", target.addr()),
        ("token.example:8443", target.addr()),
        ("gone.example:443", nobody),
        ("other.example:443", target.addr()),
    ]);
    settings.extra_ca_pem = target.ca_pem().map(|pem| pem.as_bytes().to_vec());
    let proxy = Proxy::start(settings);
    let egress = &proxy.egress;
    let allowed = policy("tenant", &["*.example", "token.example:8443", "!token.example /denied"]);
    for (url, authority) in [
        ("https://token.example/echo?a=1", "token.example"),
        ("https://token.example:8443/echo?a=1", "token.example:8443"),
    ] {
        let (status, body) = post(egress, &allowed, url, 4096).await.expect("an answer");
        assert_eq!(status, 200);
        let seen: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(
            (&seen["method"], &seen["path"], &seen["query"], &seen["body_bytes"]),
            (&"POST".into(), &"/echo".into(), &"a=1".into(), &7.into())
        );
        let mut headers: Vec<(String, String)> = serde_json::from_value(seen["headers"].clone()).expect("pairs");
        headers.sort();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = [
            pair("authorization", "Basic dTpw"),
            pair("content-length", "7"),
            pair("content-type", "text/plain"),
            pair("host", authority),
        ];
        assert_eq!(headers, expected);
    }
    assert_eq!(post(egress, &allowed, "https://token.example/status/418", 4096).await.expect("an answer").0, 418);
    // An answer of the greatest length is one, and not one byte more.
    assert_eq!(post(egress, &allowed, "https://token.example/bytes/64", 64).await.expect("an answer").1.len(), 64);
    let long = post(egress, &allowed, "https://token.example/bytes/65", 64).await;
    assert!(matches!(long, Err(OutgoingError::Answer)), "{long:?}");
    for (url, reason) in [
        ("https://elsewhere.test/", "not_allowed"),
        ("https://token.example/denied", "denied_by_rule"),
        ("https://token.example:81/", "not_allowed"),
        ("https://gone.example/", "refused"),
        // The certificate is not this host's.
        ("https://other.example/", "tls_certificate"),
    ] {
        let failed = post(egress, &allowed, url, 4096).await;
        assert!(matches!(&failed, Err(OutgoingError::Failed(why, _)) if *why == reason), "{url}: {failed:?}");
    }
    for url in ["http://token.example/", "token.example", "https://", "https://a b/"] {
        let failed = post(egress, &allowed, url, 4096).await;
        assert!(matches!(failed, Err(OutgoingError::Request(_) | OutgoingError::Failed(..))), "{url}: {failed:?}");
    }
    let closed = post(egress, &Policy::closed(), "https://token.example/echo", 4096).await;
    assert!(matches!(closed, Err(OutgoingError::Failed("closed", _))), "{closed:?}");
}

#[test]
fn what_may_be_reached_at_all_is_what_every_layer_leaves() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _guard = runtime.enter();
    let mut settings = settings(&[]);
    settings.allowed = "*.example, a.test:8443, !secret.example".parse().expect("a list");
    let egress =
        Egress::new(settings, None, std::sync::Arc::new(crate::support::Records::default())).expect("settings");
    let layers = |rules: &[&[&str]]| {
        let layers = rules.iter().enumerate().map(|(number, rules)| layer(&number.to_string(), rules)).collect();
        built(PolicySpec { name: "p".into(), layers, ..PolicySpec::default() })
    };
    for (rules, pattern, reached) in [
        (&[][..], "a.example", true),
        (&[], "a.example:443", true),
        (&[], "a.example:444", false),
        (&[], "*.example", true),
        (&[], "*.deep.example", true),
        (&[], "example", false),
        (&[], "secret.example", false),
        (&[], "a.test", false),
        (&[], "a.test:8443", true),
        (&[], "b.test:8443", false),
        (&[], "10.0.0.1", false),
        (&[&["b.example"][..]], "a.example", false),
        (&[&["b.example"]], "*.example", true),
        (&[&["b.example"]], "*.other.example", false),
        (&[&["*.example"], &["b.example"]], "b.example", true),
        (&[&["*.example"], &["b.example"]], "a.example", false),
        (&[&["*.example", "!b.example"]], "b.example", false),
        (&[&["*.example", "!b.example /x"]], "b.example", true),
        (&[&["b.example POST"]], "b.example", true),
    ] {
        assert_eq!(egress.may_reach(&layers(rules), pattern).expect("a pattern"), reached, "{rules:?} {pattern}");
    }
    for bad in ["", "*", "http://a", "a:0", "a b"] {
        assert_eq!(egress.may_reach(&layers(&[]), bad).expect_err(bad).place, "host");
    }
    assert!(!egress.may_reach(&Policy::closed(), "a.example").expect("a pattern"));
}
