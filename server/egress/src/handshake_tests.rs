use std::sync::Arc;

use nagaya_fixtures::tls::Tls;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion};

use super::*;
use crate::hello::tests::{client_hello, in_records, names};

const HOST: &str = "api.example";

fn host() -> Host {
    Host::parse(HOST).expect("a host")
}

fn provider(groups: &[&'static dyn SupportedKxGroup]) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { kx_groups: groups.to_vec(), ..ring::default_provider() })
}

/// A client and a server that keep their session state, for more than one handshake.
struct Pair {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Pair {
    /// With `retry`, the server requires a key share other than the one the client offers first.
    fn new(version: &'static SupportedProtocolVersion, retry: bool) -> Self {
        let all = ring::kx_group::SECP384R1;
        let groups: &[&'static dyn SupportedKxGroup] = if retry { &[all] } else { &[ring::kx_group::X25519, all] };
        let tls = Tls::new(&[HOST.to_owned(), "evil.example".to_owned()]).expect("a certificate");
        let certificate = CertificateDer::from_pem_slice(tls.server_pem.0.as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(tls.server_pem.1.as_bytes()).expect("a key");
        let mut server = ServerConfig::builder_with_provider(provider(groups))
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a server");
        server.max_early_data_size = 1024;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(tls.ca_pem.as_bytes()).expect("a certificate")).expect("an authority");
        let mut client = ClientConfig::builder_with_provider(provider(&[ring::kx_group::X25519, all]))
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.enable_early_data = true;
        Self { client: Arc::new(client), server: Arc::new(server) }
    }

    fn client(&self, name: &str) -> ClientConnection {
        ClientConnection::new(self.client.clone(), name.to_owned().try_into().expect("a name")).expect("a client")
    }

    fn server(&self) -> ServerConnection {
        ServerConnection::new(self.server.clone()).expect("a server")
    }

    /// Performs a handshake in which every byte passes a watch, in pieces of `step`. Returns how many bytes the watch inspected.
    fn shake(&self, step: usize) -> usize {
        let (mut client, mut server, mut looked) = (self.client(HOST), self.server(), 0);
        if let Some(mut early) = client.early_data() {
            std::io::Write::write_all(&mut early, b"early").expect("writes");
        }
        let mut held = Vec::new();
        client.write_tls(&mut held).expect("writes");
        let mut scan = hello::Scan::default();
        assert_eq!(scan.next(&held), Hello::For(HOST.into()));
        let mut watch = Watch::new(scan.seen());
        for _ in 0..10 {
            let mut waiting = std::mem::take(&mut held);
            while client.wants_write() {
                client.write_tls(&mut waiting).expect("writes");
            }
            for piece in waiting.chunks(step) {
                held.extend_from_slice(piece);
                looked += if watch.is_over() { 0 } else { piece.len() };
                let passed = watch.client_says(&held, &host()).expect("nothing to object to");
                server.read_tls(&mut &held[..passed]).expect("reads");
                server.process_new_packets().expect("the server understands");
                held.drain(..passed);
            }
            assert!(held.is_empty(), "all was passed on");
            let mut answer = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut answer).expect("writes");
            }
            for piece in answer.chunks(step) {
                watch.server_says(piece);
                client.read_tls(&mut &piece[..]).expect("reads");
                client.process_new_packets().expect("the client understands");
            }
            if !client.is_handshaking() && !server.is_handshaking() && !client.wants_write() && !server.wants_write() {
                assert!(watch.is_over(), "nothing is left to watch");
                return looked;
            }
        }
        panic!("the handshake did not end");
    }
}

/// All handshakes of a TLS library pass, however their bytes are split: full ones, resumed ones, those with early data and those
/// with a second ClientHello.
#[test]
fn handshakes_pass() {
    for (version, retry) in
        [(&rustls::version::TLS12, false), (&rustls::version::TLS13, false), (&rustls::version::TLS13, true)]
    {
        for step in [1, 2, 7, 100, 100_000] {
            let pair = Pair::new(version, retry);
            // The second handshake resumes the session.
            for _ in 0..2 {
                let looked = pair.shake(step);
                assert!(looked < 4000, "{looked} bytes were looked at");
            }
        }
    }
}

/// The client's first ClientHello, the server's HelloRetryRequest, and the second ClientHello, each with the given name.
fn retried(first: &str, second: &str) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let pair = Pair::new(&rustls::version::TLS13, true);
    let hellos = |name: &str| {
        let (mut client, mut server) = (pair.client(name), pair.server());
        let (mut hello, mut retry, mut again) = (Vec::new(), Vec::new(), Vec::new());
        client.write_tls(&mut hello).expect("writes");
        server.read_tls(&mut &hello[..]).expect("reads");
        server.process_new_packets().expect("the server understands");
        while server.wants_write() {
            server.write_tls(&mut retry).expect("writes");
        }
        client.read_tls(&mut &retry[..]).expect("reads");
        client.process_new_packets().expect("the client understands");
        while client.wants_write() {
            client.write_tls(&mut again).expect("writes");
        }
        (hello, retry, again)
    };
    let (hello, retry, _) = hellos(first);
    (hello, retry, hellos(second).2)
}

