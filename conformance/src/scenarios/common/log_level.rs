//! The levels of log lines, in the spellings of common loggers.

use serde_json::Value;

use crate::description::Log;
use crate::harness::failure::Failure;

/// Names of levels at which something has failed.
const BAD: [&str; 9] = ["error", "err", "fatal", "critical", "crit", "alert", "emerg", "emergency", "panic"];
/// Names of all other levels.
const GOOD: [&str; 7] = ["trace", "debug", "info", "notice", "warn", "warning", "verbose"];
/// Fields of structured lines.
const FIELDS: [&str; 7] = ["level", "severity", "levelname", "lvl", "loglevel", "log.level", "@level"];
/// The lowest number of a level that is an error, where levels are numbers from 10 on (Bunyan and its descendants).
const NUMBER_OF_ERROR: u64 = 50;
/// How many words may stand before the level: a date, a time, a host, a program, a process id.
const WORDS_BEFORE: usize = 6;

/// Whether a line's level is an error; `None` if the line has no level that is known here.
fn is_error(line: &str) -> Option<bool> {
    let of_name = |name: &str| {
        let name = name.to_ascii_lowercase();
        BAD.contains(&name.as_str()).then_some(true).or_else(|| GOOD.contains(&name.as_str()).then_some(false))
    };
    if let Ok(Value::Object(fields)) = serde_json::from_str(line) {
        return FIELDS.iter().find_map(|field| match fields.get(*field)? {
            Value::String(name) => of_name(name),
            // Smaller numbers are syslog's severities or others: what they mean is not certain.
            Value::Number(number) => {
                number.as_u64().filter(|number| *number >= 10).map(|number| number >= NUMBER_OF_ERROR)
            }
            _ => None,
        });
    }
    line.split_whitespace().take(WORDS_BEFORE + 1).find_map(|word| {
        let plain = without_colours(word);
        let value = FIELDS.iter().find_map(|field| plain.strip_prefix(&format!("{field}=")));
        // A name in capitals or in brackets; in the middle of a sentence "error" is not a level.
        let is_marked = |name: &str| name.chars().all(|c| c.is_ascii_uppercase()) || plain.starts_with(['[', '<', '(']);
        let name = plain.split(':').next().unwrap_or_default().trim_matches(['[', ']', '<', '>', '(', ')', '|', '"']);
        value.and_then(|value| of_name(value.trim_matches('"'))).or_else(|| of_name(name).filter(|_| is_marked(name)))
    })
}

/// A word without ANSI escape sequences (ECMA-48, SGR).
fn without_colours(word: &str) -> String {
    let mut parts = word.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or("", |(_, rest)| rest))
}

/// Whether a line has a level that the target's description lists.
fn is_described(line: &str, described: &Log) -> bool {
    let fields: Option<Value> = serde_json::from_str(line).ok();
    let level = fields.as_ref().and_then(|fields| fields.get(&described.level_field)?.as_str());
    level.is_some_and(|level| described.errors.iter().any(|one| one.eq_ignore_ascii_case(level)))
}

/// Whether a line's level is debug.
pub(crate) fn is_debug(line: &str, described: &Log) -> bool {
    let is_named = |name: &str| name.eq_ignore_ascii_case("debug");
    if let Ok(Value::Object(fields)) = serde_json::from_str(line) {
        let mut levels = FIELDS.iter().copied().chain([&*described.level_field]);
        return levels.any(|field| fields.get(field).and_then(Value::as_str).is_some_and(is_named));
    }
    line.split_whitespace().take(WORDS_BEFORE + 1).any(|word| {
        let plain = without_colours(word);
        let value = FIELDS.iter().find_map(|field| plain.strip_prefix(&format!("{field}=")));
        value.is_some_and(|value| is_named(value.trim_matches('"')))
            || plain.split(':').next().unwrap_or_default().trim_matches(['[', ']', '<', '>', '(', ')', '|']) == "DEBUG"
    })
}

