//! Servers whose event streams lie.

use serde_json::{Value, json};

use super::{Defect, Mutant, red};
use crate::client::sse::SseEvent;
use crate::target::tamper::{EventFn, Tamper, event_text};

/// Events are changed.
const fn events(event: EventFn) -> Defect {
    Defect::Http(Tamper { ask: None, answer: None, event: Some(event) })
}

/// An event with another payload.
fn with(mut event: SseEvent, change: impl FnOnce(&mut Value)) -> Option<String> {
    let mut data: Value = serde_json::from_str(&event.data).unwrap_or_default();
    change(&mut data);
    event.data = data.to_string();
    Some(event_text(&event))
}

fn unchanged(event: &SseEvent) -> Option<String> {
    Some(event_text(event))
}

fn is_third(event: &SseEvent) -> bool {
    event.id.ends_with(":3")
}

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        id: "gap-in-events",
        title: "an event is lost on the way",
        defects: &[events(|event, _| if is_third(&event) { Some(String::new()) } else { unchanged(&event) })],
        red: &[red("RUN-001", "id of event 3"), red("BUG-10", "id of event 3")],
    },
    Mutant {
        id: "event-twice",
        title: "an event is sent twice",
        defects: &[events(|event, _| {
            let times = if is_third(&event) { 2 } else { 1 };
            Some(event_text(&event).repeat(times))
        })],
        red: &[red("RUN-001", "id of event 4")],
    },
    Mutant {
        id: "two-dones",
        title: "the end of a run is told twice",
        defects: &[events(|event, _| {
            let mut text = event_text(&event);
            if event.name == "done" {
                let (run, seq) = event.id.rsplit_once(':').unwrap_or_default();
                let next = seq.parse::<u64>().unwrap_or(0) + 1;
                let mut data: Value = serde_json::from_str(&event.data).unwrap_or_default();
                data["seq"] = json!(next);
                text +=
                    &event_text(&SseEvent { id: format!("{run}:{next}"), name: event.name, data: data.to_string() });
            }
            Some(text)
        })],
        red: &[red("RUN-001", "number of done among")],
    },
    Mutant {
        id: "long-text-clipped",
        title: "a text of more than 64 KiB in an event is cut off",
        defects: &[events(|event, _| {
            if event.data.len() < 1 << 16 {
                return unchanged(&event);
            }
            with(event, |data| {
                if let Some(result) = data["result"].as_str() {
                    let clipped: String = result.chars().take(1 << 14).collect();
                    data["result"] = json!(clipped);
                }
            })
        })],
        red: &[red("RUN-005", "result in done")],
    },
    Mutant {
        id: "timeout-like-any-error",
        title: "a run that took too long says that something failed, and not what",
        defects: &[events(|event, _| {
            if event.name != "error" {
                return unchanged(&event);
            }
            with(event, |data| data["error_type"] = json!("execution_error"))
        })],
        red: &[red("RUN-006", "error_type among")],
    },
    Mutant {
        id: "false-done",
        title: "a run's end is told while it goes on",
        defects: &[events(|event, memory| {
            if memory.get("done").is_some() {
                return None;
            }
            if event.name != "assistant" {
                return unchanged(&event);
            }
            memory.set("done", "");
            let done = |data: &mut Value| {
                data["status"] = json!("success");
                data["is_error"] = json!(false);
            };
            with(SseEvent { name: "done".to_owned(), ..event }, done)
        })],
        red: &[red("RUN-001", "in its place among")],
    },
    Mutant {
        id: "no-done",
        title: "a stream ends without saying how the run ended",
        defects: &[events(|event, _| if event.name == "done" { None } else { unchanged(&event) })],
        red: &[red("RUN-001", "number of done among"), red("BUG-10", "number of done among")],
    },
    Mutant {
        id: "half-an-event",
        title: "a stream breaks off inside its last event",
        defects: &[events(|event, _| {
            let text = event_text(&event);
            Some(if event.name == "done" { text[..text.len() / 2].to_owned() } else { text })
        })],
        red: &[red("RUN-001", "an end inside one")],
    },
    Mutant {
        id: "time-runs-back",
        title: "an event is older than the one before",
        defects: &[events(|event, _| {
            if is_third(&event) {
                with(event, |data| data["timestamp"] = json!("1999-01-01T00:00:00Z"))
            } else {
                unchanged(&event)
            }
        })],
        red: &[red("RUN-001", "is earlier than the one before")],
    },
    Mutant {
        id: "event-is-no-json",
        title: "an event's payload is no JSON",
        defects: &[events(|event, _| {
            let data = if is_third(&event) { "{'seq': 3}".to_owned() } else { event.data.clone() };
            unchanged(&SseEvent { data, ..event })
        })],
        red: &[red("RUN-001", "one JSON object in every event")],
    },
    Mutant {
        id: "thoughts-untold",
        title: "what the model thinks is told without a word of it",
        defects: &[events(|event, _| {
            if event.name == "thinking" { with(event, |data| data["content"] = json!("")) } else { unchanged(&event) }
        })],
        red: &[red("RUN-031", "what was thought is not told")],
    },
    Mutant {
        id: "context-never-full",
        title: "the context is said to have room, however full it is",
        defects: &[events(|event, _| {
            if event.name != "context_status" {
                return unchanged(&event);
            }
            with(event, |data| data["warning_level"] = json!("normal"))
        })],
        red: &[red("RUN-032", "warning_level where some 80 % are used")],
    },
    Mutant {
        id: "one-reader-of-many-loses",
        title: "one of many readers does not get what the others get",
        defects: &[events(|event, memory| {
            let one_of_many = event.name == "done" && memory.count("ends") == 50;
            if one_of_many { with(event, |data| data["result"] = json!("")) } else { unchanged(&event) }
        })],
        red: &[red("RUN-024", "events, or others")],
    },
    Mutant {
        id: "costs-a-float",
        title: "what a run cost is told as a floating-point number",
        defects: &[events(|event, _| {
            if event.name == "done" { with(event, |data| data["cost_usd"] = json!(0.01)) } else { unchanged(&event) }
        })],
        red: &[red("RUN-001", "cost_usd, a decimal string")],
    },
    Mutant {
        id: "unknown-event",
        title: "a stream has an event that the contract does not know",
        defects: &[events(|event, _| {
            let name = if event.name == "title" { "headline".to_owned() } else { event.name.clone() };
            unchanged(&SseEvent { name, ..event })
        })],
        red: &[red("RUN-001", "an event that the contract does not know")],
    },
    Mutant {
        id: "text-swallowed",
        title: "what the model says is missing from its message",
        defects: &[events(|event, _| {
            if event.name == "assistant" {
                with(event, |data| data["content_blocks"] = json!([{"type": "text", "text": ""}]))
            } else {
                unchanged(&event)
            }
        })],
        red: &[red("BUG-10", "was not among the texts"), red("BUG-10-JUNK", "the text was lost")],
    },
    Mutant {
        id: "failure-is-success",
        title: "a run that was cancelled, or has failed, says that it went well",
        defects: &[events(|event, _| {
            if event.name == "done" { with(event, |data| data["status"] = json!("success")) } else { unchanged(&event) }
        })],
        red: &[
            red("RUN-003", "status in done"),
            red("RUN-022", "status in done"),
            red("RUN-025", "status in done"),
            red("CHAOS-002", "status in done"),
            red("CHAOS-006", "status in done"),
            red("CHAOS-007", "status in done"),
            red("CHAOS-008", "status in done"),
            red("CHAOS-009", "status in done"),
        ],
    },
    Mutant {
        id: "junk-is-fatal",
        title: "a line of the CLI's that is no JSON ends the run",
        defects: &[events(|event, _| {
            if event.name == "done" { with(event, |data| data["status"] = json!("error")) } else { unchanged(&event) }
        })],
        red: &[red("BUG-10-JUNK", "status in done")],
    },
    Mutant {
        id: "driver-errors-unnamed",
        title: "every error of the driver's has the same name and says nothing",
        defects: &[events(|event, _| {
            if event.name == "error" {
                with(event, |data| {
                    if data["error_type"] == "execution_error" {
                        data["message"] = json!("failed");
                    } else {
                        data["error_type"] = json!("execution_error");
                    }
                })
            } else {
                unchanged(&event)
            }
        })],
        red: &[red("BUG-10-GONE", "error_type in"), red("BUG-10-EXIT", "the message does not hold")],
    },
    Mutant {
        id: "recovery-untold",
        title: "a client is not told that its room was lost and replaced",
        defects: &[events(|event, _| {
            let name = if event.name == "container_recovered" { "progress".to_owned() } else { event.name.clone() };
            unchanged(&SseEvent { name, ..event })
        })],
        red: &[
            red("CHAOS-002", "no error and then container_recovered"),
            red("CHAOS-004", "no container_recovered among"),
        ],
    },
];
