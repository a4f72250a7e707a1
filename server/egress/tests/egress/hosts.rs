//! Hosts: which target a spelling reaches, and by which address.

use std::net::Ipv4Addr;

use nagaya_egress::{AllowList, Settings};
use proptest::prelude::*;

use crate::peer::{NameServer, Peer};
use crate::support::{Proxy, settings};

const ALLOWED: &str = "allowed.example";

/// Sends a request for this host in absolute form and as a tunnel, and returns both responses.
async fn both(proxy: &Proxy, host: &[u8]) -> [String; 2] {
    let absolute = [b"GET http://", host, b"/ HTTP/1.1\r\nhost: ", host, b"\r\nconnection: close\r\n\r\n"].concat();
    let tunnel = [b"CONNECT ", host, b":80 HTTP/1.1\r\nhost: ", host, b":80\r\n\r\n"].concat();
    [proxy.talk(absolute).await, proxy.talk(tunnel).await]
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or("none")
}

/// Rows 1 to 6 of the attacks on proxies: spellings that one parser reads as an allowed name and another as a different host.
#[tokio::test]
async fn no_spelling_of_a_host_bypasses_the_allow_list() {
    let peer = Peer::content().await;
    let mut settings = settings(&[("allowed.example:80", peer.addr()), ("a.below.example:80", peer.addr())]);
    settings.allowed = "allowed.example *.below.example".parse().expect("a list");
    let proxy = Proxy::start(settings);
    for good in ["allowed.example", "ALLOWED.Example", "allowed.example.", "a.below.example"] {
        assert_eq!(
            both(&proxy, good.as_bytes()).await.map(|answer| status(&answer).to_owned()),
            ["200", "200"],
            "{good}"
        );
    }
    let reached = peer.connections();
    for (host, wanted) in [
        // 1: a zero byte, and other characters that end a string early.
        (&b"evil.example\0.below.example"[..], "400"),
        (b"evil.example%00.below.example", "400"),
        (b"evil.example%2ebelow.example", "400"),
        (b"evil.example\t.below.example", "400"),
        (b"evil.example\x7f.below.example", "400"),
        (b"evil.example/.below.example", "400"),
        (b"evil.example?.below.example", "400"),
        (b"evil.example#.below.example", "400"),
        (b"evil.example\\.below.example", "400"),
        // 3: dots, and letters that look alike.
        (b"allowed.example..", "400"),
        (b".allowed.example", "400"),
        (b"allowed..example", "400"),
        (b"below.example", "403"),
        (b"xbelow.example", "403"),
        (b"allowed.example.evil.example", "403"),
        ("\u{430}llowed.example".as_bytes(), "400"),
        (b"xn--llowed-2nf.example", "403"),
        // 4: brackets.
        (b"[allowed.example]", "400"),
        (b"[allowed.example", "400"),
        (b"allowed.example]", "400"),
        (b"[::ffff:allowed.example]", "400"),
        // 5: addresses, in every notation.
        (b"127.0.0.1", "403"),
        (b"127.1", "400"),
        (b"0x7f000001", "400"),
        (b"0x7f.0.0.1", "400"),
        (b"0177.0.0.1", "400"),
        (b"2130706433", "400"),
        (b"0", "400"),
        (b"0.0.0.0", "403"),
        (b"100.64.0.1", "403"),
        (b"[::1]", "403"),
        (b"[::]", "403"),
        (b"[::ffff:127.0.0.1]", "403"),
        (b"[::ffff:7f00:1]", "403"),
        (b"[64:ff9b::7f00:1]", "403"),
        (b"[2002:7f00:1::]", "403"),
        (b"[fe80::1%25eth0]", "400"),
        ("\u{ff11}27.0.0.1".as_bytes(), "400"),
        // 6: userinfo.
        (b"allowed.example@169.254.169.254", "400"),
        (b"allowed.example:x@169.254.169.254", "400"),
        (b"x@allowed.example", "400"),
    ] {
        let shown = String::from_utf8_lossy(host);
        for answer in both(&proxy, host).await {
            // A spelling that turns out to have a path or a port names a host that is not on the list.
            let refused = status(&answer) == wanted || (wanted == "400" && status(&answer) == "403");
            assert!(refused && answer.contains("x-nagaya-egress: denied"), "{shown}: {answer}");
        }
    }
    assert_eq!(peer.connections(), reached, "none of them reached anybody");
}

