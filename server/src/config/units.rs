//! Parsers for durations and sizes with a unit.

use std::time::Duration;

/// What [`duration`] accepts, for error messages.
pub const DURATION: &str = "a time above zero: seconds (60), or with a unit (500ms, 60s, 5m, 1h)";
/// What [`bytes()`] accepts, for error messages.
pub const BYTES: &str = "a size above zero: bytes, or with a unit (512MiB, 2GiB, 2g)";

/// Parses a time above zero; without a unit it is in seconds.
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let millis = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(millis)?)).filter(|time| !time.is_zero())
}

/// Parses a size above zero, in bytes; units are powers of 1,024.
pub fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let scale: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(scale).filter(|size| *size > 0)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_parsed_with_their_units() {
        assert_eq!(duration("60"), Some(Duration::from_mins(1)));
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("5m"), Some(Duration::from_mins(5)));
        assert_eq!(bytes("2GiB"), Some(2 << 30));
        assert_eq!(bytes("2 g"), Some(2 << 30));
        for invalid in ["", "0", "-1", "abc", "1.5", "1d", "99999999999999999999", "18446744073709551615h"] {
            assert_eq!(duration(invalid), None, "{invalid}");
        }
        for invalid in ["", "0", "-1", "2TB!", "18446744073709551615g"] {
            assert_eq!(bytes(invalid), None, "{invalid}");
        }
    }
}
