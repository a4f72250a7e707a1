//! Text inside markup.

use std::borrow::Cow;

/// Fit for an attribute or for text of XML and of HTML. Characters that XML 1.0 cannot hold at all (section 2.2) become U+FFFD.
#[must_use]
pub fn escape(text: &str) -> Cow<'_, str> {
    let plain = |c: char| !matches!(c, '<' | '>' | '&' | '"' | '\u{FFFE}' | '\u{FFFF}') && (c >= ' ' || c == '\n');
    if text.chars().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\t' | '\r' => out.push(' '),
            '\u{FFFE}' | '\u{FFFF}' => out.push('\u{FFFD}'),
            c if c < ' ' && c != '\n' => out.push('\u{FFFD}'),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_out_of_an_attribute() {
        assert_eq!(escape("a<b>&\"c\u{1b}[31m\n"), "a&lt;b&gt;&amp;&quot;c\u{FFFD}[31m\n");
        assert!(matches!(escape("plain 長屋"), Cow::Borrowed(_)));
    }

    proptest::proptest! {
        #[test]
        fn no_text_gets_out_of_its_place(text in "\\PC{0,40}") {
            let escaped = escape(&text);
            proptest::prop_assert!(!escaped.contains(['<', '>', '"']), "{}", escaped);
        }
    }
}
