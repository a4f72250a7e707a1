//! A run's event stream, and the contract's rules for every such stream.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use http::HeaderMap;
use serde_json::Value;

use super::sse::SseReader;
use crate::contract::schema;
use crate::harness::exchanges::{Exchanges, clip};
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::pace::within;

/// One event of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunEvent {
    /// The `id:` field.
    pub id: String,
    /// The `event:` field.
    pub name: String,
    /// The payload.
    pub data: Value,
}

impl RunEvent {
    /// A text field; empty if it is missing.
    #[must_use]
    pub fn text(&self, field: &str) -> &str {
        self.data[field].as_str().unwrap_or_default()
    }
}

/// An open event stream of a run. Dropping it closes the connection.
#[derive(Debug)]
pub struct EventStream {
    asked: String,
    body: String,
    /// The answer's headers.
    pub headers: HeaderMap,
    response: reqwest::Response,
    reader: SseReader,
    waiting: VecDeque<RunEvent>,
    seen: Vec<RunEvent>,
    exchanges: Exchanges,
    /// How long it may be silent.
    silence: Duration,
}

impl EventStream {
    pub(super) fn new(
        asked: String,
        body: String,
        headers: HeaderMap,
        response: reqwest::Response,
        exchanges: Exchanges,
        silence: Duration,
    ) -> Self {
        let (reader, waiting, seen) = (SseReader::default(), VecDeque::new(), Vec::new());
        Self { asked, body, headers, response, reader, waiting, seen, exchanges, silence }
    }

    /// The next event; `None` once the stream has ended.
    ///
    /// # Errors
    /// The stream broke off, went silent, ended inside an event, or carried something other than a JSON object.
    pub async fn next(&mut self) -> Result<Option<RunEvent>, Failure> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                self.seen.push(event.clone());
                return Ok(Some(event));
            }
            let chunk = match within(self.silence, self.response.chunk()).await {
                Err(_) => {
                    return Err(self.broken("an event or a ping", format!("silence for {:?}", self.silence)));
                }
                Ok(Err(error)) => return Err(self.broken("a stream that ends properly", error)),
                Ok(Ok(None)) if self.reader.is_inside_event() => {
                    return Err(self.broken("an end between events", "an end inside one"));
                }
                Ok(Ok(None)) => return Ok(None),
                Ok(Ok(Some(chunk))) => chunk,
            };
            for event in self.reader.push(&chunk) {
                let data: Value = serde_json::from_str(&event.data)
                    .map_err(|_| self.broken("one JSON object in every event", clip(&event.data)))?;
                self.exchanges.deviate(schema::of_event(&event.name, &data));
                self.waiting.push_back(RunEvent { id: event.id, name: event.name, data });
            }
        }
    }

    fn broken(&self, expected: &str, actual: impl std::fmt::Display) -> Failure {
        Failure::mismatch(format!("event stream of {}, after {} events", self.asked, self.seen.len()), expected, actual)
    }

    /// Reads until an event of this name.
    ///
    /// # Errors
    /// As [`EventStream::next`], or the stream ends without one.
    pub async fn until(&mut self, name: &str) -> Result<RunEvent, Failure> {
        while let Some(event) = self.next().await? {
            if event.name == name {
                return Ok(event);
            }
        }
        Err(self.broken(name, format!("the end; there were: {}", names(&self.seen))))
    }

    /// Reads to the end of a stream that may begin anywhere in a run.
    ///
    /// # Errors
    /// As [`EventStream::next`].
    pub async fn rest(mut self) -> Result<Vec<RunEvent>, Failure> {
        while self.next().await?.is_some() {}
        Ok(self.seen.clone())
    }

    /// Reads to the end, and checks the rules for a whole stream.
    ///
    /// # Errors
    /// As [`EventStream::next`] and [`check_whole`].
    pub async fn finish(mut self) -> Result<Vec<RunEvent>, Failure> {
        while self.next().await?.is_some() {}
        check_eq(format!("lines of {} that are not UTF-8", self.asked), self.reader.not_utf8(), 0)?;
        check_whole(&self.seen).map_err(|failure| failure.during(&self.asked))?;
        Ok(self.seen.clone())
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        let events: Vec<String> = self.seen.iter().map(|event| format!("{} {}", event.name, event.data)).collect();
        self.exchanges.keep(&self.asked, Some(&self.body), &format!("200, events:\n    {}", events.join("\n    ")));
    }
}

/// The names of all events, for a message.
#[must_use]
pub fn names(events: &[RunEvent]) -> String {
    events.iter().map(|event| event.name.as_str()).collect::<Vec<_>>().join(" ")
}

