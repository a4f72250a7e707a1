//! Proxies that pass on something else than what was said, either way.

use super::{Defect, Mutant, red};
use crate::target::tamper::Wire;

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        id: "second-answer-after-tunnel",
        title: "after a tunnel has ended, another answer is written into it",
        defects: &[Defect::Behind(Wire::Trailing(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"))],
        red: &[red("BUG-04", "HTTP/1.1 502 Bad Gateway")],
    },
    Mutant {
        id: "tunnel-loses-bytes",
        title: "the first bytes that come back through a tunnel are lost",
        defects: &[Defect::Behind(Wire::Swallowing(7))],
        red: &[red("BUG-04", "came back")],
    },
    Mutant {
        id: "events-held-back",
        title: "an answer is passed on once all of it is there",
        defects: &[Defect::Behind(Wire::Holding)],
        red: &[red("EGR-208", "held back")],
    },
    Mutant {
        id: "compression-asked-for",
        title: "the proxy asks targets for a compression that the client did not ask for",
        defects: &[Defect::Behind(Wire::Replacing(" HTTP/1.1\r\n", " HTTP/1.1\r\nAccept-Encoding: gzip\r\n"))],
        red: &[red("EGR-205", "a compression is asked for")],
    },
    Mutant {
        id: "private-header-forwarded",
        title: "a header that is meant for the proxy alone goes on to the target",
        defects: &[Defect::Behind(Wire::Replacing(
            "GET /kept HTTP/1.1\r\n",
            "GET /kept HTTP/1.1\r\nX-Private: canary-of-the-room\r\n",
        ))],
        red: &[red("EGR-204", "got out")],
    },
    Mutant {
        id: "host-as-it-was-said",
        title: "a target gets the host in the client's spelling",
        defects: &[Defect::Behind(Wire::Replacing(
            "ost: services.conformance.test\r\n",
            "ost: SERVICES.conformance.test.:80\r\n",
        ))],
        red: &[red("EGR-203", "another host")],
    },
    Mutant {
        id: "second-request-made",
        title: "what follows a request in its body goes on as a request of its own",
        defects: &[Defect::Behind(Wire::Replacing(
            "POST /first HTTP/1.1\r\n",
            "GET /second HTTP/1.1\r\nHost: services.conformance.test\r\n\r\nPOST /first HTTP/1.1\r\n",
        ))],
        red: &[red("EGR-202", "requests for /second")],
    },
    Mutant {
        id: "more-than-was-sent",
        title: "more comes out of a tunnel than was sent into it",
        defects: &[Defect::Behind(Wire::Trailing(b"HTTP/1.1 400 Bad Request\r\n\r\n"))],
        red: &[red("EGR-209", "bytes that came through the tunnel")],
    },
];
