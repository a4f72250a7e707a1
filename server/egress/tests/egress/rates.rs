//! Rates of requests and bytes.

use std::time::{Duration, Instant};

use nagaya_egress::{PolicySpec, Rates};
use nagaya_fixtures::origin::Kind;

use crate::support::{Proxy, ask, built, layer, origin, settings};

const HOST: &str = "web.example";

async fn limited(rates: Rates) -> (nagaya_fixtures::origin::Origin, Proxy) {
    let origin = origin(Kind::Http).await;
    let proxy = Proxy::start(settings(&[("web.example:80", origin.addr())]));
    let mut tenant = layer("tenant", &["web.example"]);
    tenant.rates = rates;
    proxy.own().apply(built(PolicySpec { layers: vec![tenant], ..PolicySpec::default() }));
    (origin, proxy)
}

fn get(path: &str) -> String {
    format!("GET http://{HOST}{path} HTTP/1.1\r\nhost: {HOST}\r\n\r\n")
}

#[tokio::test]
async fn requests_beyond_the_rate_are_refused() {
    let (_origin, proxy) = limited(Rates { requests_per_second: Some(3), bytes_per_second: None }).await;
    let mut stream = proxy.connect().await;
    let mut refused = 0;
    for _ in 0..10 {
        let (head, body) = ask(&mut stream, &get("/status/200")).await;
        let limited =
            head.starts_with("HTTP/1.1 429 ") && body.contains("request_rate") && head.contains("retry-after");
        assert!(limited || head.starts_with("HTTP/1.1 200 "), "{head}");
        refused += usize::from(limited);
    }
    assert!((4..=7).contains(&refused), "{refused}");
    // A new policy with the same rates is no fresh start.
    let spent = proxy.own().policy();
    proxy.own().apply(spent);
    assert!(ask(&mut stream, &get("/status/200")).await.0.starts_with("HTTP/1.1 429 "));
}

/// A download and an upload are slowed down, not refused.
#[tokio::test]
async fn bytes_beyond_the_rate_wait() {
    let (_origin, proxy) = limited(Rates { requests_per_second: None, bytes_per_second: Some(400_000) }).await;
    let began = Instant::now();
    let answer = proxy
        .talk(format!("GET http://{HOST}/bytes/600000 HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n"))
        .await;
    assert!(answer.starts_with("HTTP/1.1 200 "));
    // A second's worth is free: 200,000 bytes have to wait.
    let took = began.elapsed();
    assert!(took > Duration::from_millis(350) && took < Duration::from_secs(5), "{took:?}");
    let body = "x".repeat(200_000);
    let began = Instant::now();
    let head = format!(
        "POST http://{HOST}/echo HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\ncontent-length: 200000\r\n\r\n"
    );
    let answer = proxy.talk(format!("{head}{body}")).await;
    assert!(answer.contains(r#""body_bytes":200000"#), "{answer}");
    assert!(began.elapsed() > Duration::from_millis(300), "{:?}", began.elapsed());
}
