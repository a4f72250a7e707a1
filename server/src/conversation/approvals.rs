//! What the driver of a run has asked, and what has been decided: shared by the run, which asks and delivers, and by the requests that
//! decide.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::Timestamp;
use nagaya_driver::{Answer, Ask};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Questions of one run that are remembered, so that a decision which is sent again is answered as before. A driver has a few at a time.
const REMEMBERED: usize = 1_000;
/// Questions that may wait for a decision at the same time.
const MOST_PENDING: usize = 100;
/// Length of the arguments of those questions together, as text in bytes. Twice as much is remembered.
const MOST_BYTES: usize = 4 << 20;
/// Questions of one run in all. Each is a line of the journal and one of the audit trail.
const MOST_ASKED: usize = 10_000;

/// The questions of one run.
#[derive(Debug)]
pub struct Approvals {
    entries: Mutex<VecDeque<Entry>>,
    /// Held while a decision is made durable.
    deciding: tokio::sync::Mutex<()>,
    /// How many questions there were.
    asked: AtomicUsize,
    /// Changes when a decision is to be delivered.
    decided: watch::Sender<()>,
}

/// A question that waits for a decision.
#[derive(Debug, Clone)]
pub struct Pending {
    /// What the driver asks.
    pub ask: Ask,
    /// When it is decided without anybody.
    pub expires_at: Timestamp,
}

#[derive(Debug)]
struct Entry {
    pending: Pending,
    /// Length of the arguments as text.
    bytes: usize,
    state: State,
}

#[derive(Debug, PartialEq)]
enum State {
    Pending,
    Decided { decision: Decision, delivered: bool },
    Withdrawn,
}

/// A decision, and whose it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// What was decided.
    pub answer: Answer,
    /// Who decided: the name of a key, or the subject of a token; `None` if the time was up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Why a decision does not count.
#[derive(Debug, thiserror::Error)]
pub enum DecideError {
    /// No such question is known in the conversation's run.
    #[error("no such question")]
    Unknown,
    /// Something else has been decided.
    #[error("it has been decided otherwise")]
    Otherwise,
    /// Nobody has decided by then, which is a decision as well.
    #[error("nobody has decided about it in time; its time was up at {0}")]
    Late(Timestamp),
    /// The question was withdrawn: the run was cancelled or has lost its workspace, or the driver no longer asks.
    #[error("it was withdrawn")]
    Withdrawn,
    /// The decision cannot be written to the journal.
    #[error("the decision cannot be written to the run's journal: {0}")]
    Journal(#[from] io::Error),
}

impl Default for Approvals {
    fn default() -> Self {
        Self {
            entries: Mutex::default(),
            deciding: tokio::sync::Mutex::default(),
            asked: AtomicUsize::default(),
            decided: watch::Sender::new(()),
        }
    }
}

impl Approvals {
    /// Adds a question; `false` if it is known already. The error says that there are too many.
    pub(super) fn ask(&self, pending: Pending) -> Result<bool, String> {
        let mut entries = self.entries.lock();
        if entries.iter().any(|entry| entry.pending.ask.request_id == pending.ask.request_id) {
            return Ok(false);
        }
        if entries.iter().filter(|entry| entry.state == State::Pending).count() >= MOST_PENDING {
            return Err(format!("more than {MOST_PENDING} questions wait for a decision"));
        }
        let bytes = |entry: &Entry| entry.bytes;
        let own = pending.ask.input.to_string().len();
        if entries.iter().filter(|entry| entry.state == State::Pending).map(bytes).sum::<usize>() + own > MOST_BYTES {
            return Err(format!("questions with more than {} MiB wait for a decision", MOST_BYTES >> 20));
        }
        if self.asked.fetch_add(1, Ordering::Relaxed) >= MOST_ASKED {
            return Err(format!("the run has asked more than {MOST_ASKED} questions"));
        }
        entries.push_back(Entry { pending, bytes: own, state: State::Pending });
        while (entries.len() > REMEMBERED || entries.iter().map(bytes).sum::<usize>() > 2 * MOST_BYTES)
            && let Some(at) = entries.iter().position(|entry| entry.state != State::Pending)
        {
            entries.remove(at);
        }
        Ok(true)
    }

    /// Decides a question. The same decision again changes nothing. `write` makes it durable before it counts.
    ///
    /// # Errors
    /// The decision does not count.
    pub(super) async fn decide(
        &self,
        id: &str,
        decision: Decision,
        write: impl AsyncFnOnce(&Decision) -> io::Result<()>,
    ) -> Result<Decision, DecideError> {
        let _only = self.deciding.lock().await;
        if let Some(earlier) = self.decided_before(id, &decision)? {
            return Ok(earlier);
        }
        write(&decision).await?;
        // Meanwhile the driver may have ceased to ask.
        if let Some(earlier) = self.decided_before(id, &decision)? {
            return Ok(earlier);
        }
        if let Some(entry) = self.entries.lock().iter_mut().find(|entry| entry.pending.ask.request_id == id) {
            entry.state = State::Decided { decision: decision.clone(), delivered: false };
        }
        self.decided.send_replace(());
        Ok(decision)
    }