/// Row 7: requests that name the host twice.
#[tokio::test]
async fn contradicting_host_names_are_refused() {
    let peer = Peer::content().await;
    let proxy = Proxy::start(settings(&[("allowed.example:80", peer.addr()), ("allowed.example:8080", peer.addr())]));
    for (target, host, wanted) in [
        ("http://allowed.example/", "allowed.example", "200"),
        ("http://allowed.example/", "allowed.example:80", "200"),
        ("http://allowed.example:8080/", "allowed.example:8080", "200"),
        // smokescreen issue 279: clients that omit the port in `Host`.
        ("http://allowed.example:8080/", "allowed.example", "200"),
        ("http://allowed.example/", "evil.example", "400"),
        ("http://allowed.example/", "allowed.example:8080", "400"),
        ("http://allowed.example/", "allowed.example, evil.example", "400"),
        ("http://allowed.example/", "evil.example@allowed.example", "400"),
        ("http://allowed.example/", "", "400"),
    ] {
        let answer = proxy.talk(format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await;
        assert_eq!(status(&answer), wanted, "{target} {host}: {answer}");
    }
    for (target, host, wanted) in [
        ("allowed.example:80", "allowed.example:80", "200"),
        ("allowed.example:80", "allowed.example", "200"),
        ("allowed.example:80", "evil.example:80", "400"),
        ("allowed.example:80", "allowed.example:8080", "400"),
    ] {
        let answer = proxy.talk(format!("CONNECT {target} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        assert_eq!(status(&answer), wanted, "{target} {host}: {answer}");
    }
    // The forwarded `Host` is the target's name in its canonical spelling.
    let before = peer.seen().len();
    proxy.talk("GET http://ALLOWED.example.:80/ HTTP/1.1\r\nHost: allowed.EXAMPLE\r\nconnection: close\r\n\r\n").await;
    assert!(peer.seen()[before..].to_ascii_lowercase().contains("\r\nhost: allowed.example\r\n"), "{}", peer.seen());
}

/// Origin form goes to the gateway and nowhere else, whatever `Host` says.
#[tokio::test]
async fn origin_form_reaches_only_the_gateway() {
    let (gateway, other) = (Peer::content().await, Peer::content().await);
    let mut settings = settings(&[("gateway.example:80", gateway.addr()), ("allowed.example:80", other.addr())]);
    settings.gateway = Some("gateway.example".into());
    let proxy = Proxy::start(settings);
    for host in ["allowed.example", "127.0.0.1:8080", "gateway.example"] {
        let answer = proxy.talk(format!("GET /x HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await;
        assert_eq!(status(&answer), "200", "{host}: {answer}");
    }
    assert_eq!((gateway.seen().matches("GET /x ").count(), other.connections()), (3, 0));
    assert!(!gateway.seen().contains("127.0.0.1"), "{}", gateway.seen());
}

fn asking(server: &NameServer, networks: &str) -> Settings {
    Settings {
        allowed: ALLOWED.parse().expect("a list"),
        networks: networks.parse().expect("networks"),
        name_servers: vec![server.addr()],
        ..Settings::default()
    }
}

/// Row 8: a name that resolves to another address the second time (DNS rebinding).
#[tokio::test]
async fn the_address_checked_is_the_address_dialled() {
    let peer = Peer::content().await;
    let (good, bad) = (Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 66));
    let server = NameServer::start(vec![vec![good], vec![bad]]).await;
    let mut settings = asking(&server, "127.0.0.1/32");
    settings.allowed = format!("{ALLOWED}:{}", peer.addr().port()).parse().expect("a list");
    let proxy = Proxy::start(settings);
    let request = format!(
        "GET http://{ALLOWED}:{port}/ HTTP/1.1\r\nhost: {ALLOWED}:{port}\r\nconnection: close\r\n\r\n",
        port = peer.addr().port()
    );
    let answer = proxy.talk(&request).await;
    assert_eq!((status(&answer), server.asked(), peer.connections()), ("200", 1, 1), "{answer}");
    // The name server now answers differently, and the kept connection is not used.
    let answer = proxy.talk(&request).await;
    assert_eq!((status(&answer), server.asked(), peer.connections()), ("403", 2, 1), "{answer}");
    assert!(answer.contains(r#""reason":"address_loopback""#), "{answer}");
}

#[tokio::test]
async fn one_forbidden_address_refuses_the_name() {
    let good = Ipv4Addr::LOCALHOST;
    for (bad, reason) in [
        (Ipv4Addr::new(10, 0, 0, 1), "address_private"),
        (Ipv4Addr::new(169, 254, 169, 254), "address_link_local"),
        (Ipv4Addr::new(100, 64, 0, 1), "address_private"),
        (Ipv4Addr::UNSPECIFIED, "address_reserved"),
        (Ipv4Addr::new(224, 0, 0, 1), "address_reserved"),
    ] {
        let server = NameServer::start(vec![vec![good, bad]]).await;
        let proxy = Proxy::start(asking(&server, "127.0.0.1/32"));
        for answer in both(&proxy, ALLOWED.as_bytes()).await {
            assert!(status(&answer) == "403" && answer.contains(reason), "{bad}: {answer}");
        }
        assert!(server.asked() > 0, "the control: it was asked");
    }
}

#[tokio::test]
async fn a_name_without_an_address_is_reported() {
    let server = NameServer::start(vec![vec![]]).await;
    let proxy = Proxy::start(asking(&server, ""));
    for answer in both(&proxy, ALLOWED.as_bytes()).await {
        assert!(status(&answer) == "502" && answer.contains(r#""reason":"dns""#), "{answer}");
    }
}

/// A host as the WHATWG URL parser reads it, which browsers, Node.js and newer Python clients use.
fn elsewhere(host: &str) -> Option<String> {
    let url = url::Url::parse(&format!("http://{host}/")).ok()?;
    (url.username().is_empty() && url.password().is_none() && url.path() == "/" && url.query().is_none())
        .then(|| url.host_str().map(|host| host.trim_end_matches('.').to_owned()))?
}

proptest! {
    /// No string that the list accepts is read by another parser as a host outside the list.
    #[test]
    fn hosts_the_list_accepts_are_read_alike_by_other_parsers(
        host in prop_oneof![
            "[a-zA-Z0-9.%@:\\[\\]/\\\\?# _*-]{0,12}(allowed\\.example|below\\.example)[a-zA-Z0-9.%@:/ _-]{0,6}",
            "\\PC{0,8}\\.?below\\.example\\.?",
            "(0x)?[0-9a-f.:\\[\\]]{1,16}",
            "\\PC{0,20}",
        ],
    ) {
        let list: AllowList = "allowed.example *.below.example".parse().expect("a list");
        if list.allows_host(&host, 443) {
            let theirs = elsewhere(&host).unwrap_or_default();
            let inside = theirs == "allowed.example"
                || theirs.strip_suffix(".below.example").is_some_and(|label| !label.is_empty());
            prop_assert!(inside, "{host:?} is {theirs:?} elsewhere");
        }
    }
}
