//! Unusual spellings of a host.

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Profile, Severity};
use crate::scenarios::common::outside::{HOST, NEEDS};
use crate::scenarios::common::wire::{BELOW, Wire};
use crate::target::outsider::PLAIN;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "EGR-201",
    "No spelling of a host bypasses the allow-list, in a request or a tunnel",
    "hosts are parsed once; userinfo, NUL, control characters, %, empty labels, brackets without IPv6: 400",
    body!(spellings),
)
.severity(Severity::Critical)
.profile(Profile::Full)
.requires(NEEDS)
.limit(90)];

/// Spellings that are refused, with their status. In a request target, a spelling that contains a path or a
/// port is parsed as such, and the host before it is not on the allow-list (403 in place of 400).
const SPELLINGS: [(&[u8], u16); 43] = [
    // Characters that end a string for some programs and not for others.
    (b"denied.conformance.test\0.below.conformance.test", 400),
    (b"denied.conformance.test%00.below.conformance.test", 400),
    (b"denied.conformance.test%2ebelow.conformance.test", 400),
    (b"denied.conformance.test\t.below.conformance.test", 400),
    (b"denied.conformance.test\x7f.below.conformance.test", 400),
    (b"denied.conformance.test/.below.conformance.test", 400),
    (b"denied.conformance.test?.below.conformance.test", 400),
    (b"denied.conformance.test#.below.conformance.test", 400),
    (b"denied.conformance.test\\.below.conformance.test", 400),
    // Dots, and hosts that merely end or begin like one on the allow-list.
    (b"services.conformance.test..", 400),
    (b".services.conformance.test", 400),
    (b"services..conformance.test", 400),
    (b"below.conformance.test", 403),
    (b"xbelow.conformance.test", 403),
    (b"services.conformance.test.denied.conformance.test", 403),
    (b"xservices.conformance.test", 403),
    // Homoglyphs: a Cyrillic e, as UTF-8 and as Punycode.
    (b"s\xd0\xb5rvices.conformance.test", 400),
    (b"xn--srvices-8fg.conformance.test", 403),
    // Brackets.
    (b"[services.conformance.test]", 400),
    (b"[services.conformance.test", 400),
    (b"services.conformance.test]", 400),
    (b"[::ffff:services.conformance.test]", 400),
    // IP addresses in every notation.
    (b"127.0.0.1", 403),
    (b"127.1", 400),
    (b"0x7f000001", 400),
    (b"0x7f.0.0.1", 400),
    (b"0177.0.0.1", 400),
    (b"2130706433", 400),
    (b"0", 400),
    (b"0.0.0.0", 403),
    (b"169.254.169.254", 403),
    (b"100.64.0.1", 403),
    (b"[::1]", 403),
    (b"[::]", 403),
    (b"[::ffff:127.0.0.1]", 403),
    (b"[::ffff:7f00:1]", 403),
    (b"[64:ff9b::7f00:1]", 403),
    (b"[2002:7f00:1::]", 403),
    (b"[fe80::1%25eth0]", 400),
    (b"\xef\xbc\x9127.0.0.1", 400),
    // Userinfo before the host.
    (b"services.conformance.test@169.254.169.254", 400),
    (b"services.conformance.test:x@169.254.169.254", 400),
    (b"x@services.conformance.test", 400),
];

async fn spellings(context: &Context) -> Result<(), Failure> {
    let wire = Wire::start(context, PLAIN).await?;
    for good in [HOST, "SERVICES.Conformance.Test", "services.conformance.test.", BELOW] {
        for answer in wire.both(good.as_bytes()).await? {
            check_eq(format!("status for the host {good:?} ({answer:?})"), answer.status(), Some(200))?;
        }
    }
    let reached = wire.peer.connections();
    for (host, status) in SPELLINGS {
        let shown = String::from_utf8_lossy(host);
        for (form, answer) in ["a request", "a tunnel"].into_iter().zip(wire.both(host).await?) {
            let refused = answer.status() == Some(status) || (status == 400 && answer.status() == Some(403));
            check(refused, format!("{form} for the host {shown:?} must be answered with {status}: {answer:?}"))?;
            check(
                answer.has_line("X-Nagaya-Egress: denied"),
                format!("{form} for the host {shown:?} has no X-Nagaya-Egress: denied: {answer:?}"),
            )?;
        }
        check_eq(format!("connections outside after the host {shown:?}"), wire.peer.connections(), reached)?;
    }
    for port in ["22", "0", "65536", "-1", "080x", "443443"] {
        let request = format!("GET http://{HOST}:{port}/ HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n\r\n");
        let answer = wire.talk(request.as_bytes(), port).await?;
        check(matches!(answer.status(), Some(400 | 403)), format!("a request for port {port}: {answer:?}"))?;
    }
    check_eq("connections outside in the end", wire.peer.connections(), reached)
}