/// Checks the rules for a stream that was read from its first event to its end: ids are `<run>:<seq>` with one run and `seq`
/// from 1 without gaps, payloads repeat `seq` and carry a time, and there is exactly one `done`, last.
///
/// # Errors
/// The first rule that is violated.
pub fn check_whole(events: &[RunEvent]) -> Result<(), Failure> {
    let first = events.first().ok_or_else(|| Failure::assertion("an event stream without any event"))?;
    let run = first.id.rsplit_once(':').map_or("", |(run, _)| run);
    check(!run.is_empty(), format!("the id {:?} is not <run>:<seq>", first.id))?;
    let mut previous = jiff::Timestamp::UNIX_EPOCH;
    for (index, event) in events.iter().enumerate() {
        let what = |field: &str| format!("{field} of event {} ({} {})", index + 1, event.name, event.data);
        check_eq(what("id"), event.id.as_str(), format!("{run}:{}", index + 1))?;
        check_eq(what("seq"), event.data["seq"].as_u64(), Some(index as u64 + 1))?;
        let stamp: jiff::Timestamp =
            event.text("timestamp").parse().map_err(|_| Failure::assertion(what("timestamp")))?;
        check(stamp >= previous, format!("{} is earlier than the one before", what("timestamp")))?;
        previous = stamp;
    }
    let dones = events.iter().filter(|event| event.name == "done").count();
    check_eq(format!("number of done among: {}", names(events)), dones, 1)?;
    check_eq("the last event", events.last().map(|event| event.name.as_str()), Some("done"))?;
    check_agreement(events)
}

/// Checks that the events of a whole stream agree with each other.
fn check_agreement(events: &[RunEvent]) -> Result<(), Failure> {
    let done = events.last().map_or(&Value::Null, |done| &done.data);
    if !done["status"].is_string() {
        return Ok(());
    }
    let failed = done["status"] == "error";
    check(done["is_error"] == failed, format!("status and is_error disagree: {done}"))?;
    let sums = ["input", "output", "cache_creation_5m", "cache_creation_1h", "cache_read"];
    let sum: u64 = sums.iter().filter_map(|kind| done["usage"][format!("{kind}_tokens")].as_u64()).sum();
    check(done["usage"]["total_tokens"] == sum, format!("the sum of all tokens is {sum}: {done}"))?;
    let told: Vec<&Value> = done["errors"].as_array().into_iter().flatten().collect();
    let mut calls: HashMap<&str, &str> = HashMap::new();
    let mut asked: HashSet<&str> = HashSet::new();
    let (mut had_error, mut had_session) = (false, None);
    for event in events {
        match event.name.as_str() {
            "init" => had_session = event.data["session_id"].as_str(),
            "error" => {
                had_error = true;
                check(
                    told.contains(&&event.data["message"]),
                    format!("an error that done does not have: {}, {done}", event.data),
                )?;
            }
            // In the run itself there was an error, and another run is of use; at its beginning there was none.
            "container_recovered" => check(
                event.data["recovered"] == true && event.data["retry_recommended"] == had_error,
                format!("after an error ({had_error}): {}", event.data),
            )?,
            "tool_call" => drop(calls.insert(event.text("tool_use_id"), event.text("tool_name"))),
            "tool_result" => {
                let called = calls.get(event.text("tool_use_id")).copied();
                check(
                    called.is_none_or(|name| name == event.text("tool_name")),
                    format!("the result of another tool than {called:?}: {}", event.data),
                )?;
                let status = if event.data["is_error"] == true { "error" } else { "completed" };
                check_eq(format!("status of {}", event.data), event.text("status"), status)?;
            }
            "approval_required" | "question" | "tool_request" => drop(asked.insert(event.text("request_id"))),
            "approval_resolved" | "tool_request_resolved" => {
                check(asked.remove(event.text("request_id")), format!("nobody has asked for {}", event.data))?;
            }
            _ => {}
        }
    }
    check(asked.is_empty(), format!("what is asked for, {asked:?}, is never resolved"))?;
    let session = done["session_id"].as_str();
    check(
        session.is_none() || had_session.is_none() || session == had_session,
        format!("the session {had_session:?} of init is another one in {done}"),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(seq: u64, name: &str) -> RunEvent {
        let data = json!({"seq": seq, "timestamp": "2026-01-01T00:00:00Z"});
        RunEvent { id: format!("r:{seq}"), name: name.into(), data }
    }

    #[test]
    fn whole_streams_and_others() {
        assert!(check_whole(&[event(1, "init"), event(2, "done")]).is_ok());
        assert!(check_whole(&[]).is_err());
        assert!(check_whole(&[event(1, "init")]).is_err(), "no done");
        assert!(check_whole(&[event(1, "done"), event(2, "ping")]).is_err(), "not last");
        assert!(check_whole(&[event(1, "done"), event(2, "done")]).is_err(), "two");
        assert!(check_whole(&[event(1, "init"), event(3, "done")]).is_err(), "a gap");
        assert!(check_whole(&[event(2, "done")]).is_err(), "not from 1");
        let mut other = event(2, "done");
        other.id = "s:2".into();
        assert!(check_whole(&[event(1, "init"), other]).is_err(), "another run");
        let mut early = event(2, "done");
        early.data["timestamp"] = json!("2025-01-01T00:00:00Z");
        assert!(check_whole(&[event(1, "init"), early]).is_err(), "time runs back");
    }
}
