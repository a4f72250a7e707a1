//! Request signing, checked by a target that shares no code with the signer.

use std::sync::{Arc, Mutex};

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use nagaya_egress::{Decision, Limits, Settings};
use nagaya_fixtures::listen::{Body, Listening};
use nagaya_fixtures::model::sigv4::{self, verify};
use nagaya_fixtures::tls::Tls;
use nagaya_fixtures::vectors;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use crate::support::{DEADLINE, Proxy, any, read_all, read_head, settings};

pub(crate) const HOST: &str = "example.amazonaws.com";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// A request as the target received it, and the result of its signature check: the scope, or the fault.
#[derive(Debug, Clone)]
struct Seen {
    verdict: Result<(String, String), String>,
    method: String,
    path: String,
    headers: http::HeaderMap,
    length: usize,
    sha256: String,
}

/// A target that verifies signatures, by its own clock.
pub(crate) struct Verifier {
    listening: Listening,
    ca_pem: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    token: Option<String>,
}

impl Verifier {
    pub(crate) async fn start(token: Option<&str>, ahead: i64) -> Self {
        let tls = Tls::new(&[HOST.to_owned()]).expect("a certificate");
        let (ca_pem, seen) = (tls.ca_pem.clone(), Arc::<Mutex<Vec<Seen>>>::default());
        let credentials = sigv4::Credentials {
            access_key_id: "AKIDEXAMPLE".into(),
            secret_access_key: SECRET.into(),
            session_token: token.map(Into::into),
        };
        let keeps = seen.clone();
        let answer = move |request| judge(request, credentials.clone(), ahead, keeps.clone());
        let listening = Listening::http(any(), Some(tls), answer).await.expect("listens");
        Self { listening, ca_pem, seen, token: token.map(Into::into) }
    }

    pub(crate) fn proxy(&self, service: &str, limits: Limits) -> Proxy {
        let settings = Settings {
            credentials: format!("{HOST}=sigv4:{service}:us-east-1").parse().expect("a rule"),
            extra_ca_pem: Some(self.ca_pem.clone().into_bytes()),
            limits,
            ..settings(&[("example.amazonaws.com:443", self.listening.addr())])
        };
        let credentials = Credentials::new("AKIDEXAMPLE", SECRET, self.token.clone(), None, "test");
        Proxy::with_credentials(settings, Some(SharedCredentialsProvider::new(credentials)))
    }

    fn last(&self) -> Seen {
        self.seen.lock().expect("a lock").last().cloned().expect("a request")
    }

    fn count(&self) -> usize {
        self.seen.lock().expect("a lock").len()
    }
}

