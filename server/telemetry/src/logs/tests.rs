use std::fmt;
use std::io::Write;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

use super::*;

/// Forges a line, clears a screen (CSI), sets a title (OSC), both also with C1 controls, deletes, reverses and hides text.
const HOSTILE: &str = "a\nERROR forged\r\x1b[2J\x1b]0;t\x07\u{9b}2J\u{9d}0;t\u{9c}\x7f\u{85}\u{2028}\u{2029}\u{202e}\u{2066}\u{200f}\
                       \u{200b}\u{feff}\u{ad}\u{e0041}\u{b}\u{c}\0\tz";

/// An error whose text and whose cause come from outside.
#[derive(Debug)]
struct Outside(Option<Box<Self>>);

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HOSTILE)
    }
}

impl std::error::Error for Outside {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.as_deref().map(|cause| cause as _)
    }
}

/// What a log has written.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    fn writer(&self) -> impl for<'a> MakeWriter<'a> + Send + Sync + 'static {
        let this = self.clone();
        move || this.clone()
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).expect("UTF-8")
    }
}

/// Logs hostile values in every way in which a value can get into a line, each once: in all, `WAYS` lines.
fn log_hostile_values() {
    let error = Outside(Some(Box::new(Outside(None))));
    let span = tracing::info_span!("run", quoted = HOSTILE, plain = %HOSTILE, later = tracing::field::Empty);
    span.record("later", tracing::field::display(HOSTILE));
    let _inside = span.enter();
    tracing::info!("{HOSTILE}");
    tracing::warn!(quoted = HOSTILE, plain = %HOSTILE, debug = ?Some(HOSTILE), "fields");
    tracing::error!(%error, dynamic = &error as &dyn std::error::Error, "errors");
}

const WAYS: usize = 3;

/// No character but the newlines at the ends of lines that a terminal obeys or that hides text.
fn assert_plain(text: &str) {
    assert_eq!(text.lines().count(), WAYS, "{text:?}");
    let bad: Vec<char> = text.chars().filter(|c| !matches!(c, '\n' | ' '..='~')).collect();
    assert!(bad.is_empty(), "{bad:?} in {text:?}");
    assert_eq!(text.matches('\n').count(), WAYS, "{text:?}");
}

#[test]
fn a_line_of_text_shows_hostile_values_escaped() {
    let written = Written::default();
    tracing::subscriber::with_default(as_text(LevelFilter::INFO, false, written.writer()).0, log_hostile_values);
    let text = written.text();
    assert_plain(&text);
    assert!(text.contains(r"a\nERROR forged\r\u{1b}[2J\u{1b}]0;t\u{7}\u{9b}2J"), "{text}");
    assert!(text.contains("INFO run{quoted=") && text.contains(" later=a\\nERROR"), "{text}");
}

#[test]
fn colours_are_the_only_escape_sequences_of_a_line() {
    let written = Written::default();
    tracing::subscriber::with_default(as_text(LevelFilter::INFO, true, written.writer()).0, log_hostile_values);
    let text = written.text();
    assert!(text.contains("\x1b[3mplain\x1b[0m\x1b[2m=\x1b[0ma\\n"), "{text:?}");
    let mut plain = String::new();
    let mut rest = text.as_str();
    while let Some((before, sequence)) = rest.split_once('\x1b') {
        plain.push_str(before);
        // SGR (ECMA-48, 8.3.117): digits and nothing else between `[` and `m`.
        let (digits, after) = sequence.strip_prefix('[').and_then(|s| s.split_once('m')).expect("a colour");
        assert!(digits.bytes().all(|b| b.is_ascii_digit()), "{sequence:?}");
        rest = after;
    }
    assert_plain(&(plain + rest));
}

#[test]
fn a_line_of_json_shows_hostile_values_escaped_and_keeps_them() {
    let written = Written::default();
    tracing::subscriber::with_default(as_json(LevelFilter::INFO, written.writer()).0, log_hostile_values);
    let text = written.text();
    assert_plain(&text);
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines[0]["message"], HOSTILE);
    assert_eq!((&lines[1]["quoted"], &lines[1]["plain"]), (&HOSTILE.into(), &HOSTILE.into()));
    assert_eq!(lines[2]["error"], HOSTILE);
    assert_eq!(lines[0]["span"]["quoted"], HOSTILE);
}

#[test]
fn other_text_stays_readable() {
    let written = Written::default();
    tracing::subscriber::with_default(as_text(LevelFilter::INFO, false, written.writer()).0, || {
        tracing::info!(path = %"/tmp/ü 長 🙂", quoted = "a \"b\"", count = 3, "said \"no\"");
    });
    assert!(
        written.text().ends_with("INFO said \"no\" path=/tmp/ü 長 🙂 quoted=\"a \\\"b\\\"\" count=3\n"),
        "{}",
        written.text()
    );
}

#[test]
fn our_crates_log_at_the_level_and_others_only_warn() {
    let shown = |level: LevelFilter| {
        let mut parts: Vec<String> = filter(level).to_string().split(',').map(ToOwned::to_owned).collect();
        parts.sort();
        parts
    };
    for (level, others) in
        [("trace", "warn"), ("debug", "warn"), ("info", "warn"), ("warn", "warn"), ("error", "error"), ("off", "off")]
    {
        let mut expected: Vec<String> = OURS.iter().map(|name| format!("{name}={level}")).collect();
        expected.extend([others.to_owned(), "h2=off".to_owned()]);
        expected.sort();
        assert_eq!(shown(level.parse().expect("a level")), expected, "{level}");
    }
}
