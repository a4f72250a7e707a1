//! The name a TLS client asks for (RFC 6066, 3), read from its first message, however that is cut.

use std::io::Cursor;

use rustls::server::Acceptor;

use crate::host::Host;

/// Longest first message that is waited for, in bytes.
const LONGEST: usize = 64 * 1024;
/// Content type of a TLS handshake record (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;

/// What is known of a client's first bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hello {
    /// More is needed.
    Incomplete,
    /// It is not TLS.
    NotTls,
    /// It is TLS and asks for no name.
    Nameless,
    /// It is TLS and asks for this name.
    For(String),
}

/// Reads a client's first bytes, all of them from the beginning.
pub(crate) fn read(bytes: &[u8]) -> Hello {
    match bytes.first() {
        None => return Hello::Incomplete,
        Some(first) if *first != HANDSHAKE || bytes.len() > LONGEST => return Hello::NotTls,
        Some(_) => {}
    }
    let mut acceptor = Acceptor::default();
    let mut cursor = Cursor::new(bytes);
    loop {
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                return accepted
                    .client_hello()
                    .server_name()
                    .map_or(Hello::Nameless, |name| Hello::For(name.to_owned()));
            }
            Ok(None) => {}
            Err(_) => return Hello::NotTls,
        }
        match acceptor.read_tls(&mut cursor) {
            Ok(0) => return Hello::Incomplete,
            Ok(_) => {}
            Err(_) => return Hello::NotTls,
        }
    }
}

/// Why a client that says this must not be let through to `host`; `None` where it may.
pub(crate) fn objection(hello: &Hello, host: &Host) -> Option<&'static str> {
    match (hello, host) {
        (Hello::Incomplete | Hello::NotTls, _) => Some("not_tls"),
        // An address is not sent as a server name.
        (Hello::Nameless, Host::Address(_)) => None,
        (Hello::Nameless, Host::Name(_)) => Some("sni_missing"),
        (Hello::For(name), host) => (Host::parse(name).as_ref() != Ok(host)).then_some("sni_mismatch"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

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

    #[test]
    fn the_name_is_read_however_the_message_is_cut() {
        let bytes = hello("api.example");
        assert_eq!(read(&bytes), Hello::For("api.example".into()));
        for end in 0..bytes.len() {
            assert_eq!(read(&bytes[..end]), Hello::Incomplete, "{end}");
        }
        // The same in records of one byte each.
        let records: Vec<u8> = bytes[5..].iter().flat_map(|byte| [22, 3, 1, 0, 1, *byte]).collect();
        assert_eq!(read(&records), Hello::For("api.example".into()));
        assert_eq!(read(&hello("127.0.0.1")), Hello::Nameless);
        assert_eq!(read(b"GET / HTTP/1.1\r\n"), Hello::NotTls);
        assert_eq!(read(&[22, 3, 1, 0, 5, 9, 9, 9, 9, 9]), Hello::NotTls);
    }

    #[test]
    fn only_the_target_itself_may_be_asked_for() {
        let host = Host::parse("api.example").expect("a host");
        assert_eq!(objection(&Hello::For("API.example".into()), &host), None);
        assert_eq!(objection(&Hello::For("evil.example".into()), &host), Some("sni_mismatch"));
        assert_eq!(objection(&Hello::Nameless, &host), Some("sni_missing"));
        assert_eq!(objection(&Hello::NotTls, &host), Some("not_tls"));
        assert_eq!(objection(&Hello::Nameless, &Host::parse("10.0.0.1").expect("a host")), None);
    }
}
