//! What a tunnel carries.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::mpsc;

use crate::client::tunnel::{application_data, client_hello, hello_retry_request, nameless_hello, of_type};
use crate::client::{raw, tunnel};
use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::outside::{DENIED, HOST, NEEDS};
use crate::target::deployment::Deployment;
use crate::target::fixtures::OriginKind;
use crate::target::launch::Launch;
use crate::target::process::peak_memory;

/// How long bytes may take to arrive.
const THROUGH_LIMIT: Duration = Duration::from_secs(10);
/// Bytes sent through one tunnel.
const LARGE: u64 = 1 << 30;
/// How much the server's memory may grow meanwhile.
const GROWTH: u64 = 64 << 20;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "EGR-207",
        "A tunnel carries only a TLS connection whose ClientHello names its own host",
        "the ClientHello's SNI must equal the CONNECT host, also when split over segments; one response per CONNECT",
        body!(greetings),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(90),
    Scenario::new(
        "EGR-208",
        "Each event of a stream is forwarded before the next one is sent",
        "responses flushed chunk by chunk (event streams)",
        body!(event_by_event),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(90),
    Scenario::new(
        "EGR-209",
        "1 GiB passes through a tunnel, and the memory of the server does not grow with it",
        "1 GiB through a tunnel with flat memory",
        body!(large),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(90),
    Scenario::new(
        "EGR-210",
        "A target without TLS or with a wrong or untrusted certificate is answered with 502 and receives no credential",
        "upstream with a wrong-name or self-signed certificate: 502; credentials leave by verified TLS only",
        body!(unverified),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(90),
    Scenario::new(
        "EGR-215",
        "Every ClientHello of a tunnel names its own host, also the one after a HelloRetryRequest",
        "the SNI of each ClientHello must equal the CONNECT host; none may come unasked, nor another message first",
        body!(second_greetings),
    )
    .severity(Severity::Critical)
    .profile(Profile::Full)
    .requires(NEEDS)
    .limit(90),
];

/// Launches a deployment, and returns the proxy socket of the workspace in its pool.
async fn proxy_socket(context: &Context, launch: Launch) -> Result<(Deployment, PathBuf), Failure> {
    let deployment = context.launch(launch.without_model().set("WARM_POOL_MIN_SIZE", 1)).await?;
    deployment.metric("workspace_warm_pool_size", |waiting| waiting == 1.0, Duration::from_secs(20)).await?;
    let proxy = deployment.only_room().await?.socket_dir().await?.join("proxy.sock");
    Ok((deployment, proxy))
}

async fn greetings(context: &Context) -> Result<(), Failure> {
    let peer = context.outsider("").await?;
    let launch = Launch::new().set("PROXY_ALLOWED_DOMAINS", HOST).pin_address(HOST, 443, &peer.address);
    let (_deployment, proxy) = proxy_socket(context, launch).await?;
    let authority = format!("{HOST}:443");
    let marked = |greeting: Vec<u8>, mark: &str| [greeting, application_data(mark.as_bytes())].concat();

    let whole = tunnel::connect(&proxy, &authority, &marked(client_hello(HOST), "sent-whole")).await;
    check_eq("status of CONNECT", whole.map_err(Failure::assertion)?.status, 200)?;
    peer.has_seen("sent-whole").await?;
    // Byte by byte, the first one together with the CONNECT request.
    let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    let bytes = [head.as_bytes(), &marked(client_hello(HOST), "sent-in-pieces")].concat();
    let (early, late) = bytes.split_at(head.len() + 9);
    let pieces: Vec<&[u8]> = std::iter::once(early).chain(late.chunks(1)).collect();
    send_and_leave(&proxy, &pieces).await?;
    peer.has_seen("sent-in-pieces").await?;

    let before = peer.seen();
    for (what, greeting) in [
        ("a ClientHello for another host", client_hello(DENIED)),
        ("a ClientHello for a subdomain", client_hello(&format!("x.{HOST}"))),
        ("a ClientHello without a server name", nameless_hello()),
        ("an HTTP request in place of a ClientHello", format!("GET / HTTP/1.1\r\nHost: {DENIED}\r\n\r\n").into_bytes()),
        ("random bytes in place of a ClientHello", vec![0x80; 600]),
    ] {
        let answer = tunnel::connect(&proxy, &authority, &marked(greeting, "sneaked-through")).await;
        // A connection reset counts as an end, too.
        let received = answer.map(|answer| answer.received).unwrap_or_default();
        check(
            !String::from_utf8_lossy(&received).contains("HTTP/1.1"),
            format!("{what} gets a second answer: {received:?}"),
        )?;
        check(peer.seen() == before, format!("{what} was let through: {:?}", peer.seen().split_off(before.len())))?;
    }
    Ok(())
}

/// A target that answers the first bytes of each connection with `answer`, or only reads, and passes on what it receives.
async fn answering_once(
    context: &Context,
    answer: Vec<u8>,
) -> Result<(String, mpsc::UnboundedReceiver<Vec<u8>>), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let (tell, received) = mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        // One tunnel after the other; what a connection carried is passed on when it ends.
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
            while let Ok(size @ 1..) = stream.read(&mut buffer).await {
                if all.is_empty() && stream.write_all(&answer).await.is_err() {
                    break;
                }
                all.extend_from_slice(&buffer[..size]);
            }
            if tell.send(all).is_err() {
                break;
            }
        }
    });
    context.resources.add(format!("target at {address}"), move || async move {
        task.abort();
        Ok(())
    });
    Ok((address, received))
}