    /// What has been decided about a question; `None` if it waits for a decision.
    fn decided_before(&self, id: &str, decision: &Decision) -> Result<Option<Decision>, DecideError> {
        let entries = self.entries.lock();
        let entry = entries.iter().find(|entry| entry.pending.ask.request_id == id).ok_or(DecideError::Unknown)?;
        match &entry.state {
            State::Withdrawn => Err(DecideError::Withdrawn),
            State::Decided { decision: earlier, .. } if earlier.answer == decision.answer => Ok(Some(earlier.clone())),
            State::Decided { decision: Decision { by: None, .. }, .. } => {
                Err(DecideError::Late(entry.pending.expires_at))
            }
            State::Decided { .. } => Err(DecideError::Otherwise),
            State::Pending => Ok(None),
        }
    }

    /// What a question asks, whatever has become of it.
    #[must_use]
    pub fn asked(&self, id: &str) -> Option<Ask> {
        self.entries.lock().iter().map(|entry| &entry.pending.ask).find(|ask| ask.request_id == id).cloned()
    }

    /// When the time of a question was up, if nobody has decided about it until then. Where its server was dead then, it still waits to be
    /// decided without anybody.
    pub(super) fn too_late(&self, id: &str) -> Option<Timestamp> {
        let entries = self.entries.lock();
        let entry = entries.iter().find(|entry| entry.pending.ask.request_id == id)?;
        let until = entry.pending.expires_at;
        (entry.state == State::Pending && until <= Timestamp::now()).then_some(until)
    }

    /// How many questions wait, and when the first of them expires.
    pub(super) fn waiting(&self) -> (usize, Option<Timestamp>) {
        let entries = self.entries.lock();
        let waiting = || entries.iter().filter(|entry| entry.state == State::Pending);
        (waiting().count(), waiting().map(|entry| entry.pending.expires_at).min())
    }

    /// The questions that wait, oldest first.
    #[must_use]
    pub fn pending(&self) -> Vec<Pending> {
        let entries = self.entries.lock();
        entries.iter().filter(|entry| entry.state == State::Pending).map(|entry| entry.pending.clone()).collect()
    }

    /// The first decision that has not been delivered.
    pub(super) fn next_decided(&self) -> Option<(Ask, Decision)> {
        self.entries.lock().iter().find_map(|entry| match &entry.state {
            State::Decided { decision, delivered: false } => Some((entry.pending.ask.clone(), decision.clone())),
            _ => None,
        })
    }

    /// Whether a decision has not been delivered.
    pub(super) fn has_decided(&self) -> bool {
        self.entries.lock().iter().any(|entry| matches!(entry.state, State::Decided { delivered: false, .. }))
    }

    /// A decision has been delivered.
    pub(super) fn delivered(&self, id: &str) {
        let mut entries = self.entries.lock();
        let entry = entries.iter_mut().find(|entry| entry.pending.ask.request_id == id);
        if let Some(State::Decided { delivered, .. }) = entry.map(|entry| &mut entry.state) {
            *delivered = true;
        }
    }

    /// Withdraws a question; `true` if it waited.
    pub(super) fn withdraw(&self, id: &str) -> bool {
        let mut entries = self.entries.lock();
        let entry = entries.iter_mut().find(|entry| entry.pending.ask.request_id == id);
        let Some(entry) = entry.filter(|entry| entry.state == State::Pending) else { return false };
        entry.state = State::Withdrawn;
        true
    }

