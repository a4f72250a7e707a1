//! Parses the target of a request, once; all later code uses the parsed target and not the request's text.

use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::answer::Refusal;
use crate::head::{Framing, Head};
use crate::host::{Host, split_port};

/// The requested host and port, and the form of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) host: Host,
    pub(crate) port: u16,
    pub(crate) form: Form,
}

/// The request's form (RFC 9112, 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// `CONNECT host:port`
    Connect,
    /// `GET http://host/path`
    Absolute,
    /// `GET /path`, for the gateway.
    Origin,
}

impl Target {
    /// Parses a request's target and path; requests in origin form go to `gateway`.
    pub(crate) fn read(head: &Head, gateway: Option<&Host>) -> Result<(Self, PathAndQuery), Refusal> {
        // In any case, because targets differ in whether they respect it. Some servers call the same method TRACK.
        if ["TRACE", "TRACK"].iter().any(|method| head.method.as_str().eq_ignore_ascii_case(method)) {
            return Err(Refusal::method());
        }
        let text = head.target.as_str();
        if text.contains('#') {
            return Err(Refusal::malformed("a target has no fragment"));
        }
        if head.method == Method::CONNECT {
            let (host, port) = authority(text)?;
            let port = port.ok_or(Refusal::malformed("CONNECT needs host:port"))?;
            if !matches!(head.framing, Framing::None | Framing::Length(0)) {
                return Err(Refusal::malformed("CONNECT has no body"));
            }
            let target = Self { host, port, form: Form::Connect };
            target.check_host_header(&head.headers)?;
            return Ok((target, PathAndQuery::from_static("/")));
        }
        if text.starts_with('/') {
            let host = gateway.cloned().ok_or(Refusal::malformed("origin form is for a gateway, and there is none"))?;
            return Ok((Self { host, port: 80, form: Form::Origin }, path(text)?));
        }
        let (scheme, rest) = text.split_once("://").ok_or(Refusal::malformed("the target is not understood"))?;
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(Refusal::malformed("absolute form is for http; use CONNECT for anything else"));
        }
        let (target, path) = Self::of_url(rest, 80)?;
        target.check_host_header(&head.headers)?;
        Ok((target, path))
    }

    /// Parses what follows the scheme of a URL.
    pub(crate) fn of_url(rest: &str, default_port: u16) -> Result<(Self, PathAndQuery), Refusal> {
        let (host_port, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (host, port) = authority(host_port)?;
        let target = Self { host, port: port.unwrap_or(default_port), form: Form::Absolute };
        let path = if rest.starts_with('/') { path(rest)? } else { path(&format!("/{rest}"))? };
        Ok((target, path))
    }

    /// Refuses a `Host` that contradicts the target, which indicates an attack (RFC 9112, 3.2.2). A `Host` without a port
    /// contradicts no port, because clients omit it.
    fn check_host_header(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(host) = headers.get(HOST) else { return Ok(()) };
        let contradicts = || Refusal::malformed("Host contradicts the target");
        let (host, port) = host.to_str().ok().and_then(|text| split_port(text).ok()).ok_or_else(contradicts)?;
        let same = Host::parse(host).is_ok_and(|host| host == self.host) && port.is_none_or(|port| port == self.port);
        if same { Ok(()) } else { Err(contradicts()) }
    }
}

/// WHATWG URL, "path percent-encode set". `#`, `?`, spaces, controls and what is not ASCII do not get here.
const PATH: &AsciiSet = &CONTROLS.add(b'"').add(b'<').add(b'>').add(b'^').add(b'`').add(b'{').add(b'}');
/// WHATWG URL, "special-query percent-encode set".
const QUERY: &AsciiSet = &CONTROLS.add(b'"').add(b'<').add(b'>').add(b'\'');

/// A path and query, with the characters that browsers encode encoded: clients such as curl send them as they are, and not every
/// server takes them.
fn path(text: &str) -> Result<PathAndQuery, Refusal> {
    let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
    let mut encoded = utf8_percent_encode(path, PATH).to_string();
    if let Some(query) = query {
        encoded.push('?');
        encoded.extend(utf8_percent_encode(query, QUERY));
    }
    encoded.parse().map_err(|_| Refusal::malformed("the path is not understood"))
}

