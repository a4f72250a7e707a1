use std::io::Cursor;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

/// The first message of a TLS library's client.
fn hello(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = name.to_owned().try_into().expect("a name");
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut out = Vec::new();
    client.write_tls(&mut out).expect("writes");
    out
}

/// The server name as a TLS library reads it; `None` if the library rejects the message or needs more bytes.
fn library(bytes: &[u8]) -> Option<Option<String>> {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut cursor = Cursor::new(bytes);
    loop {
        match acceptor.accept() {
            Ok(Some(accepted)) => return Some(accepted.client_hello().server_name().map(str::to_owned)),
            Ok(None) if acceptor.read_tls(&mut cursor).is_ok_and(|read| read > 0) => {}
            _ => return None,
        }
    }
}

fn sized(width: usize, content: &[u8]) -> Vec<u8> {
    [&content.len().to_be_bytes()[8 - width..], content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &sized(2, content)].concat()
}

pub(crate) fn names(names: &[(u8, &[u8])]) -> Vec<u8> {
    let entries: Vec<u8> = names.iter().flat_map(|(kind, name)| [&[*kind][..], &sized(2, name)].concat()).collect();
    extension(SERVER_NAME, &sized(2, &entries))
}

/// A ClientHello with these extensions, assembled byte by byte.
pub(crate) fn client_hello(extensions: &[u8]) -> Vec<u8> {
    let fixed = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0]].concat();
    let message = [&[CLIENT_HELLO][..], &sized(3, &[fixed, sized(2, extensions)].concat())].concat();
    [&[HANDSHAKE, 3, 1][..], &sized(2, &message)].concat()
}

/// The same message in records of `step` bytes.
pub(crate) fn in_records(bytes: &[u8], step: usize) -> Vec<u8> {
    bytes[5..].chunks(step).flat_map(|part| [&[HANDSHAKE, 3, 1][..], &sized(2, part)].concat()).collect()
}

#[test]
fn the_name_is_read_however_the_message_is_split() {
    let bytes = hello("api.example");
    assert_eq!(read(&bytes), Hello::For("api.example".into()));
    for end in 0..bytes.len() {
        assert_eq!(read(&bytes[..end]), Hello::Incomplete, "{end}");
    }
    for step in [1, 3, 100] {
        assert_eq!(read(&in_records(&bytes, step)), Hello::For("api.example".into()), "{step}");
    }
    assert_eq!(read(&hello("127.0.0.1")), Hello::Nameless);
    // Bytes in a later record, for example early data, are not part of the message.
    assert_eq!(read(&[&bytes[..], &[23, 3, 3, 0, 1, 0]].concat()), Hello::For("api.example".into()));
}

/// A message that arrives byte by byte costs no more than at once: bytes that were read are overwritten before the next byte comes,
/// so nothing can be read twice, and an incomplete record is not read at all.
#[test]
fn bytes_already_read_are_not_read_again() {
    let whole = hello("api.example");
    for step in [1, 7, 100, whole.len()] {
        let bytes = in_records(&whole, step);
        let (mut scan, mut read) = (Scan::default(), 0);
        let mut said = Hello::Incomplete;
        for end in 1..=bytes.len() {
            let mut so_far = bytes[..end].to_vec();
            // Only the beginning is intact for the next call.
            so_far[RECORD.len().min(end)..scan.seen.max(RECORD.len()).min(end)].fill(0xff);
            let before = scan.seen;
            said = scan.next(&so_far);
            read += scan.seen - before;
            assert!(end - scan.seen < HEADER + step, "{step}: {} of {end} were read", scan.seen);
        }
        assert_eq!((said, read), (Hello::For("api.example".into()), bytes.len()), "{step}");
    }
}

