//! Names of files as names of objects, and back.
//!
//! Letters and digits of any script and `-`, `_`, `.` stay; every other byte, and a part that is all dots, becomes `%XX`.
//! So any name a file can have is an object's, and an operator can still read most of them.

use std::fmt::Write;

/// Bytes of an object's name, at most (Amazon S3, "Creating object key names").
pub(super) const LONGEST: usize = 1024;

/// One part of a path as part of an object's name.
pub(super) fn escape(part: &str) -> String {
    let only_dots = part.bytes().all(|byte| byte == b'.');
    let mut escaped = String::with_capacity(part.len());
    for c in part.chars() {
        if c.is_alphanumeric() || matches!(c, '-' | '_') || (c == '.' && !only_dots) {
            escaped.push(c);
        } else {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                let _ = write!(escaped, "%{byte:02X}");
            }
        }
    }
    escaped
}

/// A whole path, whose parts '/' divides; `None` where it is none: absolute, with a part that leads elsewhere, or with NUL.
pub(super) fn escape_path(path: &str) -> Option<String> {
    let fit = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    path.split('/').all(fit).then(|| path.split('/').map(escape).collect::<Vec<_>>().join("/"))
}

/// The path of an object's name; `None` where no path has this name.
pub(super) fn unescape_path(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            bytes.push(byte);
            rest = after;
            continue;
        }
        let (code, after) = after.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok()?);
        rest = after;
    }
    let path = String::from_utf8(bytes).ok()?;
    // Only what this would have been called: else two names were one file's.
    (escape_path(&path)? == name).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_stay_readable_and_nothing_leads_elsewhere() {
        assert_eq!(escape_path("src/main.rs").as_deref(), Some("src/main.rs"));
        assert_eq!(escape_path("長屋/a b%.txt").as_deref(), Some("長屋/a%20b%25.txt"));
        assert_eq!(escape_path("...").as_deref(), Some("%2E%2E%2E"));
        assert_eq!(escape("a/b"), "a%2Fb");
        for bad in ["", "/", "/etc/passwd", "a//b", "../b", "a/..", "./a", "a\0", "a/"] {
            assert_eq!(escape_path(bad), None, "{bad:?}");
        }
        for bad in ["", "%2E%2E/a", "a%2fb", "a%2Fb", "%61", "a%2", "%FF", "a//b", "../a"] {
            assert_eq!(unescape_path(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_path_is_found_again(path in "\\PC{1,20}(/[^/\0]{1,20}){0,3}") {
            if let Some(name) = escape_path(&path) {
                prop_assert!(object_store::path::Path::parse(&name).is_ok(), "{name:?}");
                prop_assert_eq!(unescape_path(&name), Some(path));
            }
        }
    }
}