    /// Notified of every decision, and at once: an earlier process may have left some that are not delivered.
    pub(super) fn decisions(&self) -> watch::Receiver<()> {
        let mut decisions = self.decided.subscribe();
        decisions.mark_changed();
        decisions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(id: usize) -> Pending {
        let ask = Ask {
            request_id: id.to_string(),
            tool_use_id: "t".into(),
            tool_name: "Bash".into(),
            input: serde_json::json!({}),
            title: None,
            kind: nagaya_driver::AskKind::Approval,
        };
        Pending { ask, expires_at: Timestamp::MAX }
    }

    fn allow() -> Decision {
        Decision { answer: Answer::Allow { updated_input: None }, by: Some("key".into()) }
    }

    fn deny() -> Decision {
        Decision { answer: Answer::Deny { message: "no".into() }, by: None }
    }

    #[tokio::test]
    async fn a_decision_counts_once_and_is_delivered_once() {
        let approvals = Approvals::default();
        let decide = async |decision| approvals.decide("1", decision, async |_| Ok(())).await;
        assert!(matches!(decide(allow()).await, Err(DecideError::Unknown)));
        assert_eq!((approvals.ask(pending(1)), approvals.ask(pending(1))), (Ok(true), Ok(false)));
        let unwritten = approvals.decide("1", allow(), async |_| Err(io::ErrorKind::StorageFull.into())).await;
        assert!(matches!(unwritten, Err(DecideError::Journal(_))));
        assert_eq!(approvals.pending().len(), 1, "what is not written does not count");
        assert_eq!(decide(allow()).await.expect("counts"), allow());
        assert_eq!(decide(Decision { by: None, ..allow() }).await.expect("the same"), allow());
        assert!(matches!(decide(deny()).await, Err(DecideError::Otherwise)));
        assert_eq!(approvals.ask(Pending { expires_at: Timestamp::UNIX_EPOCH, ..pending(2) }), Ok(true));
        assert_eq!([approvals.too_late("1"), approvals.too_late("2")], [None, Some(Timestamp::UNIX_EPOCH)]);
        approvals.decide("2", deny(), async |_| Ok(())).await.expect("nobody has decided in time");
        let late = approvals.decide("2", allow(), async |_| Ok(())).await;
        assert!(matches!(late, Err(DecideError::Late(until)) if until == Timestamp::UNIX_EPOCH), "{late:?}");
        approvals.delivered("2");
        assert!(approvals.decisions().has_changed().expect("open"), "whoever listens later hears of it");
        assert_eq!(approvals.next_decided().map(|(_, decision)| decision), Some(allow()));
        assert!(approvals.has_decided(), "it is not delivered yet");
        approvals.delivered("1");
        assert!(approvals.next_decided().is_none() && !approvals.has_decided());
        assert!(approvals.pending().is_empty() && !approvals.withdraw("1"));
    }

    #[tokio::test]
    async fn a_question_can_be_withdrawn_and_there_are_not_too_many() {
        let approvals = Approvals::default();
        for id in 0..MOST_PENDING {
            assert_eq!(approvals.ask(pending(id)), Ok(true));
        }
        assert!(approvals.ask(pending(MOST_PENDING)).is_err());
        assert!(approvals.withdraw("0") && !approvals.withdraw("0"));
        assert!(matches!(approvals.decide("0", allow(), async |_| Ok(())).await, Err(DecideError::Withdrawn)));
        for id in MOST_PENDING..MOST_ASKED {
            approvals.ask(pending(id)).expect("few wait");
            assert!(approvals.withdraw(&id.to_string()));
        }
        assert!(approvals.ask(pending(MOST_ASKED)).is_err(), "a run has a total");
        assert!(approvals.entries.lock().len() <= REMEMBERED);
        assert_eq!(approvals.pending().len(), MOST_PENDING - 1, "what waits is not forgotten");
    }

    #[tokio::test]
    async fn what_waits_is_told_in_order_with_its_first_end_and_has_a_size() {
        let approvals = Approvals::default();
        assert_eq!(approvals.waiting(), (0, None));
        let at = |id: usize, second: i64| Pending {
            expires_at: Timestamp::from_second(second).expect("a time"),
            ..pending(id)
        };
        for (id, second) in [(3, 9), (1, 5), (2, 7)] {
            assert_eq!(approvals.ask(at(id, second)), Ok(true));
        }
        let order =
            || -> Vec<String> { approvals.pending().into_iter().map(|pending| pending.ask.request_id).collect() };
        assert_eq!(order(), ["3", "1", "2"], "as they were asked");
        assert_eq!(approvals.waiting(), (3, Timestamp::from_second(5).ok()));
        approvals.decide("1", allow(), async |_| Ok(())).await.expect("counts");
        assert_eq!((order(), approvals.waiting()), (vec!["3".into(), "2".into()], (2, Timestamp::from_second(7).ok())));
        // The first one that was decided is delivered first, and one that was withdrawn stays known.
        approvals.decide("3", deny(), async |_| Ok(())).await.expect("counts");
        let next = || approvals.next_decided().map(|(ask, _)| ask.request_id);
        assert_eq!(next().as_deref(), Some("3"), "the first that was asked");
        approvals.delivered("3");
        assert_eq!(next().as_deref(), Some("1"));
        assert!(approvals.withdraw("2") && approvals.asked("2").is_some() && approvals.asked("4").is_none());

        let approvals = Approvals::default();
        let sized = |id: usize, bytes: usize| {
            let mut large = pending(id);
            // Two bytes are the quotes of the text.
            large.ask.input = serde_json::json!("x".repeat(bytes - 2));
            large
        };
        assert_eq!(approvals.ask(sized(1, MOST_BYTES - 10)), Ok(true));
        assert!(approvals.ask(sized(2, 11)).is_err());
        assert_eq!(approvals.ask(sized(3, 10)), Ok(true));
        assert!(approvals.withdraw("1"));
        assert_eq!(approvals.ask(sized(4, MOST_BYTES - 10)), Ok(true), "what does not wait does not count");
    }
}
