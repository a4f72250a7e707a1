//! The whole record of each way in which a request can end, and the whole answer.

use nagaya_egress::{Decision, Limits, RequestRecord, Settings};
use nagaya_fixtures::listen::Listening;
use nagaya_fixtures::origin::Kind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};

use crate::peer::Peer;
use crate::support::{DEADLINE, Proxy, any, ask, eventually, origin, policy, read_all, settings};
use crate::vaults::{HOST as API, bearer, echo, spec, with};

/// What a record says beside who asked and how long it took, in the order of its fields.
type Told = (&'static str, &'static str, u16, Decision, [Option<&'static str>; 5], u16, u64, u64, u64);

fn check(what: &str, record: &RequestRecord, expected: &Told) {
    let (method, host, port, decision, names, status, up, down, count) = expected;
    assert_eq!((record.method.as_str(), record.host.as_str(), record.port), (*method, *host, *port), "{what}");
    assert_eq!(record.decision, *decision, "{what}");
    let texts = [
        record.rule.as_deref(),
        record.layer.as_deref(),
        record.policy.as_deref(),
        record.credential.as_deref(),
        record.operation.as_deref(),
    ];
    assert_eq!(texts, *names, "{what}: rule, layer, policy, credential, operation");
    assert_eq!(
        (record.status, record.bytes_up, record.bytes_down, record.count),
        (*status, *up, *down, *count),
        "{what}"
    );
    assert_eq!((record.identity.workspace.as_str(), &record.identity.conversation), ("w", &None), "{what}");
}

/// A target that answers each request with the same bytes and closes.
async fn closing(answer: &'static [u8]) -> Listening {
    let listening = Listening::start(any(), move |mut stream| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let _ = stream.write_all(answer).await;
        let _ = stream.shutdown().await;
    });
    listening.await.expect("listens")
}

#[tokio::test]
async fn each_outcome_has_a_record_with_all_that_it_rests_on() {
    let (web, raw) = (origin(Kind::Http).await, origin(Kind::RawEcho).await);
    let cut = closing(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nHELLO").await;
    let nobody = TcpListener::bind(any()).await.expect("binds").local_addr().expect("an address");
    let limits = Limits { body: 10, ..Limits::default() };
    let settings = settings(&[
        ("web.example:80", web.addr()),
        ("raw.example:8443", raw.addr()),
        ("cut.example:80", cut.addr()),
        ("gone.example:80", nobody),
    ]);
    let proxy = Proxy::start(Settings { limits, ..settings });
    let rules = ["*.example", "raw.example:8443", "!web.example /admin", "cut.example:80 GET"];
    proxy.own().apply(policy("tenant 7", &rules));
    let get = |host: &str, path: &str| {
        format!("GET http://{host}{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")
    };
    let sent = |method: &str, path: &str, body: &str| {
        let length = body.len();
        format!(
            "{method} http://web.example{path} HTTP/1.1\r\nhost: web.example\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    let of = |rule: Option<&'static str>, layer: &'static str| [rule, Some(layer), Some("tenant 7"), None, None];
    let any_host = || of(Some("*.example"), "tenant 7");
    let (denied, failed) = (Decision::Denied, Decision::Failed);
    let cases: Vec<(&str, String, Told)> = vec![
        (
            "read",
            get("web.example", "/bytes/7"),
            ("GET", "web.example", 80, Decision::Allowed, any_host(), 200, 0, 7, 1),
        ),
        (
            "an error of the target's",
            get("web.example", "/status/503"),
            ("GET", "web.example", 80, Decision::Allowed, any_host(), 503, 0, 9, 1),
        ),
        (
            "sent",
            sent("PUT", "/status/201", "12345"),
            ("PUT", "web.example", 80, Decision::Allowed, any_host(), 201, 5, 9, 1),
        ),
        (
            "the head alone",
            sent("HEAD", "/bytes/7", ""),
            ("HEAD", "web.example", 80, Decision::Allowed, any_host(), 200, 0, 0, 1),
        ),
        (
            "an unusual method",
            sent("BREW", "/bytes/7", ""),
            ("OTHER", "web.example", 80, Decision::Allowed, any_host(), 200, 0, 7, 1),
        ),
        (
            "a host of nobody's",
            get("web.elsewhere", "/"),
            ("GET", "web.elsewhere", 80, denied("not_allowed"), of(None, "operator"), 403, 0, 0, 1),
        ),
        (
            "another port",
            get("web.example:81", "/"),
            ("GET", "web.example", 81, denied("not_allowed"), of(None, "operator"), 403, 0, 0, 1),
        ),
        (
            "a rule that denies",
            get("web.example", "/admin/x"),
            ("GET", "web.example", 80, denied("denied_by_rule"), of(Some("!web.example"), "tenant 7"), 403, 0, 0, 1),
        ),
        (
            "cut off by its target",
            get("cut.example", "/"),
            ("GET", "cut.example", 80, failed("reset"), any_host(), 200, 0, 5, 1),
        ),
        (
            "nobody there",
            get("gone.example", "/"),
            ("GET", "gone.example", 80, failed("refused"), any_host(), 502, 0, 0, 1),
        ),
        (
            "a body that is too large",
            sent("POST", "/", "12345678901"),
            ("POST", "web.example", 80, denied("body_too_large"), any_host(), 413, 0, 0, 1),
        ),
        (
            "a host that contradicts",
            "GET http://web.example/ HTTP/1.1\r\nhost: other.example\r\n\r\n".into(),
            ("GET", "", 0, denied("malformed"), [None; 5], 400, 0, 0, 1),
        ),
        ("no request", "nonsense\r\n\r\n".into(), ("OTHER", "", 0, denied("malformed"), [None; 5], 400, 0, 0, 1)),
        (
            "a method that is not forwarded",
            get("web.example", "/").replace("GET", "TRACE"),
            ("OTHER", "", 0, denied("method"), [None; 5], 405, 0, 0, 1),
        ),
        (
            "a tunnel",
            "CONNECT raw.example:8443 HTTP/1.1\r\nhost: raw.example:8443\r\n\r\nearly".into(),
            ("CONNECT", "raw.example", 8443, Decision::Allowed, of(Some("raw.example:8443"), "tenant 7"), 200, 5, 5, 1),
        ),
        (
            "a tunnel that could carry what is denied",
            "CONNECT web.example:80 HTTP/1.1\r\nhost: web.example:80\r\n\r\n".into(),
            (
                "CONNECT",
                "web.example",
                80,
                denied("tunnel_not_inspectable"),
                of(Some("!web.example"), "tenant 7"),
                403,
                0,
                0,
                1,
            ),
        ),
    ];
    for (what, request, expected) in cases {
        proxy.records.clear();
        let answer = proxy.talk(&request).await;
        let told: u16 = answer.get(9..12).and_then(|text| text.parse().ok()).unwrap_or_default();
        assert_eq!(told, expected.5, "{what}: {answer}");
        check(what, &proxy.record().await, &expected);
    }
}

/// A client that leaves before its answer is no failure of the target's, and nothing was refused.
#[tokio::test]
async fn who_left_and_who_is_stopped_is_told_apart() {
    let silent = Peer::answering("").await;
    let mut proxy = Proxy::start(settings(&[("web.example:80", silent.addr())]));
    let get = "GET http://web.example/ HTTP/1.1\r\nhost: web.example\r\n\r\n";
    let names = [Some("web.example:80"), Some("operator"), Some("operator"), None, None];
    let mut client = proxy.connect().await;
    client.write_all(get.as_bytes()).await.expect("writes");
    eventually("it is at the target", || silent.connections() == 1).await;
    drop(client);
    let gone: Told = ("GET", "web.example", 80, Decision::Failed("client_gone"), names, 499, 0, 0, 1);
    check("the client left", &proxy.record().await, &gone);
    proxy.records.clear();
    let mut client = proxy.connect().await;
    client.write_all(get.as_bytes()).await.expect("writes");
    eventually("it is at the target", || silent.connections() == 2).await;
    proxy.listener.take().expect("open").stop(DEADLINE).await;
    let stopped: Told = ("GET", "web.example", 80, Decision::Failed("stopped"), names, 0, 0, 0, 1);
    check("the listener was stopped", &proxy.record().await, &stopped);
}

#[tokio::test]
async fn a_credential_is_in_the_record_by_its_name_whether_it_was_added_or_refuses() {
    let (_origin, settings) = echo().await;
    let proxy = Proxy::start(settings);
    let scoped =
        nagaya_egress::CredentialSpec { methods: vec!["GET".into()], ..spec("reads", API, bearer("a-secret-text")) };
    proxy.own().apply(with(&[API], vec![scoped]));
    let request = |method: &str, header: &str| {
        format!("{method} http://{API}/bytes/3 HTTP/1.1\r\nhost: {API}\r\n{header}connection: close\r\n\r\n")
    };
    let named = |credential| [Some(API), Some("tenant"), Some("vaults"), credential, None];
    let cases: [(String, Told); 4] = [
        (request("GET", ""), ("GET", API, 80, Decision::Allowed, named(Some("reads")), 200, 0, 3, 1)),
        (request("DELETE", ""), ("DELETE", API, 80, Decision::Allowed, named(None), 200, 0, 3, 1)),
        (
            request("GET", "x-http-method-override: DELETE\r\n"),
            ("GET", API, 80, Decision::Denied("method_override"), named(Some("reads")), 403, 0, 0, 1),
        ),
        (
            format!("CONNECT {API}:443 HTTP/1.1\r\nhost: {API}:443\r\n\r\n"),
            ("CONNECT", API, 443, Decision::Denied("credential_host"), named(None), 403, 0, 0, 1),
        ),
    ];
    for (request, expected) in cases {
        proxy.records.clear();
        proxy.talk(&request).await;
        check(&request, &proxy.record().await, &expected);
    }
}

/// A client whose refusals wait too long is told that its connection ends, and it does.
#[tokio::test]
async fn the_last_refusal_on_a_connection_announces_its_end() {
    let limits = Limits { denials: 10, denials_burst: 5, ..Limits::default() };
    let proxy = Proxy::start(Settings { limits, ..settings(&[]) });
    const DENIED: &str = "GET http://evil.example/ HTTP/1.1\r\nhost: evil.example\r\n\r\n";
    let clients = (0..24).map(|_| async {
        let mut stream = proxy.connect().await;
        let (head, body) = ask(&mut stream, DENIED).await;
        assert!(head.starts_with("HTTP/1.1 403 ") && body.contains("not_allowed"), "{head}{body}");
        let is_last = head.contains("connection: close\r\n");
        if is_last {
            assert_eq!(read_all(&mut stream).await, "", "nothing follows");
        }
        is_last
    });
    let last = futures::future::join_all(clients).await.into_iter().filter(|is_last| *is_last).count();
    // Five at once and ten within the longest delay, or more if they come one by one.
    assert!((1..=9).contains(&last), "{last} of 24");
}

/// The client may have sent all of its body before it reads the answer.
#[tokio::test]
async fn the_rest_of_a_refused_request_is_read_so_that_its_answer_arrives() {
    let proxy = Proxy::start(settings(&[]));
    for size in [1, 900_000] {
        let mut stream = proxy.connect().await;
        let head =
            format!("POST http://evil.example/ HTTP/1.1\r\nhost: evil.example\r\ncontent-length: {size}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("writes");
        let sent = tokio::time::timeout(DEADLINE, stream.write_all(&vec![b'x'; size])).await.expect("in time");
        sent.expect("the proxy takes it");
        let answer = read_all(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("connection: close\r\n"), "{answer}");
    }
}

/// What might begin a secret is held back until it is known; at the end of the body it is passed on.
#[tokio::test]
async fn a_body_that_ends_where_a_secret_might_begin_is_whole() {
    let (_origin, settings) = echo().await;
    let proxy = Proxy::start(settings);
    // The target's bodies are of this letter.
    proxy.own().apply(with(&[API], vec![spec("c", API, bearer(&"x".repeat(24)))]));
    for (length, shown) in [(1, "x".to_owned()), (11, "x".repeat(11)), (12, "*".repeat(12)), (24, "*".repeat(24))] {
        let request = format!("GET http://{API}/bytes/{length} HTTP/1.1\r\nhost: {API}\r\nconnection: close\r\n\r\n");
        let answer = proxy.talk(request).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains(&format!("content-length: {length}")), "{head}");
        assert_eq!(body, shown, "{length}");
    }
    let mut stream = UnixStream::connect(proxy.socket()).await.expect("connects");
    let again = format!("GET http://{API}/bytes/5 HTTP/1.1\r\nhost: {API}\r\n\r\n");
    for _ in 0..2 {
        assert_eq!(ask(&mut stream, &again).await.1, "xxxxx", "the connection goes on");
    }
}