/// The lines of a log that are errors, from the line number `from` on.
///
/// # Errors
/// Could not run if no line of the whole log has a known level: an error would not be recognised.
pub(crate) fn errors<'l>(log: &'l str, from: usize, described: &Log) -> Result<Vec<&'l str>, Failure> {
    let is_error = |line: &str| if is_described(line, described) { Some(true) } else { is_error(line) };
    if !log.lines().any(|line| is_error(line).is_some()) {
        let first = log.lines().next().unwrap_or("nothing");
        let why = format!("no line of the server's log has a level that the suite knows; its first line: {first}");
        return Err(Failure::could_not_run(why));
    }
    Ok(log.lines().skip(from).filter(|line| is_error(line) == Some(true)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::Description;
    use crate::harness::failure::Kind;

    #[test]
    fn lines_of_the_level_debug_are_recognised() {
        let theirs = Log { level_field: "sev".to_owned(), ..Description::own().log.clone() };
        for line in [
            r#"{"level":"DEBUG"}"#,
            r#"{"sev":"debug"}"#,
            "level=debug msg=x",
            "2026-01-01 00:00:00 [DEBUG] x",
            "2026-01-01T00:00:00Z \u{1b}[34mDEBUG\u{1b}[0m app: x",
        ] {
            assert!(is_debug(line, &theirs), "{line}");
        }
        for line in
            [r#"{"level":"INFO","message":"DEBUG"}"#, "INFO app: the level is debug", "level=info level_was=debug"]
        {
            assert!(!is_debug(line, &theirs), "{line}");
        }
    }

    #[test]
    fn errors_are_recognised_in_the_spellings_of_common_loggers() {
        for line in [
            r#"{"timestamp":"2026-01-01T00:00:00Z","level":"ERROR","message":"x"}"#,
            r#"{"severity": "error", "message": "x"}"#,
            r#"{"levelname": "CRITICAL"}"#,
            r#"{"level":50,"msg":"x"}"#,
            "time=2026-01-01T00:00:00Z level=error msg=x",
            "2026-01-01 00:00:00,123 ERROR app: x",
            "2026-01-01 00:00:00,123 - app.proxy - ERROR - x",
            "ERROR:root:x",
            "[2026-01-01 00:00:00] [error] x",
            "2026-01-01T00:00:00Z \u{1b}[31mERROR\u{1b}[0m app: x",
        ] {
            assert_eq!(is_error(line), Some(true), "{line}");
        }
        for line in [
            r#"{"level":"INFO","message":"an ERROR of the client's"}"#,
            r#"{"level":30,"msg":"error"}"#,
            "level=warn msg=\"ERROR\"",
            "INFO:     127.0.0.1:1 - \"GET /error HTTP/1.1\" 200 OK",
            "2026-01-01T00:00:00Z  WARN app: x",
        ] {
            assert_eq!(is_error(line), Some(false), "{line}");
        }
        for line in [
            "",
            "an error occurred",
            "{\"message\": \"error\"}",
            "{\"level\": 3}",
            "Traceback (most recent call last):",
        ] {
            assert_eq!(is_error(line), None, "{line}");
        }
    }

    #[test]
    fn a_log_without_levels_proves_nothing() {
        let log = Description::own().log.clone();
        assert_eq!(errors("INFO a\nERROR b\nERROR c", 2, &log).expect("levels"), ["ERROR c"]);
        assert_eq!(errors("started\nall is well", 0, &log).expect_err("no levels").kind, Kind::CouldNotRun);
        let theirs = Log { format: "json".to_owned(), level_field: "sev".to_owned(), errors: vec!["7".to_owned()] };
        let line = r#"{"sev":"7"}"#;
        assert_eq!(errors(line, 0, &theirs).expect("a level that is described"), [line]);
        assert_eq!(errors("", 0, &log).expect_err("nothing").kind, Kind::CouldNotRun);
    }
}