#[test]
fn an_ambiguous_hello_is_malformed() {
    let name = names(&[(0, b"api.example")]);
    assert_eq!(read(&client_hello(&name)), Hello::For("api.example".into()), "the control");
    let whole = client_hello(&name);
    let two_messages = [&whole[..3], &sized(2, &[&whole[5..], b"\x02\0\0\0"].concat())].concat();
    for (what, bytes) in [
        ("another message", vec![HANDSHAKE, 3, 1, 0, 4, 2, 0, 0, 0]),
        ("a hello of another type", [&whole[..5], &[2], &whole[6..]].concat()),
        ("the same in two records", in_records(&[&whole[..5], &[2], &whole[6..]].concat(), 40)),
        ("the beginning of another type", vec![HANDSHAKE, 3, 1, 0, 1, 0]),
        ("an empty record", vec![HANDSHAKE, 3, 1, 0, 0]),
        ("a record that is too long", vec![HANDSHAKE, 3, 1, 0x40, 1]),
        ("a message that is too long", vec![HANDSHAKE, 3, 1, 0, 4, 1, 1, 0, 0]),
        ("a second message in the record", two_messages),
        ("the name twice", client_hello(&[name.clone(), name.clone()].concat())),
        ("two names", client_hello(&names(&[(0, b"api.example"), (0, b"evil.example")]))),
        ("a name of another type", client_hello(&names(&[(1, b"api.example")]))),
        ("no name in the list", client_hello(&names(&[]))),
        ("an empty name", client_hello(&names(&[(0, b"")]))),
        ("a name that is no text", client_hello(&names(&[(0, b"\xff")]))),
        ("extensions that are cut off", client_hello(&name[..name.len() - 1])),
        ("another kind of record in between", [&in_records(&whole, 9)[..14], b"\x14\x03\x03\0\x01\x01"].concat()),
    ] {
        assert_eq!(read(&bytes), Hello::Malformed, "{what}");
    }
    for (what, bytes) in [
        ("nothing like it", b"GET / HTTP/1.1\r\n".to_vec()),
        ("SSL 2", vec![0x80, 0x2e, 1, 3, 1]),
        ("another version", vec![HANDSHAKE, 2]),
    ] {
        assert_eq!(read(&bytes), Hello::NotTls, "{what}");
    }
}

#[test]
fn an_endless_message_is_refused() {
    let begun = [&[HANDSHAKE, 3, 1][..], &sized(2, &[CLIENT_HELLO, 0, 0x3f, 0])].concat();
    let endless = [&begun[..], &in_records(&vec![0; 5 + 15_000], 1)].concat();
    assert_eq!(read(&endless[..1000]), Hello::Incomplete);
    assert_eq!(read(&[&endless[..], &[22; 6 * LONGEST]].concat()), Hello::Malformed);
}

#[test]
fn only_the_target_itself_may_be_asked_for() {
    let host = Host::parse("api.example").expect("a host");
    let address = Host::parse("10.0.0.1").expect("a host");
    assert_eq!(objection(&Hello::For("API.example".into()), &host), None);
    assert_eq!(objection(&Hello::Nameless, &address), None);
    for (hello, host, reason) in [
        (Hello::For("evil.example".into()), &host, "sni_mismatch"),
        (Hello::For("api.example.".into()), &host, "sni_mismatch"),
        (Hello::For("10.0.0.1".into()), &address, "sni_mismatch"),
        (Hello::Nameless, &host, "sni_missing"),
        (Hello::NotTls, &host, "not_tls"),
        (Hello::Incomplete, &host, "tls_malformed"),
        (Hello::Malformed, &host, "tls_malformed"),
    ] {
        assert_eq!(objection(&hello, host), Some(reason), "{hello:?}");
    }
    // With ECH the outer name is the one requested; the inner one is encrypted.
    let hidden =
        read(&client_hello(&[names(&[(0, b"api.example")]), extension(ENCRYPTED_CLIENT_HELLO, &[0; 40])].concat()));
    assert_eq!(objection(&hidden, &host), Some("sni_hidden"));
}

proptest! {
    /// A message that passes for a name asks for that name according to a TLS library, or the library rejects it.
    #[test]
    fn an_independent_parser_agrees(at in 0usize..400, byte: u8, step in 1usize..600, cut in 0usize..3) {
        let mut bytes = hello("api.example");
        let at = 5 + at % (bytes.len() - 5);
        bytes[at] = byte;
        let bytes = in_records(&bytes, step);
        let bytes = &bytes[..bytes.len() - cut];
        if let Some(theirs) = library(bytes) {
            match read(bytes) {
                // The library returns names in lower case and without a dot at the end.
                Hello::For(ours) => {
                    let ours = ours.to_ascii_lowercase();
                    prop_assert_eq!(theirs.as_deref(), Some(ours.strip_suffix('.').unwrap_or(&ours)));
                }
                Hello::Nameless => prop_assert_eq!(theirs, None),
                Hello::NotTls | Hello::Malformed | Hello::Incomplete | Hello::Hidden => {}
            }
        }
    }

    #[test]
    fn arbitrary_input_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let whole = [&[HANDSHAKE, 3, 1][..], &sized(2, &bytes)].concat();
        let _ = (read(&bytes), read(&whole));
        let _ = read(&client_hello(&bytes));
    }
}
