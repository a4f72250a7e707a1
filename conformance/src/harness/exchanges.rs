//! The requests and responses of a scenario, with secrets redacted, so that a failure can show them.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

/// How many exchanges are kept; the oldest are dropped first.
const KEPT: usize = 60;
/// How much of a body is kept, in bytes.
const BODY_KEPT: usize = 2048;

/// How many deviations of shape are kept: one that is in every event of a long stream is seen in the first.
const DEVIATIONS_KEPT: usize = 100;

/// Texts that must never be shown.
#[derive(Debug, Clone, Default)]
pub struct Secrets(Arc<Mutex<BTreeSet<String>>>);

impl Secrets {
    /// Redacts `secret` in everything shown from now on. Texts shorter than six bytes are not redacted, because they occur in
    /// innocent text.
    pub fn add(&self, secret: &str) {
        if secret.len() >= 6 {
            self.0.lock().insert(secret.to_owned());
        }
    }

    /// `text` with `[redacted]` in place of secrets.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        let secrets = self.0.lock();
        // Longest first, so that a secret that contains another is redacted whole.
        let mut by_length: Vec<&String> = secrets.iter().collect();
        by_length.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        by_length.into_iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "[redacted]"))
    }
}

/// The log of the requests and responses of one scenario, in order.
#[derive(Debug, Clone)]
pub struct Exchanges {
    secrets: Secrets,
    started: Instant,
    kept: Arc<Mutex<VecDeque<String>>>,
    deviations: Arc<Mutex<BTreeSet<String>>>,
}

impl Exchanges {
    /// An empty log.
    #[must_use]
    pub fn new(secrets: Secrets) -> Self {
        Self { secrets, started: Instant::now(), kept: Arc::default(), deviations: Arc::default() }
    }

    /// Records one exchange: the request, its body, and the response.
    pub fn keep(&self, asked: &str, body: Option<&str>, answer: &str) {
        let mut text = format!("[{:8.3}s] {asked}", self.started.elapsed().as_secs_f64());
        if let Some(body) = body.filter(|body| !body.is_empty()) {
            let _ = write!(text, "\n  > {}", clip(body));
        }
        let _ = write!(text, "\n  < {}", clip(answer));
        let mut kept = self.kept.lock();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(self.secrets.redact(&text));
    }

    /// Records deviations of shape that do not fail the scenario.
    pub fn deviate(&self, found: Vec<String>) {
        let mut kept = self.deviations.lock();
        for text in found {
            if kept.len() < DEVIATIONS_KEPT {
                kept.insert(self.secrets.redact(&text));
            }
        }
    }

    /// All deviations of shape that have been recorded.
    #[must_use]
    pub fn deviations(&self) -> Vec<String> {
        self.deviations.lock().iter().cloned().collect()
    }

    /// The whole log as text.
    #[must_use]
    pub fn text(&self) -> String {
        let kept = self.kept.lock();
        kept.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// The beginning of a long text, cut at a character boundary, with the number of omitted bytes.
#[must_use]
pub fn clip(text: &str) -> String {
    if text.len() <= BODY_KEPT {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(BODY_KEPT);
    format!("{}… ({} bytes more)", &text[..end], text.len() - end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_redacted() {
        let secrets = Secrets::default();
        secrets.add("0123456789abcdef");
        secrets.add("9abcde");
        secrets.add("short");
        let log = Exchanges::new(secrets);
        log.keep("GET /x", Some("key=0123456789abcdef"), "200 short 9abcde");
        assert!(log.text().contains("key=[redacted]\n"), "{}", log.text());
        assert!(log.text().contains("short [redacted]"));
    }

    #[test]
    fn deviations_of_a_long_stream_are_bounded() {
        let log = Exchanges::new(Secrets::default());
        (0..DEVIATIONS_KEPT * 2).for_each(|number| log.deviate(vec![format!("text of text_delta is {number}")]));
        assert_eq!(log.deviations().len(), DEVIATIONS_KEPT);
    }

    #[test]
    fn long_bodies_are_cut_and_old_exchanges_dropped() {
        let log = Exchanges::new(Secrets::default());
        log.keep("GET /old", None, &"長".repeat(BODY_KEPT));
        assert!(log.text().contains("bytes more"));
        (0..KEPT).for_each(|_| log.keep("GET /new", None, "200"));
        assert!(!log.text().contains("/old"));
    }
}