fn authority(text: &str) -> Result<(Host, Option<u16>), Refusal> {
    if text.contains('@') {
        return Err(Refusal::malformed("a target has no user information"));
    }
    let (host, port) = split_port(text).map_err(|_| Refusal::malformed("the target's port is not understood"))?;
    let host = Host::parse(host).map_err(|_| Refusal::malformed("the target's host is not understood"))?;
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::head::Scan;

    fn read(method: &str, uri: &str, host: &str) -> Option<(String, u16, Form, String)> {
        let text = format!("{method} {uri} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let head = Scan::default().next(&mut BytesMut::from(text.as_str())).ok()??;
        let gateway = Host::parse("gateway.example").expect("a host");
        let (target, path) = Target::read(&head, Some(&gateway)).ok()?;
        Some((target.host.to_string(), target.port, target.form, path.to_string()))
    }

    #[test]
    fn each_form_is_read() {
        for (method, uri, host, expected) in [
            ("CONNECT", "A.example:443", "a.example:443", ("a.example", 443, Form::Connect, "/")),
            ("CONNECT", "a.example:443", "a.example", ("a.example", 443, Form::Connect, "/")),
            ("CONNECT", "[2606::1]:443", "[2606::1]:443", ("[2606::1]", 443, Form::Connect, "/")),
            ("GET", "http://a.example/x:y", "a.example", ("a.example", 80, Form::Absolute, "/x:y")),
            ("GET", "http://a.example", "a.example", ("a.example", 80, Form::Absolute, "/")),
            ("GET", "http://a.example?q", "a.example", ("a.example", 80, Form::Absolute, "/?q")),
            ("GET", "HTTP://a.example:80//b/../c", "A.example.", ("a.example", 80, Form::Absolute, "//b/../c")),
            ("GET", "http://a.example:81/", "a.example:81", ("a.example", 81, Form::Absolute, "/")),
            ("GET", "http://a.example:81/", "a.example", ("a.example", 81, Form::Absolute, "/")),
            (
                "GET",
                "http://a.example/http://b.example/",
                "a.example",
                ("a.example", 80, Form::Absolute, "/http://b.example/"),
            ),
            (
                "GET",
                "http://a.example/<a>`b\"{c}^'|?q=<d>\"`{}|^'%zz",
                "a.example",
                ("a.example", 80, Form::Absolute, "/%3Ca%3E%60b%22%7Bc%7D%5E'|?q=%3Cd%3E%22`{}|^%27%zz"),
            ),
            ("GET", "http://a.example?<", "a.example", ("a.example", 80, Form::Absolute, "/?%3C")),
            ("GET", "/a?b?<?>", "a.example", ("gateway.example", 80, Form::Origin, "/a?b?%3C?%3E")),
            ("POST", "/model/x:0/invoke", "127.0.0.1:8080", ("gateway.example", 80, Form::Origin, "/model/x:0/invoke")),
            ("GET", "//a.example/", "127.0.0.1:8080", ("gateway.example", 80, Form::Origin, "//a.example/")),
        ] {
            let (to, port, form, path) = expected;
            assert_eq!(read(method, uri, host), Some((to.into(), port, form, path.into())), "{method} {uri}");
        }
    }

    #[test]
    fn ambiguous_targets_are_refused() {
        for (method, uri, host) in [
            ("CONNECT", "a.example", "a.example"),
            ("CONNECT", "a.example:0", "a.example"),
            ("CONNECT", "a.example:443/", "a.example"),
            ("CONNECT", "http://a.example:443", "a.example"),
            ("CONNECT", "u@a.example:443", "a.example"),
            ("CONNECT", "a.example:443", "b.example"),
            ("CONNECT", "a.example:443", "a.example:80"),
            ("CONNECT", "[a.example]:443", "a.example"),
            ("CONNECT", "a%00.example:443", "a.example"),
            ("TRACE", "http://a.example/", "a.example"),
            ("trace", "http://a.example/", "a.example"),
            ("TRACK", "http://a.example/", "a.example"),
            ("GET", "https://a.example/", "a.example"),
            ("GET", "ftp://a.example/", "a.example"),
            ("GET", "http:a.example/", "a.example"),
            ("GET", "http:///", "a.example"),
            ("GET", "http://a.example/#f", "a.example"),
            ("GET", "http://a.example\\@b.example/", "a.example"),
            ("GET", "http://u:p@a.example/", "a.example"),
            ("GET", "http://allowed.example:x@169.254.169.254/", "169.254.169.254"),
            ("GET", "http://a.example/", "b.example"),
            ("GET", "http://a.example/", "a.example:81"),
            ("GET", "http://a.example:81/", "a.example:80"),
            ("GET", "http://a.example/", "a.example, b.example"),
            ("GET", "http://127.1/", "127.1"),
            ("OPTIONS", "*", "a.example"),
        ] {
            assert_eq!(read(method, uri, host), None, "{method} {uri} {host:?}");
        }
    }
}
