//! Which texts name a file of the workspace.

use super::error::{ApiError, Code};

/// Bytes of one part of a path, and of a whole one, at most (`NAME_MAX` and `PATH_MAX` of limits.h, less its NUL).
const LONGEST_PART: usize = 255;
const LONGEST_PATH: usize = 4095;
/// How often a text may have been percent-encoded before it is taken for what it says.
const DECODED: usize = 3;

/// Checks a path below the workspace.
///
/// # Errors
/// It leads out of it (`PATH_TRAVERSAL`), or is no path.
pub(super) fn check_path(path: &str) -> Result<(), ApiError> {
    // Also as some client or proxy may have encoded it once too often: no file is called that by chance.
    let mut read = path.to_owned();
    for _ in 0..DECODED {
        if leads_out(&read) {
            return Err(ApiError::new(Code::PathTraversal, "path: it leads out of the workspace"));
        }
        match decoded(&read) {
            Some(further) if further != read => read = further,
            _ => break,
        }
    }
    let unfit = |part: &str| matches!(part, "" | ".") || part.len() > LONGEST_PART;
    if path.len() > LONGEST_PATH || path.contains('\0') || path.split('/').any(unfit) {
        return Err(ApiError::invalid(
            "path",
            format!(
                "accepted: parts of 1 to {LONGEST_PART} bytes divided by '/', none of them '.', no NUL, {LONGEST_PATH} bytes in all"
            ),
        ));
    }
    Ok(())
}

fn leads_out(path: &str) -> bool {
    path.starts_with('/') || path.split(['/', '\\']).any(|part| part == "..")
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = (byte == b'%').then(|| after.split_at_checked(2)).flatten();
        let code =
            code.and_then(|(code, after)| Some((u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok()?, after)));
        let (byte, after) = code.unwrap_or((byte, after));
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_out_is_told_from_what_is_no_path() {
        let code = |path: &str| check_path(path).map_err(|error| error.code());
        for good in ["a", "a/b.txt", "長屋/a b", "..a/b..", "100%", "a%zz", ".hidden", &"x".repeat(255)] {
            assert!(code(good).is_ok(), "{good:?}");
        }
        for out in [
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
            assert_eq!(code(out), Err(Code::PathTraversal), "{out:?}");
        }
        for bad in ["", "a//b", "a/", "./a", "a/./b", "a\0", &"x".repeat(256), &"x/".repeat(3000)] {
            assert_eq!(code(bad), Err(Code::ValidationError), "{bad:?}");
        }
    }
}
