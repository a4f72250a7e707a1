//! TLS: the server name in tunnels, and the certificates of targets.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Full};
use nagaya_egress::{Decision, Settings};
use nagaya_fixtures::listen::Listening;
use nagaya_fixtures::origin::Kind;
use nagaya_fixtures::tls::Tls;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;

use crate::peer::Peer;
use crate::support::{DEADLINE, Proxy, any, origin, read_all, read_head, settings};

const HOST: &str = "api.example";

/// Opens a tunnel to `HOST`.
async fn tunnel(proxy: &Proxy) -> UnixStream {
    let mut stream = proxy.connect().await;
    let request = format!("CONNECT {HOST}:443 HTTP/1.1\r\nhost: {HOST}:443\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("writes");
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200 "));
    stream
}

fn connector(ca_pem: &str, sni: bool) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).expect("a certificate")).expect("an authority");
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.enable_sni = sni;
    TlsConnector::from(Arc::new(config))
}

/// Passes a client's bytes on in separate writes of `step` bytes.
async fn in_pieces(stream: UnixStream, step: usize) -> tokio::io::DuplexStream {
    let (near, far) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move {
        let (mut from, mut to) = tokio::io::split(far);
        let (mut read, mut write) = stream.into_split();
        let up = async {
            let mut bytes = vec![0; step];
            while let Ok(length @ 1..) = from.read(&mut bytes).await {
                write.write_all(&bytes[..length]).await.expect("writes");
                // Lets the proxy read this piece before the next one is sent.
                tokio::task::yield_now().await;
            }
            let _ = write.shutdown().await;
        };
        let down = async {
            let _ = tokio::io::copy(&mut read, &mut to).await;
            let _ = to.shutdown().await;
        };
        tokio::join!(up, down);
    });
    near
}

/// Row 14: the server name must be the target's, even if it arrives in pieces.
#[tokio::test]
async fn a_tunnel_carries_only_its_own_host_name() {
    let origin = origin(Kind::Https(vec![HOST.into(), "front.example".into()])).await;
    let ca = origin.ca_pem().expect("TLS").to_owned();
    for step in [1, 7, 100_000] {
        let proxy = Proxy::start(settings(&[("api.example:443", origin.addr())]));
        let stream = in_pieces(tunnel(&proxy).await, step).await;
        let name = ServerName::try_from(HOST).expect("a name");
        let connecting = tokio::time::timeout(DEADLINE, connector(&ca, true).connect(name, stream));
        let mut stream = connecting.await.expect("in time").expect("TLS");
        stream
            .write_all(b"GET /echo HTTP/1.1\r\nhost: api.example\r\nconnection: close\r\n\r\n")
            .await
            .expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{step}: {answer}");
    }
    for (sni, name, reason) in [(true, "front.example", "sni_mismatch"), (false, HOST, "sni_missing")] {
        let peer = Peer::content().await;
        let proxy = Proxy::start(settings(&[("api.example:443", peer.addr())]));
        let stream = in_pieces(tunnel(&proxy).await, 5).await;
        let name = ServerName::try_from(name).expect("a name");
        let connecting = tokio::time::timeout(DEADLINE, connector(&ca, sni).connect(name, stream));
        let error = connecting.await.expect("in time").expect_err("refused").to_string();
        assert!(error.to_ascii_lowercase().contains("unrecognisedname"), "the client learns why: {error}");
        let record = proxy.record().await;
        assert_eq!((record.decision, record.bytes_up, peer.seen().as_str()), (Decision::Denied(reason), 0, ""));
    }
}

/// Inspection can be turned off for a target, and on ports other than 443 bytes that are not TLS pass.
#[tokio::test]
async fn uninspected_tunnels_pass_bytes_unchanged() {
    let echo = origin(Kind::RawEcho).await;
    let mut opaque = settings(&[("api.example:443", echo.addr())]);
    opaque.opaque = "api.example:443".parse().expect("a list");
    let proxy = Proxy::start(opaque);
    let mut stream = tunnel(&proxy).await;
    stream.write_all(b"SSH-2.0-x").await.expect("writes");
    stream.shutdown().await.expect("closes");
    assert_eq!(read_all(&mut stream).await, "SSH-2.0-x");

    let proxy = Proxy::start(settings(&[("api.example:22", echo.addr())]));
    let mut stream = proxy.connect().await;
    stream
        .write_all(b"CONNECT api.example:22 HTTP/1.1\r\nhost: api.example:22\r\n\r\nSSH-2.0-x")
        .await
        .expect("writes");
    stream.shutdown().await.expect("closes");
    assert!(read_all(&mut stream).await.ends_with("\r\n\r\nSSH-2.0-x"));
}