async fn judge(
    request: Request<Incoming>,
    credentials: sigv4::Credentials,
    ahead: i64,
    keeps: Arc<Mutex<Vec<Seen>>>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.expect("a whole body").to_bytes();
    let now = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(ahead);
    let verdict = verify(&parts, &body, &credentials, now.as_second());
    let status = if verdict.is_ok() { StatusCode::OK } else { StatusCode::FORBIDDEN };
    keeps.lock().expect("a lock").push(Seen {
        verdict: verdict.map(|scope| (scope.region, scope.service)).map_err(|why| why.message),
        method: parts.method.to_string(),
        path: parts.uri.to_string(),
        headers: parts.headers,
        length: body.len(),
        sha256: hex(&body),
    });
    let mut response = Response::new(Full::new(Bytes::from("seen")).map_err(|no| match no {}).boxed_unsync());
    *response.status_mut() = status;
    let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    response.headers_mut().insert("date", date.parse().expect("a header"));
    response
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn valid(service: &str) -> Result<(String, String), String> {
    Ok(("us-east-1".to_owned(), service.to_owned()))
}

/// Row 16: every published vector, sent through the proxy by a client without credentials.
#[tokio::test]
async fn published_vectors_pass_through_the_proxy() {
    let mut passed = 0;
    for token in [None, Some("6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267")] {
        let verifier = Verifier::start(token, 0).await;
        for service in ["service", "s3"] {
            let proxy = verifier.proxy(service, Limits::default());
            for vector in vectors::all().expect("the vectors") {
                let mut head = format!("{} http://{HOST}{} HTTP/1.1\r\n", vector.method, vector.target);
                for (name, value) in &vector.headers {
                    // The vectors' own authentication headers are the ones the proxy must replace.
                    if !name.eq_ignore_ascii_case("content-length") {
                        head.push_str(&format!("{name}: {value}\r\n"));
                    }
                }
                head.push_str("authorization: AWS4-HMAC-SHA256 theirs\r\nx-amz-security-token: theirs\r\n");
                if vector.method == "POST" {
                    head.push_str(&format!("content-length: {}\r\n", vector.body.len()));
                }
                let request = [head.as_bytes(), b"connection: close\r\n\r\n", &vector.body].concat();
                let answer = proxy.talk(request).await;
                assert!(answer.starts_with("HTTP/1.1 200 "), "{} for {service}: {answer}", vector.name);
                let seen = verifier.last();
                assert_eq!(
                    (&seen.verdict, seen.method.as_str()),
                    (&valid(service), vector.method.as_str()),
                    "{}",
                    vector.name
                );
                assert_eq!(seen.sha256, hex(&vector.body), "{}", vector.name);
                passed += 1;
            }
        }
    }
    assert!(passed >= 140, "{passed}");
}

/// Row 16: paths and queries that clients send and the published vectors do not cover.
#[tokio::test]
async fn unusual_paths_and_queries_are_signed_as_they_are_sent() {
    let verifier = Verifier::start(None, 0).await;
    for service in ["execute-api", "s3"] {
        let proxy = verifier.proxy(service, Limits::default());
        for path in [
            "/a%20b",
            "/a+b",
            "/a@b",
            "/a:b",
            "/a%2Fb",
            "/a,b;c=d",
            "/a~b_c-d.e",
            "/%E9%95%B7%E5%B1%8B",
            "/a*b'(c)!$&",
            "/?b=2&a=1",
            "/?a=2&a=1&a=",
            "/?a",
            "/?a=&b",
            "/?a=b=c",
            "/?a=%20&b=%2B&c=+",
            "/?%E9%95%B7=%E5%B1%8B",
            "/?a=/&b=?&c=:@",
            "/?A=1&a=2&B=3",
            "/?=v",
            "/?&&a=1&",
            "/?a=1&",
            "/?a=1&&",
            "/?&",
            "/?",
            "/?a=\"<b>\"&'",
            "/<a>`b\"{c}^",
            "/%FF",
            "/a%zz%",
            "/?a=%zz&b=%&c=%4&%=1",
        ] {
            let answer = proxy
                .talk(format!("GET http://{HOST}{path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n"))
                .await;
            let seen = verifier.last();
            assert_eq!(seen.verdict, valid(service), "{path}: {answer}");
            // A `%` that begins no escape is sent as `%25`.
            let sent = path.replace("c=+", "c=%20").replace("?a=%zz&b=%&c=%4&%=1", "?a=%25zz&b=%25&c=%254&%25=1");
            // Characters that browsers escape are sent escaped. Empty pairs are not sent, because they are not signed.
            let sent = match path {
                "/?&&a=1&" | "/?a=1&" | "/?a=1&&" => "/?a=1".to_owned(),
                "/?&" | "/?" => "/".to_owned(),
                "/?a=\"<b>\"&'" => "/?a=%22%3Cb%3E%22&%27".to_owned(),
                "/<a>`b\"{c}^" => "/%3Ca%3E%60b%22%7Bc%7D%5E".to_owned(),
                _ => sent,
            };
            if service == "execute-api" {
                assert_eq!(seen.path, sent, "{path}: it is sent as it came");
            }
        }
        // A signer decodes the query to text, so its signature of bytes that are no text is undefined.
        let before = verifier.count();
        for path in ["/?a=%FF", "/?%C3=1", "/?a=%E9%95&b=%B7"] {
            let answer = proxy.talk(format!("GET http://{HOST}{path} HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("UTF-8"), "{path}: {answer}");
        }
        assert_eq!(verifier.count(), before);
    }
}

/// Rows 17 and 18: however a body arrives, all of it is hashed, and it is sent with its length and without hop-by-hop headers.
#[tokio::test]
async fn the_whole_body_is_signed() {
    let verifier = Verifier::start(None, 0).await;
    let proxy = verifier.proxy("execute-api", Limits::default());
    for size in [0, 1, 1 << 20, (1 << 20) + 1, 5 << 20] {
        let body: Vec<u8> = (0..size).map(|n| u8::try_from(n % 253).expect("small")).collect();
        for chunked in [false, true] {
            let mut stream = proxy.connect().await;
            let framing =
                if chunked { "transfer-encoding: chunked".to_owned() } else { format!("content-length: {size}") };
            let head = format!(
                "PUT http://{HOST}/x HTTP/1.1\r\nhost: {HOST}\r\nexpect: 100-continue\r\n{framing}\r\n\
                 connection: close, content-type\r\ncontent-type: a/b\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.expect("writes");
            if chunked || size > 0 {
                assert_eq!(read_head(&mut stream).await, "HTTP/1.1 100 Continue\r\n\r\n", "{size}");
            }
            let parts = body.chunks(100_000).filter(|_| chunked);
            for part in parts {
                stream
                    .write_all(&[format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat())
                    .await
                    .expect("writes");
            }
            stream.write_all(if chunked { b"0\r\n\r\n" } else { &body }).await.expect("writes");
            assert!(read_all(&mut stream).await.starts_with("HTTP/1.1 200 "), "{size} {chunked}");
            let seen = verifier.last();
            assert_eq!(
                (seen.verdict, seen.length, seen.sha256),
                (valid("execute-api"), size, hex(&body)),
                "{size} {chunked}"
            );
            assert!(!seen.headers.contains_key("transfer-encoding") && !seen.headers.contains_key("expect"));
            assert!(!seen.headers.contains_key("content-type"), "the client called it the connection's own");
        }
    }
}

/// Only authentication headers are replaced; all other headers of AWS's protocols arrive and are signed.
#[tokio::test]
async fn the_clients_own_headers_are_kept_and_signed() {
    let verifier = Verifier::start(Some("token"), 0).await;
    let kept = [
        ("x-amz-copy-source", "/bucket/a%20key?versionId=1"),
        ("x-amz-metadata-directive", "REPLACE"),
        ("x-amz-meta-colour", "dark   blue"),
        ("x-amz-acl", "bucket-owner-full-control"),
        ("x-amz-storage-class", "GLACIER"),
        ("x-amz-server-side-encryption", "aws:kms"),
        ("x-amz-tagging", "a=b&c=d"),
        ("x-amz-checksum-crc32", "AAAAAA=="),
        ("x-amz-invocation-type", "Event"),
        ("x-amz-client-context", "e30="),
        ("x-amz-target", "Service.Operation"),
        ("x-amz-anything-new", "1"),
    ];
    let replaced = [
        ("authorization", "AWS4-HMAC-SHA256 theirs"),
        ("x-api-key", "theirs"),
        ("x-amz-date", "20000101T000000Z"),
        ("x-amz-security-token", "theirs"),
        ("x-amz-content-sha256", "theirs"),
        ("x-amz-s3session-token", "theirs"),
    ];
    for service in ["s3", "lambda"] {
        let proxy = verifier.proxy(service, Limits::default());
        for framing in ["content-length: 0\r\n\r\n", "transfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"] {
            let lines: String =
                kept.iter().chain(&replaced).map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let head = format!("PUT http://{HOST}/key HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n{lines}");
            let answer = proxy.talk(format!("{head}{framing}")).await;
            let seen = verifier.last();
            assert_eq!(seen.verdict, valid(service), "{answer}");
            let signed = seen.headers["authorization"].to_str().expect("text").to_owned();
            for (name, value) in kept {
                assert_eq!(seen.headers.get(name).map(http::HeaderValue::as_bytes), Some(value.as_bytes()), "{name}");
                assert!(signed.contains(&format!(";{name}")), "{name} is not signed: {signed}");
            }
            assert!(!format!("{:?}", seen.headers).contains("theirs"), "{:?}", seen.headers);
            assert!(!seen.headers.contains_key("x-amz-s3session-token"), "{:?}", seen.headers);
        }
    }
}

/// A body that is read directly into the holding buffer ends at its length; the bytes behind it are the next request.
#[tokio::test]
async fn after_a_held_body_comes_the_next_request() {
    let verifier = Verifier::start(None, 0).await;
    let proxy = verifier.proxy("execute-api", Limits::default());
    let mut stream = proxy.connect().await;
    let head = format!(
        "POST http://{HOST}/first HTTP/1.1\r\nhost: {HOST}\r\nexpect: 100-continue\r\ncontent-length: 1000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("writes");
    assert_eq!(read_head(&mut stream).await, "HTTP/1.1 100 Continue\r\n\r\n");
    let second = format!("GET http://{HOST}/second HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    stream.write_all(format!("{}{second}", "x".repeat(1000)).as_bytes()).await.expect("writes");
    assert_eq!(read_all(&mut stream).await.matches("HTTP/1.1 200 ").count(), 2);
    assert_eq!((verifier.count(), verifier.last().path.as_str()), (2, "/second"));
}

#[tokio::test]
async fn a_body_too_large_to_sign_is_refused_before_it_is_sent() {
    let verifier = Verifier::start(None, 0).await;
    let proxy = verifier.proxy("execute-api", Limits { signed_body: 1000, ..Limits::default() });
    let known =
        format!("PUT http://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\nexpect: 100-continue\r\ncontent-length: 1001\r\n\r\n");
    let answer = proxy.talk(known).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("signed_body_too_large"), "{answer}");
    let unknown = format!("PUT http://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n\r\n");
    let answer = proxy.talk(format!("{unknown}3e9\r\n{}\r\n0\r\n\r\n", "x".repeat(1001))).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    // There is also a budget for all bodies together.
    let limits = Limits {
        held_in_memory: 40,
        held_on_disk: 400,
        reserved_in_memory: 0,
        reserved_on_disk: 0,
        ..Limits::default()
    };
    let tight = verifier.proxy("execute-api", limits);
    let request =
        format!("PUT http://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 101\r\n\r\n{}", "x".repeat(101));
    let answer = tight.talk(request).await;
    assert!(
        answer.starts_with("HTTP/1.1 429 ") && answer.contains("no_buffers") && answer.contains("retry-after"),
        "{answer}"
    );
    assert_eq!(verifier.count(), 0);
    let request = format!(
        "PUT http://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 9\r\nconnection: close\r\n\r\n123456789"
    );
    assert!(tight.talk(request).await.starts_with("HTTP/1.1 200 "), "the budget was given back");
}

#[tokio::test]
async fn a_body_that_is_refused_gives_its_part_back() {
    let verifier = Verifier::start(None, 0).await;
    let limits = Limits {
        signed_body: 1_000,
        held_in_memory: 4_000,
        held_on_disk: 0,
        reserved_in_memory: 0,
        reserved_on_disk: 0,
        ..Limits::default()
    };
    let proxy = verifier.proxy("execute-api", limits);
    // A listener has a quarter of the budget: what one such body keeps, the next one lacks.
    for _ in 0..3 {
        let piece = |length: usize| format!("{length:x}\r\n{}\r\n", "x".repeat(length));
        let head = format!("PUT http://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n\r\n");
        let answer = proxy.talk(format!("{head}{}{}0\r\n\r\n", piece(900), piece(900))).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    }
    let request = format!(
        "PUT http://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 900\r\nconnection: close\r\n\r\n{}",
        "x".repeat(900)
    );
    let answer = proxy.talk(request).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn requests_signed_in_other_ways_are_refused_with_a_reason() {
    let verifier = Verifier::start(None, 0).await;
    let proxy = verifier.proxy("s3", Limits::default());
    for (path, header, reason) in [
        ("/?X-Amz-Signature=0", "x: y", "presigned"),
        ("/?%58-Amz-Sign%61ture=0", "x: y", "presigned"),
        ("/?x-amz%2Dcredential=0", "x: y", "presigned"),
        ("/?AWSAccessKeyId=a&Signature=b&Expires=1", "x: y", "presigned"),
        ("/", "content-encoding: gzip, aws-chunked", "aws_chunked"),
        ("/", "x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER", "aws_chunked"),
        ("/", "content-type: Multipart/Form-Data; boundary=x", "signed_form"),
    ] {
        let answer = proxy.talk(format!("POST http://{HOST}{path} HTTP/1.1\r\nhost: {HOST}\r\n{header}\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains(reason), "{answer}");
    }
    assert_eq!(verifier.count(), 0);
    // Only a POST to S3 carries a signed form: an object may be a form, and other services accept unsigned ones.
    let form = format!("host: {HOST}\r\ncontent-type: multipart/form-data; boundary=x\r\nconnection: close\r\n\r\n");
    for (service, method) in [("s3", "PUT"), ("execute-api", "POST")] {
        let proxy = verifier.proxy(service, Limits::default());
        let answer = proxy.talk(format!("{method} http://{HOST}/?a=X-Amz-Signature HTTP/1.1\r\n{form}")).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{service} {method}: {answer}");
    }
    assert!(proxy.records.all().iter().all(|record| matches!(record.decision, Decision::Denied(_))));
}

/// A target with a skewed clock rejects the first signature; the request is signed again by the target's time, as are all later ones.
#[tokio::test]
async fn a_skewed_target_is_signed_for_by_its_own_clock() {
    for ahead in [3600, -3600] {
        let verifier = Verifier::start(None, ahead).await;
        let proxy = verifier.proxy("execute-api", Limits::default());
        let request = format!(
            "POST http://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbody"
        );
        for requests in [2, 3] {
            let answer = proxy.talk(&request).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{ahead}: {answer}");
            assert_eq!(verifier.count(), requests, "{ahead}");
        }
    }
}

/// A target cannot move the time of a signature arbitrarily far.
#[tokio::test]
async fn an_absurd_target_clock_is_ignored() {
    let verifier = Verifier::start(None, 50 * 365 * 86_400).await;
    let proxy = verifier.proxy("execute-api", Limits::default());
    for requests in 1..=2 {
        let answer =
            proxy.talk(format!("GET http://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        assert_eq!(verifier.count(), requests, "it is not signed again");
    }
}

/// One client's bodies, however slowly they arrive, leave space for those of other clients.
#[tokio::test]
async fn one_listener_cannot_take_the_whole_body_budget() {
    let verifier = Verifier::start(None, 0).await;
    let limits = Limits {
        held_in_memory: 1 << 20,
        held_on_disk: 1 << 20,
        reserved_in_memory: 0,
        reserved_on_disk: 0,
        idle: DEADLINE,
        ..Limits::default()
    };
    let proxy = verifier.proxy("execute-api", limits);
    let body = |path: &str, length: usize, sent: usize| {
        let head = format!(
            "POST http://{HOST}{path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        );
        [head.as_bytes(), &vec![b'x'; sent]].concat()
    };
    // More bodies than there is space for, none of which is complete.
    let mut greedy = Vec::new();
    for _ in 0..12 {
        let mut stream = proxy.connect().await;
        let sent = body("/greedy", 250_000, 240_000);
        let (mut read, mut write) = stream.split();
        let mut answer = [0; 12];
        // Some are refused before they have sent their whole body.
        let (_, told) = tokio::join!(write.write_all(&sent), async {
            let told = tokio::io::AsyncReadExt::read(&mut read, &mut answer);
            tokio::time::timeout(std::time::Duration::from_millis(50), told).await
        });
        drop(told);
        greedy.push(stream);
    }
    let (_dir, listener, path) = proxy.another();
    let mut stream = tokio::net::UnixStream::connect(path).await.expect("connects");
    stream.write_all(&body("/modest", 250_000, 250_000)).await.expect("writes");
    let answer = read_all(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let told = proxy.records.all().iter().filter(|record| record.decision == Decision::Denied("no_buffers")).count();
    assert!(told > 0, "the control: the greedy one met its limit");
    listener.stop(DEADLINE).await;
}
