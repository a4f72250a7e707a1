use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::host::Host;
use crate::target::Target;

use super::*;

fn read(text: &str) -> Result<Option<Head>, u16> {
    Scan::default().next(&mut BytesMut::from(text)).map_err(|refusal| refusal.status.as_u16())
}

fn framing_of(lines: &str) -> Result<Framing, u16> {
    read(&format!("POST http://a/ HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).map(|head| head.expect("whole").framing)
}

#[test]
fn a_head_is_parsed_only_once_complete() {
    let whole = "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\n\r\nbody";
    let mut scan = Scan::default();
    let mut buffer = BytesMut::new();
    let end = whole.len() - 4;
    for byte in &whole.as_bytes()[..end - 1] {
        buffer.extend_from_slice(&[*byte]);
        assert!(scan.next(&mut buffer).expect("no fault").is_none());
    }
    buffer.extend_from_slice(&whole.as_bytes()[end - 1..]);
    let head = scan.next(&mut buffer).expect("no fault").expect("whole");
    assert_eq!((head.method, head.target.as_str()), (Method::GET, "http://a.example/"));
    assert!(head.keep_alive && !head.expects_continue && head.modern);
    assert_eq!(&buffer[..], b"body");
}

#[test]
fn ambiguous_request_lines_are_refused() {
    for bad in [
        "\r\nGET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a/ HTTP/1.1\nHost: a\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nHost: a\n\r\n",
        "GET http://a/ HTTP/1.1\r\nHost: a\r\n\n",
        "GET http://a/ HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nHost: a\r\n b: c\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\n\r\n",
        "GET  http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a/ x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a/\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a/\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a/\tb HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a/ HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET http://a/\r\nHost: a\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\n",
        "G(T http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nHost: a\r\nX y: z\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nHost: a\r\nX: y\u{1}\r\n\r\n",
    ] {
        assert_eq!(read(bad).map(|_| ()), Err(400), "{bad:?}");
    }
    // Refused before the head is complete, so that no client has to send 16 KiB first.
    assert_eq!(read("GET / HTTP/1.1\n").map(|_| ()), Err(400));
}

#[test]
fn a_body_has_one_length_or_none() {
    assert_eq!(framing_of(""), Ok(Framing::None));
    assert_eq!(framing_of("Content-Length: 5\r\n"), Ok(Framing::Length(5)));
    assert_eq!(framing_of("Transfer-Encoding: Chunked\r\n"), Ok(Framing::Chunked));
    for bad in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: \r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: \u{b}chunked\r\n",
        "Transfer-Encoding:\r\n",
    ] {
        assert_eq!(framing_of(bad), Err(400), "{bad:?}");
    }
    let old = "POST http://a/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(read(old).map(|_| ()), Err(400), "HTTP/1.0 knows no chunks");
}

#[test]
fn heads_have_limits() {
    let long = format!("GET http://a/{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(LARGEST));
    assert_eq!(read(&long).map(|_| ()), Err(431));
    assert_eq!(read(&long[..LARGEST + 1]).map(|_| ()), Err(431), "without waiting for its end");
    let many = |count| format!("GET http://a/ HTTP/1.1\r\nHost: a\r\n{}\r\n", "a: b\r\n".repeat(count));
    assert!(read(&many(99)).is_ok());
    assert_eq!(read(&many(100)).map(|_| ()), Err(431));
}

#[test]
fn only_a_known_expectation_is_accepted() {
    let post = |lines: &str| read(&format!("POST http://a/ HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
    assert!(
        post("Expect: 100-Continue\r\nContent-Length: 3\r\n")
            .is_ok_and(|head| head.is_some_and(|head| head.expects_continue))
    );
    assert!(post("Expect: 100-continue\r\n").is_ok_and(|head| head.is_some_and(|head| !head.expects_continue)));
    assert_eq!(post("Expect: tea\r\n").map(|_| ()), Err(417));
}

/// A head as a parser reads it: method, target, headers in order, and the length of the body (`None`: chunked).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reading {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    length: Option<u64>,
}

impl Reading {
    fn new(method: &str, target: &str, headers: Vec<(String, String)>, length: Option<u64>) -> Self {
        let headers = headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
        Self { method: method.into(), target: target.into(), headers: headers.collect(), length }
    }
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// As this crate's parser reads it; `None` if the head is refused or incomplete.
fn ours(bytes: &[u8]) -> Option<Reading> {
    let head = Scan::default().next(&mut BytesMut::from(bytes)).ok()??;
    let gateway = Host::parse("gateway.example").expect("a host");
    Target::read(&head, Some(&gateway)).ok()?;
    let headers = head.headers.iter().map(|(name, value)| (name.to_string(), latin1(value.as_bytes())));
    let length = match head.framing {
        Framing::None => Some(0),
        Framing::Length(length) => Some(length),
        Framing::Chunked => None,
    };
    Some(Reading::new(head.method.as_str(), &head.target, headers.collect(), length))
}

/// As hyper reads it; `None` if hyper refuses it.
async fn hypers(bytes: &[u8]) -> Option<Reading> {
    use hyper::body::Body;
    use tokio::io::AsyncWriteExt;
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    client.write_all(bytes).await.expect("writes");
    let (tell, told) = tokio::sync::oneshot::channel();
    let tell = std::sync::Mutex::new(Some(tell));
    let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let headers = request.headers().iter().map(|(name, value)| (name.to_string(), latin1(value.as_bytes())));
        let length = request.body().size_hint().exact();
        let target = match request.method() {
            &Method::CONNECT => request.uri().authority().map_or_else(String::new, ToString::to_string),
            _ => request.uri().to_string(),
        };
        let reading = Reading::new(request.method().as_str(), &target, headers.collect(), length);
        let _ = tell.lock().expect("a lock").take().map(|tell| tell.send(reading));
        std::future::ready(Err::<http::Response<String>, _>(std::io::Error::other("that is all")))
    });
    let served =
        hyper::server::conn::http1::Builder::new().serve_connection(hyper_util::rt::TokioIo::new(server), service);
    // The connection ends with the result; the body is not awaited.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(10), served).await.expect("in time");
    told.await.ok()
}

/// As Python's `http.server` reads them; all heads in one process, because starting one takes time.
fn pythons(heads: &[Vec<u8>]) -> Vec<Option<Reading>> {
    const READER: &str = r#"
import http.server, io, json, sys
class Reader(http.server.BaseHTTPRequestHandler):
    def __init__(self, head):
        self.rfile, self.wfile, self.read = io.BytesIO(head), io.BytesIO(), None
        self.client_address, self.server = ("", 0), None
        self.raw_requestline = self.rfile.readline(65537)
        if self.parse_request():
            length = self.headers.get_all("content-length")
            chunked = "transfer-encoding" in self.headers
            self.read = [self.command, self.path, self.headers.items(), None if chunked else int(length[0]) if length else 0]
    def log_message(self, *args): pass
for line in sys.stdin:
    try: print(json.dumps(Reader(bytes.fromhex(line)).read))
    except Exception: print("null")
"#;
    use std::io::Write;
    let mut python = std::process::Command::new("python3")
        .args(["-c", READER])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("python3");
    let mut stdin = python.stdin.take().expect("piped");
    let lines: String =
        heads.iter().map(|head| format!("{}\n", head.iter().map(|b| format!("{b:02x}")).collect::<String>())).collect();
    let writing = std::thread::spawn(move || stdin.write_all(lines.as_bytes()).expect("writes"));
    let output = python.wait_with_output().expect("output");
    writing.join().expect("joined");
    let text = String::from_utf8(output.stdout).expect("text");
    let read = |line: &str| serde_json::from_str::<Option<(String, String, Vec<(String, String)>, Option<u64>)>>(line);
    text.lines()
        .map(|line| {
            let (method, target, headers, length) = read(line).expect("JSON")?;
            Some(Reading::new(&method, &target, headers, length))
        })
        .collect()
}

/// As tiny_http reads it, which has its own parser.
fn tinys(server: &tiny_http::Server, bytes: &[u8]) -> Option<Reading> {
    use std::io::{Read, Write};
    let address = server.server_addr().to_ip().expect("an address");
    let mut client = std::net::TcpStream::connect(address).expect("connects");
    client.write_all(bytes).expect("writes");
    client.shutdown(std::net::Shutdown::Write).expect("closes");
    // tiny_http answers requests that it refuses itself, and returns the others.
    loop {
        if let Some(request) = server.recv_timeout(std::time::Duration::from_millis(1)).expect("receives") {
            let headers =
                request.headers().iter().map(|h| (h.field.to_string(), h.value.to_string())).collect::<Vec<_>>();
            let chunked = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("transfer-encoding"));
            let length = request.body_length().map(|length| length as u64);
            let length = if chunked { None } else { Some(length.unwrap_or(0)) };
            break Some(Reading::new(&request.method().to_string(), request.url(), headers, length));
        }
        client.set_nonblocking(true).expect("an option");
        match client.read(&mut [0; 1024]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            _ => break None,
        }
    }
}

fn heads() -> impl Strategy<Value = Vec<u8>> {
    let method = prop_oneof!["GET", "POST", "PUT", "CONNECT", "[A-Z!#$%&'*+.^_`|~-]{1,9}", "get"];
    let target = prop_oneof![
        "http://a\\.example(:[0-9]{1,5})?/[a-z%:@!$&'()*+,;=/.~_-]{0,12}(\\?[a-z0-9%&=+]{0,9})?",
        "/[!-~]{0,12}",
        "a\\.example:[0-9]{1,5}",
        "[!-~]{1,20}",
    ];
    let line = prop_oneof![
        4 => "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,12}: ?[ -~]{0,20}[ \t]?",
        1 => "(Content-Length|content-length): ?[0-9]{1,6}",
        1 => "(Transfer-Encoding|TE|Expect|Connection|Upgrade): ?(chunked|Chunked|gzip|close|100-continue|x)?",
        1 => "[ -~]{0,20}",
        1 => "[a-z]{1,4} ?:[ -~\t]{0,8}",
    ];
    let change =
        (any::<prop::sample::Index>(), prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b' '), Just(0)], 0..3u8);
    (method, target, "HTTP/1\\.[01]", vec(line, 0..6), vec(change, 0..3), any::<bool>()).prop_map(
        |(method, target, version, lines, changes, host)| {
            let host = if host { "Host: a.example\r\n" } else { "" };
            let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let mut head = format!("{method} {target} {version}\r\n{host}{lines}\r\n").into_bytes();
            for (at, byte, how) in changes {
                let at = at.index(head.len());
                match how {
                    0 => head[at] = byte,
                    1 => head.insert(at, byte),
                    _ => drop(head.remove(at)),
                }
            }
            head
        },
    )
}

