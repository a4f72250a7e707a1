//! How much memory a line would take once it is parsed. A room can print what it likes, and parsed, numbers take sixteen times as much.

/// Values and keys that a line of a driver may have. Real lines have some thousands.
const MOST_VALUES: usize = 500_000;

/// Whether a line has so few commas, colons and brackets that it is safe to parse. Those inside texts count as well, so a very long text
/// may be refused; the limit leaves room for ten megabytes of prose.
pub(crate) fn is_light(line: &str) -> bool {
    line.len() <= MOST_VALUES
        || line.bytes().filter(|byte| matches!(byte, b',' | b':' | b'[' | b'{')).count() <= MOST_VALUES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_small_values_are_heavy_and_long_texts_are_not() {
        assert!(is_light(&"x".repeat(15 << 20)));
        assert!(!is_light(&"0,".repeat(MOST_VALUES + 1)));
        assert!(!is_light(&"[".repeat(MOST_VALUES + 1)));
        for one in [",", ":", "[", "{"] {
            // Longer than what is light by its length alone.
            let line = |count: usize| format!("{}{}", one.repeat(count), "x".repeat(10));
            assert!(is_light(&line(MOST_VALUES)) && !is_light(&line(MOST_VALUES + 1)), "{one}");
        }
    }
}