/// A watch of a client that has sent `hello` and received `answer`.
fn answered(hello: &[u8], answer: &[u8]) -> Watch {
    let mut watch = Watch::new(hello.len());
    assert_eq!(watch.client_says(hello, &host()), Ok(hello.len()));
    watch.server_says(answer);
    watch
}

/// Feeds a client's bytes in pieces; returns how many were passed on, and why no more were.
fn says(watch: &mut Watch, bytes: &[u8], step: usize) -> (usize, Result<(), &'static str>) {
    let (mut held, mut all) = (Vec::new(), 0);
    for piece in bytes.chunks(step) {
        held.extend_from_slice(piece);
        match watch.client_says(&held, &host()) {
            Ok(passed) => {
                held.drain(..passed);
                all += passed;
            }
            Err(reason) => return (all, Err(reason)),
        }
    }
    (all, Ok(()))
}

/// The bytes before the second ClientHello: a middlebox compatibility record (RFC 8446, section D.4).
fn before_hello(again: &[u8]) -> usize {
    if again[0] == CHANGE_CIPHER_SPEC { 6 } else { 0 }
}

#[test]
fn a_second_hello_names_the_same_host() {
    let (hello, retry, again) = retried(HOST, HOST);
    for step in [1, 3, 1000] {
        assert_eq!(says(&mut answered(&hello, &retry), &again, step), (again.len(), Ok(())), "the control");
    }
    let (hello, retry, again) = retried(HOST, "evil.example");
    for step in [1, 3, 1000] {
        let (passed, ended) = says(&mut answered(&hello, &retry), &again, step);
        assert!(passed <= before_hello(&again), "{passed} bytes of it were passed on");
        assert_eq!(ended, Err("sni_mismatch"), "{step}");
        // The same in small records, and behind early data.
        let cut = in_records(&again[before_hello(&again)..], 20);
        assert_eq!(says(&mut answered(&hello, &retry), &cut, step), (0, Err("sni_mismatch")));
        let early = [&[APPLICATION_DATA, 3, 3, 0, 2, 7, 7][..], &cut].concat();
        assert!(says(&mut answered(&hello, &retry), &early, step).1 == Err("sni_mismatch"));
    }
    let nameless = client_hello(&[]);
    assert_eq!(says(&mut answered(&hello, &retry), &nameless, 9), (0, Err("sni_missing")));
}

/// A third ClientHello, after a second HelloRetryRequest, is checked for the name like the second.
#[test]
fn no_later_hello_names_another_host_either() {
    let (hello, retry, again) = retried(HOST, HOST);
    let mut watch = answered(&hello, &retry);
    assert_eq!(says(&mut watch, &again, 100).1, Ok(()));
    let evil = client_hello(&names(&[(0, b"evil.example")]));
    assert_eq!(says(&mut watch, &evil, 7).1, Err("tls_malformed"), "unasked");
    let mut watch = answered(&hello, &retry);
    assert_eq!(says(&mut watch, &again, 100).1, Ok(()));
    watch.server_says(&retry);
    assert_eq!(says(&mut watch, &evil, 7), (0, Err("sni_mismatch")));
}

