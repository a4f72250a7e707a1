//! Entry points for the fuzz targets (`make fuzz`): each takes arbitrary bytes and panics if a property does not hold.

use std::io::Cursor;

use bytes::BytesMut;
use rustls::server::Acceptor;

use crate::body::{Decoder, Piece};
use crate::handshake::{self, Watch};
use crate::head::{Head, Scan};
use crate::hello::{self, Hello};
use crate::host::Host;
use crate::target::Target;

/// A head is parsed the same however it is split; an accepted head has a normalised target, and a body that ends at the same byte
/// however it is split.
pub fn request(bytes: &[u8]) {
    let mut rest = BytesMut::from(bytes);
    let at_once = Scan::default().next(&mut rest).map_err(|refusal| refusal.status);
    let (mut scan, mut buffer, mut taken) = (Scan::default(), BytesMut::new(), 0);
    let piecemeal = bytes.chunks(7).find_map(|piece| {
        buffer.extend_from_slice(piece);
        taken += piece.len();
        scan.next(&mut buffer).map_err(|refusal| refusal.status).transpose()
    });
    let target = |head: &Head| head.target.clone();
    let same = at_once.as_ref().map(|head| head.as_ref().map(target)).map_err(|status| *status);
    assert_eq!(same, piecemeal.transpose().map(|head| head.as_ref().map(target)));
    let Ok(Some(head)) = at_once else { return };
    buffer.extend_from_slice(&bytes[taken..]);
    assert_eq!(rest, buffer, "what follows the head");
    let gateway = Host::parse("gateway.example").ok();
    if let Ok((target, _)) = Target::read(&head, gateway.as_ref()) {
        assert_eq!(Host::parse(&target.host.to_string()).as_ref(), Ok(&target.host));
    }
    assert_eq!(body(&head, &rest, rest.len().max(1)), body(&head, &rest, 3));
}

/// The body, and how many bytes were left; `None` if it is refused or incomplete.
fn body(head: &Head, bytes: &[u8], step: usize) -> Option<(Vec<u8>, usize)> {
    let (mut decoder, mut buffer, mut whole) = (Decoder::new(head.framing), BytesMut::new(), Vec::new());
    let mut pieces = bytes.chunks(step);
    loop {
        match decoder.next(&mut buffer).ok()? {
            Piece::Data(data) => whole.extend_from_slice(&data),
            Piece::More => buffer.extend_from_slice(pieces.next()?),
            Piece::End => return Some((whole, buffer.len() + pieces.map(<[u8]>::len).sum::<usize>())),
        }
    }
}

/// A ClientHello that passes for a name also asks for that name according to a TLS library.
pub fn hello(bytes: &[u8]) {
    let ours = hello::read(bytes);
    let mut scan = hello::Scan::default();
    for end in (0..bytes.len()).step_by(11) {
        let early = scan.next(&bytes[..end]);
        if early != Hello::Incomplete {
            // A result does not change as more bytes arrive.
            assert_eq!(early, ours);
            break;
        }
    }
    if let Hello::For(name) = &ours
        && let Ok(host) = Host::parse(name)
    {
        let mut scan = hello::Scan::default();
        scan.next(bytes);
        what_follows(&bytes[scan.seen()..], &host);
    }
    let (mut acceptor, mut cursor) = (Acceptor::default(), Cursor::new(bytes));
    let theirs = loop {
        match acceptor.accept() {
            Ok(Some(accepted)) => break accepted.client_hello().server_name().map(str::to_owned),
            Ok(None) if acceptor.read_tls(&mut cursor).is_ok_and(|read| read > 0) => {}
            _ => return,
        }
    };
    match ours {
        // The library returns names in lower case.
        Hello::For(name) => assert_eq!(theirs, Some(name.to_ascii_lowercase())),
        Hello::Nameless => assert_eq!(theirs, None),
        Hello::Incomplete | Hello::NotTls | Hello::Malformed | Hello::Hidden => {}
    }
}

/// A HelloRetryRequest without extensions.
const RETRY: [u8; 5 + 4 + 2] = [22, 3, 3, 0, 42, 2, 0, 0, 38, 3, 3];

/// The rest of a handshake is judged the same however it is split, whether the server has asked for another ClientHello or not;
/// and a second ClientHello that passes names the host.
fn what_follows(bytes: &[u8], host: &Host) {
    for asked in [false, true] {
        let watch = || {
            let mut watch = Watch::new(0);
            if asked {
                watch.server_says(&[&RETRY[..], &handshake::RETRY, &[0, 0x13, 1, 0]].concat());
            }
            watch
        };
        let at_once = watch().client_says(bytes, host);
        let (mut watch, mut held, mut passed) = (watch(), Vec::new(), Ok(0));
        for piece in bytes.chunks(3) {
            held.extend_from_slice(piece);
            match watch.client_says(&held, host) {
                Ok(more) => {
                    held.drain(..more);
                    passed = passed.map(|passed| passed + more);
                }
                Err(reason) => {
                    passed = Err(reason);
                    break;
                }
            }
        }
        assert_eq!(at_once, passed);
        if let (true, Ok(passed @ 6..), 22) = (asked, at_once, bytes.first().copied().unwrap_or_default()) {
            assert_eq!(hello::objection(&hello::read(&bytes[..passed]), host), None);
        }
    }
}