/// Sends a request with a credential to a target with this certificate, and returns the client's response.
async fn asked(tls: Tls, extra_ca: Option<&str>) -> String {
    let extra_ca_pem = extra_ca.map(|pem| pem.as_bytes().to_vec());
    let answer =
        |_| async { Response::new(Full::new(Bytes::from("secret told")).map_err(|no| match no {}).boxed_unsync()) };
    let listening = Listening::http(any(), Some(tls), answer).await.expect("listens");
    let settings = Settings { extra_ca_pem, ..settings(&[("api.example:443", listening.addr())]) };
    let credentials = settings.credentials.clone().with_header(HOST, "x-api-key", "hunter2");
    let proxy = Proxy::start(Settings { credentials, ..settings });
    proxy.talk(format!("GET http://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n")).await
}

/// Row 21: a credential is never sent to a target with an untrusted certificate.
#[tokio::test]
async fn only_trusted_valid_certificates_are_accepted() {
    let name = |name: &str| vec![name.to_owned()];
    let tls = || Tls::new(&name(HOST)).expect("a certificate");
    let good = tls();
    let ca = good.ca_pem.clone();
    assert!(asked(good, Some(&ca)).await.contains("secret told"), "the extra authority is honoured");
    let expired = Tls::expired(&name(HOST)).expect("a certificate");
    let other = Tls::new(&name("other.example")).expect("a certificate");
    for (what, tls, ca) in [
        ("one nobody vouches for", tls(), None),
        ("one somebody else vouches for", tls(), Some(ca.clone())),
        ("an expired one", expired.clone(), Some(expired.ca_pem.clone())),
        ("one for another name", other.clone(), Some(other.ca_pem.clone())),
    ] {
        let answer = asked(tls, ca.as_deref()).await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{what}: {answer}");
        assert!(answer.contains(r#""reason":"tls_certificate""#), "{what}: {answer}");
    }
    // A target that does not speak TLS.
    let echo = origin(Kind::RawEcho).await;
    let settings = settings(&[("api.example:443", echo.addr())]);
    let credentials = settings.credentials.clone().with_header(HOST, "x-api-key", "hunter2");
    let proxy = Proxy::start(Settings { credentials, ..settings });
    let answer = proxy.talk(format!("GET http://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains(r#""reason":"tls""#), "{answer}");
}

/// A tunnel that begins as TLS must continue as TLS on every port: neither a long message nor a long pause hides another name.
#[tokio::test]
async fn an_unusual_client_hello_does_not_hide_its_name() {
    let begun = [22, 3, 1, 0, 200, 1, 0, 1, 0, 3, 3];
    let long = [&[22, 3, 1, 0x40, 0, 1, 0, 0x50, 0][..], &[7; 0x3ffc]].concat();
    for (what, sent) in [("it never ends", &begun[..]), ("it is too long", &long)] {
        let peer = Peer::content().await;
        let mut settings = settings(&[("api.example:8443", peer.addr())]);
        settings.limits.head = std::time::Duration::from_millis(100);
        let proxy = Proxy::start(settings);
        let mut stream = proxy.connect().await;
        stream.write_all(b"CONNECT api.example:8443 HTTP/1.1\r\nhost: api.example\r\n\r\n").await.expect("writes");
        assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200 "));
        stream.write_all(sent).await.expect("writes");
        assert_eq!(read_all(&mut stream).await, "", "{what}");
        let record = proxy.record().await;
        assert_eq!((record.decision, peer.seen().as_str()), (Decision::Denied("tls_malformed"), ""), "{what}");
    }
}
