//! Proxies that forward other bytes than they received, in either direction.

use super::mutant::{Mutant, red};
use crate::target::defects::Defect;
use crate::target::wire::Wire;

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        id: "second-answer-after-tunnel",
        title: "After a tunnel has closed, a second response is written into it",
        defects: &[Defect::Behind(Wire::Trailing(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"))],
        red: &[red("BUG-04", "HTTP/1.1 502 Bad Gateway")],
    },
    Mutant {
        id: "tunnel-loses-bytes",
        title: "The first bytes that return through a tunnel are lost",
        defects: &[Defect::Behind(Wire::Swallowing(7))],
        red: &[red("BUG-04", "came back")],
    },
    Mutant {
        id: "events-held-back",
        title: "A response is forwarded only once it is complete",
        defects: &[Defect::Behind(Wire::Holding)],
        red: &[red("EGR-208", "held back")],
    },
    Mutant {
        id: "compression-asked-for",
        title: "The proxy requests a compression that the client did not accept",
        defects: &[Defect::Behind(Wire::Replacing(" HTTP/1.1\r\n", " HTTP/1.1\r\nAccept-Encoding: gzip\r\n"))],
        red: &[red("EGR-205", "the forwarded request accepts a compression")],
    },
    Mutant {
        id: "private-header-forwarded",
        title: "A header meant for the proxy is forwarded to the target",
        defects: &[Defect::Behind(Wire::Replacing(
            "GET /kept HTTP/1.1\r\n",
            "GET /kept HTTP/1.1\r\nX-Private: canary-of-the-room\r\n",
        ))],
        red: &[red("EGR-204", "was forwarded")],
    },
    Mutant {
        id: "host-as-it-was-said",
        title: "A target receives the host in the client's spelling",
        defects: &[Defect::Behind(Wire::Replacing(
            "ost: services.conformance.test\r\n",
            "ost: SERVICES.conformance.test.:80\r\n",
        ))],
        red: &[red("EGR-203", "another host")],
    },
    Mutant {
        id: "second-request-made",
        title: "Bytes after a request's head are forwarded as a request of their own",
        defects: &[Defect::Behind(Wire::Replacing(
            "POST /first HTTP/1.1\r\n",
            "GET /second HTTP/1.1\r\nHost: services.conformance.test\r\n\r\nPOST /first HTTP/1.1\r\n",
        ))],
        red: &[red("EGR-202", "requests for /second")],
    },
    Mutant {
        id: "more-than-was-sent",
        title: "More bytes come out of a tunnel than were sent into it",
        defects: &[Defect::Behind(Wire::Trailing(b"HTTP/1.1 400 Bad Request\r\n\r\n"))],
        red: &[red("EGR-209", "bytes that came through the tunnel")],
    },
    Mutant {
        id: "connections-shared",
        title: "Requests of all workspaces share the connections to a target, whatever was left on them",
        defects: &[Defect::Behind(Wire::Sharing)],
        red: &[red("EGR-212", "beside a GET whose body is the head of a POST")],
    },
    Mutant {
        id: "last-bytes-lost",
        title: "The last bytes of a response that breaks off are lost",
        defects: &[Defect::Behind(Wire::Losing(3))],
        red: &[red("EGR-213", "bytes that arrive where a target sends five of ten bytes")],
    },
    Mutant {
        id: "encoded-twice",
        title: "A character that no URL may contain arrives encoded twice",
        defects: &[Defect::Behind(Wire::Replacing("%60", "%2560"))],
        red: &[red("EGR-214", "a path and a query with raw characters")],
    },
    Mutant {
        id: "header-twin-sent",
        title: "A header arrives that some servers read as the credential",
        defects: &[Defect::Behind(Wire::Replacing("x_unusual: yes", "x_api_key: yes"))],
        red: &[red("EGR-214", "a header twin arrived")],
    },
];