async fn second_greetings(context: &Context) -> Result<(), Failure> {
    const MARK: &[u8] = b"sneaked-through";
    let (address, mut carried) = answering_once(context, hello_retry_request()).await?;
    let launch = Launch::new().set("PROXY_ALLOWED_DOMAINS", HOST).pin_address(HOST, 443, &address);
    let (_deployment, proxy) = proxy_socket(context, launch).await?;
    let marked = |greeting: Vec<u8>| [greeting, application_data(MARK)].concat();
    let own = client_hello(HOST);
    for (what, first, waits, second, arrives) in [
        // The control: two good messages, the second one because the target has asked for it.
        ("a second ClientHello for the same host", own.clone(), true, marked(own.clone()), true),
        ("a second ClientHello for another host", own.clone(), true, marked(client_hello(DENIED)), false),
        ("a second ClientHello for a subdomain", own.clone(), true, marked(client_hello(&format!("x.{HOST}"))), false),
        ("a second ClientHello without a name", own.clone(), true, marked(nameless_hello()), false),
        ("two ClientHellos in a row", own.clone(), false, marked(client_hello(DENIED)), false),
        ("a Finished in place of a ClientHello", of_type(20, own.clone()), false, marked(Vec::new()), false),
        ("a Finished before the ClientHello", of_type(20, own.clone()), false, marked(own.clone()), false),
        ("a ServerHello in place of a ClientHello", of_type(2, own.clone()), false, marked(Vec::new()), false),
    ] {
        let exchange = async {
            let mut stream = UnixStream::connect(&proxy).await?;
            let head = format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n");
            let mut received = String::new();
            stream.write_all(head.as_bytes()).await?;
            read_until(&mut stream, "\r\n\r\n", &mut received).await?;
            check(received.starts_with("HTTP/1.1 200"), format!("CONNECT is answered with {received:?}"))?;
            // A proxy that refuses may have closed the connection.
            let _ = stream.write_all(&first).await;
            if waits {
                stream.read_exact(&mut vec![0; hello_retry_request().len()]).await?;
            }
            let _ = stream.write_all(&second).await;
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
            carried.recv().await.ok_or_else(|| Failure::harness("a target has ended"))
        };
        let ended = tokio::time::timeout(THROUGH_LIMIT, exchange).await;
        let all = ended.map_err(|_| Failure::assertion(format!("a tunnel with {what} has no end")))??;
        let through = all.windows(MARK.len()).any(|window| window == MARK);
        check(!through || arrives, format!("{what} was let through"))?;
        check(through || !arrives, format!("a tunnel with {what} was refused"))?;
        // Nothing at all of another first message.
        check(waits || all.is_empty() || all.starts_with(&own), format!("{what} reached the target: {all:?}"))?;
    }
    Ok(())
}

/// Sends the pieces, reads the response head, and closes.
async fn send_and_leave(proxy: &Path, pieces: &[&[u8]]) -> Result<(), Failure> {
    let exchange = async {
        let mut stream = UnixStream::connect(proxy).await?;
        for piece in pieces {
            stream.write_all(piece).await?;
            tokio::task::yield_now().await;
        }
        stream.shutdown().await?;
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await?;
        Ok::<_, Failure>(String::from_utf8_lossy(&received).into_owned())
    };
    let received = tokio::time::timeout(THROUGH_LIMIT, exchange)
        .await
        .map_err(|_| Failure::assertion("a tunnel has no end"))??;
    check(received.starts_with("HTTP/1.1 200"), format!("a tunnel in pieces is answered with {received:?}"))
}

/// Reads until this text has arrived.
async fn read_until(
    stream: &mut (impl AsyncReadExt + Unpin),
    text: &str,
    received: &mut String,
) -> Result<(), Failure> {
    let read = async {
        let mut buffer = [0; 4096];
        while !received.contains(text) {
            let size = stream.read(&mut buffer).await?;
            check(size > 0, format!("the end, before {text:?}: {received:?}"))?;
            received.push_str(&String::from_utf8_lossy(&buffer[..size]));
        }
        Ok(())
    };
    let ended = tokio::time::timeout(THROUGH_LIMIT, read).await;
    ended.unwrap_or_else(|_| {
        Err(Failure::mismatch("the event is held back", format!("{text:?}"), format!("{received:?}")))
    })
}

