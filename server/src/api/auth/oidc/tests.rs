//! Tokens of a small issuer, most of them not valid.

use std::net::SocketAddr;

use nagaya_fixtures::issuer::{AUDIENCE, Issuer};
use serde_json::json;

use super::*;

async fn issuer() -> Issuer {
    Issuer::start(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("an issuer")
}

fn trusting(issuer: &str) -> Oidc {
    let grant = |text: &str| text.parse::<Grant>().expect("a grant");
    Oidc::new(OidcSettings {
        issuer: issuer.to_owned(),
        audience: AUDIENCE.into(),
        tenant_claim: "tenant".into(),
        scope_claim: "scope".into(),
        grants: vec![grant("use=run+read"), grant("look=read+metrics"), grant("root=operator+admin+metrics")],
    })
    .expect("a client")
}

fn status(result: Result<Caller, ApiError>) -> u16 {
    use axum::response::IntoResponse;
    match result {
        Ok(_) => 200,
        Err(error) => error.into_response().status().as_u16(),
    }
}

#[tokio::test]
async fn claims_say_whom_a_caller_acts_for() {
    let issuer = issuer().await;
    let oidc = trusting(&issuer.url());
    let caller = async |claims: Value| oidc.caller(&issuer.mint(&json!({ "claims": claims })).expect("a token")).await;
    let tenant = caller(json!({"tenant": "acme", "scope": "use look other"})).await.expect("accepted");
    assert_eq!(tenant.principal, Principal::Tenant("acme".into()));
    assert_eq!(tenant.scopes.to_string(), "run, read", "the metrics are not a tenant's");
    assert_eq!(tenant.credential, Credential::Token("ada".into()));
    let left = tenant.until.expect("an end").duration_since(Timestamp::now()).as_secs();
    assert!((500..=600).contains(&left), "{left}");
    let operator = caller(json!({"tenant": "acme", "scope": ["root", "look"]})).await.expect("accepted");
    assert_eq!(
        (operator.principal, operator.scopes.to_string().as_str()),
        (Principal::Operator, "read, admin, metrics")
    );
    assert!(caller(json!({"tenant": "acme"})).await.expect("accepted").scopes.is_empty());
    // The texts of a list are whole, whatever is in them.
    let group = caller(json!({"tenant": "acme", "scope": ["not root", "use ", "look,use"]})).await.expect("accepted");
    assert_eq!((group.principal, group.scopes.is_empty()), (Principal::Tenant("acme".into()), true));
    for claims in
        [json!({"scope": "use"}), json!({"tenant": "a/b", "scope": "use"}), json!({"tenant": 7, "scope": "use"})]
    {
        assert_eq!(status(caller(claims.clone()).await), 403, "{claims}");
    }
    issuer.stop().await;
}

#[tokio::test]
async fn only_valid_tokens_of_this_issuer_for_this_audience_are_accepted() {
    let issuer = issuer().await;
    let oidc = trusting(&issuer.url());
    let asked = async |order: Value| status(oidc.caller(&issuer.mint(&order).expect("a token")).await);
    for algorithm in ["RS256", "PS256", "ES256", "EdDSA"] {
        let order = json!({"header": {"alg": algorithm}, "claims": {"tenant": "acme"}});
        assert_eq!(asked(order).await, 200, "{algorithm}");
    }
    let now = jsonwebtoken::get_current_timestamp();
    let claims = |claims: Value| {
        let mut order = json!({"claims": {"tenant": "acme"}});
        order["claims"].as_object_mut().expect("claims").extend(claims.as_object().expect("claims").clone());
        order
    };
    for good in
        [json!({"exp": now - 5}), json!({"nbf": now + 5}), json!({"aud": [AUDIENCE, "other"]}), json!({"nbf": null})]
    {
        assert_eq!(asked(claims(good.clone())).await, 200, "{good}");
    }
    let mut bad: Vec<Value> = [
        json!({"exp": now - 60}),
        json!({"exp": null}),
        json!({"exp": "tomorrow"}),
        json!({"exp": -1}),
        json!({"nbf": now + 60}),
        json!({"nbf": "now"}),
        json!({"iss": "http://127.0.0.1"}),
        json!({"iss": format!("{}/", issuer.url())}),
        json!({"iss": null}),
        json!({"aud": "other"}),
        json!({"aud": null}),
        json!({"aud": []}),
        json!({"aud": format!("{AUDIENCE} ")}),
        json!({"sub": null}),
        json!({"sub": ""}),
        json!({"sub": "x".repeat(300)}),
    ]
    .into_iter()
    .map(claims)
    .collect();
    bad.extend([
        json!({"header": {"alg": "none"}}),
        json!({"header": {"alg": "none", "kid": null}}),
        json!({"header": {"alg": "HS256"}}),
        json!({"header": {"alg": "HS256", "kid": null}}),
        json!({"header": {"alg": "HS256", "kid": "secret"}}),
        json!({"header": {"kid": "ec-1"}}),
        json!({"header": {"alg": "ES256", "kid": "rsa-1"}}),
        json!({"header": {"kid": "unknown"}}),
        json!({"header": {"crit": ["exp"]}}),
        json!({"foreign": true, "header": {"alg": "ES256"}}),
        json!({"foreign": true, "header": {"alg": "EdDSA"}}),
        json!({"claims": {"tenant": "acme", "long": "x".repeat(20_000)}}),
    ]);
    for order in bad {
        assert_eq!(asked(order.clone()).await, 401, "{order}");
    }
    let good = issuer.mint(&claims(json!({}))).expect("a token");
    let (signed, signature) = good.rsplit_once('.').expect("a signature");
    let (header, _) = signed.split_once('.').expect("a header");
    let other = issuer.mint(&claims(json!({"tenant": "other"}))).expect("a token");
    let claims_of_other = other.split('.').nth(1).expect("claims");
    for forged in [
        format!("{signed}."),
        format!("{signed}.{}", signature.to_lowercase()),
        format!("{header}.{claims_of_other}.{signature}"),
        format!("{header}..{signature}"),
        "eyJ.eyJ.eyJ".to_owned(),
    ] {
        assert_eq!(status(oidc.caller(&forged).await), 401, "{forged}");
    }
    issuer.stop().await;
}

#[tokio::test]
async fn rotated_keys_are_found_and_junk_does_not_make_the_server_ask_again_and_again() {
    let issuer = issuer().await;
    let oidc = trusting(&issuer.url());
    let order = json!({"header": {"alg": "ES256"}, "claims": {"tenant": "acme"}});
    let old = issuer.mint(&order).expect("a token");
    assert_eq!(status(oidc.caller(&old).await), 200);
    issuer.rotate().expect("rotated");
    let new = issuer.mint(&order).expect("a token");
    // The keys were fetched a moment ago.
    assert_eq!(status(oidc.caller(&new).await), 401);
    let before = issuer.asked().len();
    for number in 0..20 {
        let junk = issuer.mint(&json!({"header": {"kid": format!("junk-{number}")}})).expect("a token");
        assert_eq!(status(oidc.caller(&junk).await), 401);
    }
    assert_eq!(issuer.asked().len(), before);
    oidc.keys.forget_the_last_fetch().await;
    assert_eq!(status(oidc.caller(&new).await), 200);
    assert_eq!(status(oidc.caller(&old).await), 401, "keys that the issuer has withdrawn are not used");
    // Known keys go on while the issuer is away.
    let url = issuer.url();
    issuer.stop().await;
    oidc.keys.forget_the_last_fetch().await;
    assert_eq!(status(oidc.caller(&new).await), 200);
    assert_eq!(status(trusting(&url).caller(&new).await), 503, "without keys nobody can be told apart");
}

#[tokio::test]
async fn a_discovery_document_that_is_not_the_issuers_is_refused() {
    for fields in [
        json!({"issuer": "https://elsewhere.example"}),
        json!({"jwks_uri": "file:///etc/passwd"}),
        json!({"jwks_uri": null}),
    ] {
        let issuer = issuer().await;
        issuer.publish(&fields);
        let token = issuer.mint(&json!({"claims": {"tenant": "acme"}})).expect("a token");
        assert_eq!(status(trusting(&issuer.url()).caller(&token).await), 503, "{fields}");
        issuer.stop().await;
    }
}