#[test]
fn an_unrequested_second_hello_is_refused() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let pair = Pair::new(version, false);
        let (mut client, mut server) = (pair.client(HOST), pair.server());
        let (mut hello, mut answer) = (Vec::new(), Vec::new());
        client.write_tls(&mut hello).expect("writes");
        server.read_tls(&mut &hello[..]).expect("reads");
        server.process_new_packets().expect("the server understands");
        while server.wants_write() {
            server.write_tls(&mut answer).expect("writes");
        }
        for name in [HOST, "evil.example"] {
            let second = client_hello(&names(&[(0, name.as_bytes())]));
            for step in [1, 1000] {
                // Both before and after the server has answered.
                for answer in [&[][..], &answer[..1], &answer[..50], &answer] {
                    let (passed, ended) = says(&mut answered(&hello, answer), &second, step);
                    assert_eq!(ended, Err("tls_malformed"), "{name}");
                    assert!(passed <= HEADER, "{passed} bytes of it were passed on");
                }
                // Behind a record that is allowed there.
                let behind = [&[CHANGE_CIPHER_SPEC, 3, 3, 0, 1, 1][..], &second].concat();
                let ended = says(&mut answered(&hello, &[]), &behind, step).1;
                assert_eq!(ended, Err("tls_malformed"), "{name}");
            }
        }
        // The exact bytes of the first ClientHello again.
        let both = [&hello[..], &client_hello(&names(&[(0, b"evil.example")]))].concat();
        assert_eq!(Watch::new(hello.len()).client_says(&both, &host()), Err("tls_malformed"));
    }
}

/// A second ClientHello among the messages of TLS 1.2 is refused, however the records are split.
#[test]
fn a_hello_among_other_messages_is_found() {
    let hello = client_hello(&names(&[(0, HOST.as_bytes())]));
    // A ServerHello without extensions.
    let server = [&[HANDSHAKE, 3, 3, 0, 42, SERVER_HELLO, 0, 0, 38, 3, 3][..], &[7; 32], &[0, 0xc0, 0x2f, 0]].concat();
    let messages = [&[16, 0, 0, 3, 1, 1, 1][..], &[11, 0, 0, 0], &[CLIENT_HELLO, 0, 0, 1, 9]].concat();
    let fine = [&[16, 0, 0, 3, 1, 1, 1][..], &[11, 0, 0, 0], &[15, 0, 0, 1, 9]].concat();
    for cut in [1, 2, 5, 100] {
        let records = |messages: &[u8]| in_records(&[&[0; 5][..], messages].concat(), cut);
        for step in [1, 4, 1000] {
            assert_eq!(says(&mut answered(&hello, &server), &records(&messages), step).1, Err("tls_malformed"));
            let fine = [&records(&fine)[..], &[CHANGE_CIPHER_SPEC, 3, 3, 0, 1, 1]].concat();
            let mut watch = answered(&hello, &server);
            assert_eq!(says(&mut watch, &fine, step), (fine.len(), Ok(())));
            assert!(watch.is_over(), "what follows is encrypted");
        }
    }
}

#[test]
fn bytes_that_are_no_tls_record_end_the_tunnel() {
    let hello = client_hello(&names(&[(0, HOST.as_bytes())]));
    for bad in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[HANDSHAKE, 2, 0, 0, 1, 1], &[24, 3, 3, 0, 1, 1], &[23, 3, 3, 0, 0]] {
        assert_eq!(says(&mut answered(&hello, &[]), bad, 100).1, Err("tls_malformed"), "{bad:?}");
    }
    // The same after a server's answer that is not TLS.
    let mut watch = answered(&hello, b"HTTP/1.1 400 Bad Request\r\n\r\n");
    watch.server_says(&[0; 100]);
    assert_eq!(says(&mut watch, &hello, 100).1, Err("tls_malformed"));
}

proptest::proptest! {
    #[test]
    fn arbitrary_input_never_panics(
        client in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        server in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        step in 1usize..50,
    ) {
        let hello = client_hello(&names(&[(0, HOST.as_bytes())]));
        let mut watch = answered(&hello, &[&[HANDSHAKE, 3, 3, 0, 200][..], &server].concat());
        let _ = says(&mut watch, &client, step);
        watch.server_says(&server);
        let _ = says(&mut watch, &[&[HANDSHAKE, 3, 3, 0, 100][..], &client].concat(), step);
    }
}