async fn event_by_event(context: &Context) -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let launch = Launch::new().set("PROXY_ALLOWED_DOMAINS", HOST).pin_address(HOST, 80, &address);
    let (_deployment, proxy) = proxy_socket(context, launch).await?;
    let mut client = UnixStream::connect(&proxy).await?;
    client.write_all(format!("GET http://{HOST}/events HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await?;
    let accepted = tokio::time::timeout(THROUGH_LIMIT, listener.accept()).await;
    let (mut origin, _) = accepted.map_err(|_| Failure::assertion("the request does not arrive"))??;
    let (mut asked, mut received) = (String::new(), String::new());
    read_until(&mut origin, "\r\n\r\n", &mut asked).await?;
    origin
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await?;
    // The next event is sent only after the previous one has arrived, so a buffering proxy would block here.
    for number in 1..=20 {
        let event = format!("data: event {number}.\n\n");
        origin.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await?;
        read_until(&mut client, &event, &mut received).await?;
    }
    origin.write_all(b"0\r\n\r\n").await?;
    read_until(&mut client, "\r\n0\r\n\r\n", &mut received).await
}

async fn large(context: &Context) -> Result<(), Failure> {
    const PIECE: usize = 256 << 10;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let launch = Launch::new().set("PROXY_ALLOWED_DOMAINS", format!("{HOST}:8080")).pin_address(HOST, 8080, &address);
    let (deployment, proxy) = proxy_socket(context, launch).await?;
    let server = deployment.server()?.pid();
    let before = peak_memory(server)?;
    let mut client = UnixStream::connect(&proxy).await?;
    client.write_all(format!("CONNECT {HOST}:8080 HTTP/1.1\r\nHost: {HOST}:8080\r\n\r\n").as_bytes()).await?;
    let mut head = String::new();
    read_until(&mut client, "\r\n\r\n", &mut head).await?;
    check(head.starts_with("HTTP/1.1 200"), format!("CONNECT is answered with {head:?}"))?;
    let send = async {
        let (mut origin, _) = listener.accept().await?;
        let piece = vec![b'x'; PIECE];
        for _ in 0..LARGE / PIECE as u64 {
            origin.write_all(&piece).await?;
        }
        origin.shutdown().await
    };
    let count = async {
        let (mut buffer, mut total) = (vec![0; PIECE], 0);
        loop {
            match client.read(&mut buffer).await? {
                0 => return Ok::<u64, std::io::Error>(total),
                size => total += size as u64,
            }
        }
    };
    let (sent, received) = tokio::join!(send, count);
    sent?;
    check_eq("bytes that came through the tunnel", received?, LARGE)?;
    let grown = peak_memory(server)?.saturating_sub(before);
    check(grown < GROWTH, format!("the server's memory grew by {} MiB at its peak", grown >> 20))
}

async fn unverified(context: &Context) -> Result<(), Failure> {
    const KNOWN: &str = "known.conformance.test";
    const UNKNOWN: &str = "unknown.conformance.test";
    const OTHER: &str = "other.conformance.test";
    const NO_TLS: &str = "plain.conformance.test";
    let canary = context.unique("canary");
    context.secrets().add(&canary);
    let (known, unknown) =
        (context.origin(OriginKind::Tls(KNOWN)).await?, context.origin(OriginKind::Tls(UNKNOWN)).await?);
    let plain = context.origin(OriginKind::Plain).await?;
    let hosts = [KNOWN, UNKNOWN, OTHER, NO_TLS];
    let rules: Vec<String> = hosts.iter().map(|host| format!("{host}=header:x-canary:env:CANARY")).collect();
    let launch = Launch::new()
        .set("PROXY_ALLOWED_DOMAINS", hosts.join(","))
        .set("PROXY_CREDENTIALS", rules.join(","))
        .set("CANARY", &canary)
        .pin(KNOWN, 443, &known)
        // With a certificate of the first host's authority, for the first host's name.
        .pin_address(OTHER, 443, &known.address)
        .pin_address(UNKNOWN, 443, &unknown.address)
        .pin_address(NO_TLS, 443, &plain.address);
    let (_deployment, proxy) = proxy_socket(context, launch).await?;
    for (host, status) in [(KNOWN, 200), (UNKNOWN, 502), (OTHER, 502), (NO_TLS, 502)] {
        let request = format!("GET http://{host}/echo HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = raw::talk(&proxy, request.as_bytes()).await.map_err(Failure::assertion)?;
        check_eq(format!("status of a request to {host} ({answer:?})"), answer.status(), Some(status))?;
        // The proxy does not show the credential that the target repeats, but its header.
        let repeated = answer.text.to_ascii_lowercase().contains("x-canary");
        check_eq(format!("whether {host} got the credential"), repeated, status == 200)?;
    }
    Ok(())
}