/// Other parsers read an accepted head the same way, or refuse it.
#[tokio::test]
async fn accepted_heads_are_read_alike_by_other_parsers() {
    let mut runner = TestRunner::default();
    let strategy = heads();
    let accepted: Vec<(Vec<u8>, Reading)> = (0..20_000)
        .map(|_| strategy.new_tree(&mut runner).expect("a head").current())
        .filter_map(|head| ours(&head).map(|reading| (head, reading)))
        .collect();
    assert!(accepted.len() > 600, "too few heads were accepted to say anything: {}", accepted.len());
    let whole: Vec<Vec<u8>> = accepted.iter().map(|(head, _)| head.clone()).collect();
    let server = tiny_http::Server::http("127.0.0.1:0").expect("listens");
    let mut agreed = [0; 3];
    for ((head, ours), python) in accepted.iter().zip(pythons(&whole)) {
        let others = [hypers(head).await, python, tinys(&server, head)];
        for (n, theirs) in others.into_iter().enumerate() {
            let Some(theirs) = theirs else { continue };
            let mut ours = ours.clone();
            let who = ["hyper", "python", "tiny_http"][n];
            if who == "hyper" && ours.method != "CONNECT" {
                // hyper returns a parsed target, with a path even if the request has none.
                ours.target = ours.target.parse::<http::Uri>().map_or(ours.target, |uri| uri.to_string());
            }
            if who == "python" && ours.target.starts_with("//") {
                // Python does this on purpose, against open redirects (CPython issue 87389).
                ours.target = format!("/{}", ours.target.trim_start_matches('/'));
            }
            // A header map groups the values of one name, so only their order within a name is compared.
            let sorted = |mut reading: Reading| {
                reading.headers.sort_by(|a, b| a.0.cmp(&b.0));
                reading
            };
            assert_eq!(sorted(ours), sorted(theirs), "{who}: {:?}", String::from_utf8_lossy(head));
            agreed[n] += 1;
        }
    }
    assert!(agreed.iter().all(|count| *count > accepted.len() / 4), "{agreed:?} of {}", accepted.len());
}

proptest! {
    /// However it is split, a head is read the same, or refused for the same reason.
    #[test]
    fn splitting_makes_no_difference(head in heads(), step in 1usize..40) {
        let at_once = Scan::default().next(&mut BytesMut::from(&head[..])).map(|head| head.map(|head| head.target));
        let (mut scan, mut buffer, mut piecemeal) = (Scan::default(), BytesMut::new(), Ok(None));
        for piece in head.chunks(step) {
            buffer.extend_from_slice(piece);
            piecemeal = scan.next(&mut buffer).map(|head| head.map(|head| head.target));
            if !matches!(piecemeal, Ok(None)) {
                break;
            }
        }
        prop_assert_eq!(at_once.map_err(|refusal| refusal.status), piecemeal.map_err(|refusal| refusal.status));
    }
}
