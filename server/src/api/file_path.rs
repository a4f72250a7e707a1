//! Validation of paths of workspace files.

use super::error::{ApiError, Code};

/// Maximum length of one path component, in bytes (`NAME_MAX` in limits.h).
const MAX_COMPONENT_BYTES: usize = 255;
/// Maximum length of a path, in bytes (`PATH_MAX` in limits.h, less the terminating NUL).
const MAX_PATH_BYTES: usize = 4095;
/// How many layers of percent-encoding are looked through for `..`.
const MAX_DECODINGS: usize = 3;

/// Checks a file's path relative to the workspace.
///
/// # Errors
/// [`Code::PathTraversal`]: the path leads out of the workspace. [`Code::ValidationError`]: it is not a valid path.
pub(super) fn check_path(path: &str) -> Result<(), ApiError> {
    // A client or proxy may have percent-encoded the path more than once, so every layer is checked.
    let mut text = path.to_owned();
    for _ in 0..MAX_DECODINGS {
        if leads_out(&text) {
            return Err(ApiError::new(Code::PathTraversal, "path: leads out of the workspace"));
        }
        match percent_decode(&text) {
            Some(decoded) if decoded != text => text = decoded,
            _ => break,
        }
    }
    let is_invalid = |component: &str| matches!(component, "" | ".") || component.len() > MAX_COMPONENT_BYTES;
    if path.len() > MAX_PATH_BYTES || path.contains('\0') || path.split('/').any(is_invalid) {
        return Err(ApiError::invalid(
            "path",
            format!(
                "must have components of 1 to {MAX_COMPONENT_BYTES} bytes separated by '/', none of them '.', no NUL, and at \
                 most {MAX_PATH_BYTES} bytes in total"
            ),
        ));
    }
    Ok(())
}

fn leads_out(path: &str) -> bool {
    path.starts_with('/') || path.split(['/', '\\']).any(|component| component == "..")
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escape = match after {
            [high, low, after @ ..] if byte == b'%' => digit(*high).zip(digit(*low)).map(|digits| (digits, after)),
            _ => None,
        };
        let (byte, after) = escape.map_or((byte, after), |((high, low), after)| (high << 4 | low, after));
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// The value of a hexadecimal digit. A number's sign is none, as `u8::from_str_radix` would have it.
fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escape_is_a_percent_sign_with_two_hexadecimal_digits() {
        for (text, decoded) in [
            ("%2e%2E", ".."),
            ("%41b", "Ab"),
            ("%e9%95%b7", "長"),
            ("%+f", "%+f"),
            ("%-1", "%-1"),
            ("%+2e", "%+2e"),
            ("% 2", "% 2"),
            ("%g0", "%g0"),
            ("%0", "%0"),
            ("%", "%"),
            ("%%41", "%A"),
        ] {
            assert_eq!(percent_decode(text).as_deref(), Some(decoded), "{text:?}");
        }
        assert_eq!(percent_decode("%ff"), None, "what is no text");
    }

    #[test]
    fn a_path_out_of_the_workspace_is_path_traversal_and_an_invalid_path_a_validation_error() {
        let code = |path: &str| check_path(path).map_err(|error| error.code());
        for valid in ["a", "a/b.txt", "長屋/a b", "..a/b..", "100%", "a%zz", ".hidden", &"x".repeat(255)] {
            assert!(code(valid).is_ok(), "{valid:?}");
        }
        for traversal in [
            "..",
            "../a",
            "a/../b",
            "a/..",
            "/etc/passwd",
            "%2e%2e/a",
            "%252e%252e/a",
            "a/%2E%2E/b",
            "..\\a",
            "%2fetc",
            "a/..%2fb",
        ] {
            assert_eq!(code(traversal), Err(Code::PathTraversal), "{traversal:?}");
        }
        for invalid in ["", "a//b", "a/", "./a", "a/./b", "a\0", &"x".repeat(256), &"x/".repeat(3000)] {
            assert_eq!(code(invalid), Err(Code::ValidationError), "{invalid:?}");
        }
    }
}
