//! Paths under rules that name paths: read in one way, or not at all.
//!
//! Servers, frameworks and gateways read the same path differently: some decode `%2e` and `%2f` before they route, some merge `//`,
//! some cut a segment at `;`, some decode twice. A prefix is therefore compared with a path only if all of them read the path alike.
//! Any other path is ambiguous, and a rule with prefixes refuses it instead of guessing.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Characters that Windows and some databases replace by a dot, a slash or a backslash where the latter is what fits best.
const LOOKALIKES: [char; 10] = [
    '\u{2024}', '\u{2025}', '\u{2026}', '\u{2044}', '\u{2215}', '\u{2216}', '\u{ff0e}', '\u{ff0f}', '\u{ff3c}',
    '\u{fe52}',
];

/// A path, decoded; `None` if two servers could read it differently. Refused are
///
/// - empty segments (`//`), dot segments, and segments that end in a dot, which Windows drops;
/// - `;` and backslashes, written or encoded;
/// - encoded dots, slashes, `?`, `#`, and an encoded `%`, which a second decoding turns into another escape;
/// - control characters, escapes that are not UTF-8, a `%` that begins no escape, and lookalikes of dots and slashes.
pub(crate) fn plain(path: &str) -> Option<Cow<'_, str>> {
    let inner = path.strip_prefix('/')?;
    // The last segment may be empty: `/a/` is a directory.
    let segments = inner.strip_suffix('/').unwrap_or(inner);
    let empty = segments.is_empty() && !inner.is_empty();
    if empty
        || (!segments.is_empty() && segments.split('/').any(|segment| segment.is_empty() || segment.ends_with('.')))
    {
        return None;
    }
    if path.bytes().any(|byte| matches!(byte, b';' | b'\\' | b'?' | b'#') || byte < b' ' || byte == 0x7f) {
        return None;
    }
    if !path.contains('%') {
        return path.is_ascii().then_some(Cow::Borrowed(path));
    }
    for escape in path.split('%').skip(1) {
        let code = escape.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok())?;
        let signed = escape.starts_with('+');
        if signed || code < b' ' || code == 0x7f || b"./\\;?#%".contains(&code) {
            return None;
        }
    }
    let decoded = percent_decode_str(path).decode_utf8().ok()?;
    let misread = |c: char| LOOKALIKES.contains(&c) || c.is_control();
    (!decoded.contains(misread)).then_some(decoded)
}

/// Whether `path` is `prefix` or below it. Prefixes end at a whole segment: `/v1` covers `/v1` and `/v1/x`, not `/v10`.
pub(crate) fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// As [`is_below`] for a rule that denies: servers that ignore case must not be asked by another spelling.
pub(crate) fn is_below_in_any_case(path: &str, prefix: &str) -> bool {
    let (path, prefix) = (path.as_bytes(), prefix.as_bytes());
    let (Some(start), Some(rest)) = (path.get(..prefix.len()), path.get(prefix.len()..)) else { return false };
    start.eq_ignore_ascii_case(prefix) && (rest.is_empty() || rest.starts_with(b"/"))
}

/// A prefix as it is compared: decoded, without the final slash; empty for `/`, which covers every path.
pub(crate) fn prefix(text: &str) -> Option<String> {
    let plain = plain(text)?;
    Some(plain.strip_suffix('/').unwrap_or(&plain).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_in_one_way_or_refused() {
        for (path, read) in [
            ("/", "/"),
            ("/v1", "/v1"),
            ("/v1/", "/v1/"),
            ("/v1/a.b/.well-known/~x", "/v1/a.b/.well-known/~x"),
            ("/%76%31", "/v1"),
            ("/a%20b+c", "/a b+c"),
            ("/%E9%95%B7", "/\u{9577}"),
            ("/a:b@c,d=e!$&'()*", "/a:b@c,d=e!$&'()*"),
        ] {
            assert_eq!(plain(path).as_deref(), Some(read), "{path}");
        }
        for path in [
            "",
            "v1",
            "//",
            "//v1",
            "/v1//x",
            "/v1//",
            "/.",
            "/..",
            "/v1/.",
            "/v1/./x",
            "/v1/../x",
            "/v1/..",
            "/v1/x.",
            "/v1./x",
            "/v1/...",
            "/%2e",
            "/v1/%2e%2e/x",
            "/v1/%2E%2E",
            "/v1/.%2e/x",
            "/v1%2fx",
            "/v1%2Fx",
            "/v1%5cx",
            "/v1\\x",
            "/v1;x",
            "/v1;x=y/z",
            "/v1/..;/x",
            "/v1%3bx",
            "/v1%3fx",
            "/v1%23x",
            "/v1%252e",
            "/v1%25",
            "/%252fv1",
            "/%c0%ae%c0%ae/x",
            "/%ff",
            "/%00",
            "/v1%0a",
            "/v1%7f",
            "/%C2%85",
            "/%zz",
            "/v1%",
            "/v1%2",
            "/%+1x",
            "/%u002e",
            "/v1%EF%BC%8Fx",
            "/v1/%EF%BC%8E",
            "/v1/%E2%80%A4%E2%80%A4/x",
        ] {
            assert_eq!(plain(path), None, "{path}");
        }
    }

    #[test]
    fn prefixes_end_at_a_segment() {
        let v1 = prefix("/v1/").expect("a prefix");
        for (path, below) in
            [("/v1", true), ("/v1/", true), ("/v1/x", true), ("/v10", false), ("/v", false), ("/V1", false)]
        {
            assert_eq!(is_below(path, &v1), below, "{path}");
            assert_eq!(is_below_in_any_case(path, &v1), below || path == "/V1", "{path}");
        }
        let all = prefix("/").expect("a prefix");
        assert!(is_below("/", &all) && is_below("/x", &all) && is_below_in_any_case("/x", &all));
    }
}
