//! Converts paths of files into names of objects and back.
//!
//! Letters and digits of any script and `-`, `_`, `.` stay; every other byte, and every byte of a component that consists of dots,
//! becomes `%XX`. So every valid path has an object name, and most of them stay readable for an operator.

use std::fmt::Write;

/// Maximum length of an object's name in bytes (Amazon S3, "Creating object key names").
pub(super) const MAX_LENGTH: usize = 1024;

/// Escapes one component of a path.
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

/// Escapes a relative path; `None` if it is not valid: absolute, with an empty, `.` or `..` component, or with a NUL.
pub(super) fn escape_path(path: &str) -> Option<String> {
    let valid = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    path.split('/').all(valid).then(|| path.split('/').map(escape).collect::<Vec<_>>().join("/"))
}

/// The path that an object's name stands for; `None` if no path has this name.
pub(super) fn unescape_path(name: &str) -> Option<String> {
    let path = percent_encoding::percent_decode_str(name).decode_utf8().ok()?.into_owned();
    // Only the canonical name is accepted, so that no two objects stand for the same file.
    (escape_path(&path)? == name).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_escaped_and_invalid_paths_rejected() {
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
        fn a_valid_path_is_recovered_from_its_name(path in "\\PC{1,20}(/[^/\0]{1,20}){0,3}") {
            if let Some(name) = escape_path(&path) {
                prop_assert!(object_store::path::Path::parse(&name).is_ok(), "{name:?}");
                prop_assert_eq!(unescape_path(&name), Some(path));
            }
        }
    }
}
