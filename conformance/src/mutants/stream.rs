//! Servers with defects in their event streams.

use serde_json::{Value, json};

use super::mutant::{Mutant, red};
use crate::client::sse::SseEvent;
use crate::target::defects::Defect;
use crate::target::tamper::{EventFn, Tamper, event_text};

/// A defect that changes events.
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
        id: "done-without-cost",
        title: "The last event of a run has no cost",
        defects: &[events(|event, _| {
            if event.name == "done" { with(event, |data| data["cost_usd"] = Value::Null) } else { unchanged(&event) }
        })],
        red: &[red("SHAPE-006", "cost_usd of done is null")],
    },
    Mutant {
        id: "gap-in-events",
        title: "An event is lost",
        defects: &[events(|event, _| if is_third(&event) { Some(String::new()) } else { unchanged(&event) })],
        red: &[red("RUN-001", "id of event 3"), red("BUG-10", "id of event 3")],
    },
    Mutant {
        id: "event-twice",
        title: "An event is sent twice",
        defects: &[events(|event, _| {
            let times = if is_third(&event) { 2 } else { 1 };
            Some(event_text(&event).repeat(times))
        })],
        red: &[red("RUN-001", "id of event 4")],
    },
    Mutant {
        id: "two-dones",
        title: "The end of a run is sent twice",
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
        title: "A text of more than 64 KiB in an event is truncated",
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
        title: "A run that exceeds its time limit reports a generic error",
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
        title: "The end of a run is reported while it continues",
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
        red: &[red("RUN-001", "at the expected position among")],
    },
    Mutant {
        id: "no-done",
        title: "A stream ends without a done event",
        defects: &[events(|event, _| if event.name == "done" { None } else { unchanged(&event) })],
        red: &[red("RUN-001", "number of done among"), red("BUG-10", "number of done among")],
    },
    Mutant {
        id: "half-an-event",
        title: "A stream is cut off inside its last event",
        defects: &[events(|event, _| {
            let text = event_text(&event);
            Some(if event.name == "done" { text[..text.len() / 2].to_owned() } else { text })
        })],
        red: &[red("RUN-001", "an end inside one")],
    },
    Mutant {
        id: "time-runs-back",
        title: "An event has an earlier timestamp than the one before",
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
        title: "The payload of an event is not JSON",
        defects: &[events(|event, _| {
            let data = if is_third(&event) { "{'seq': 3}".to_owned() } else { event.data.clone() };
            unchanged(&SseEvent { data, ..event })
        })],
        red: &[red("RUN-001", "one JSON object in every event")],
    },
    Mutant {
        id: "thoughts-untold",
        title: "Thinking events are sent without their text",
        defects: &[events(|event, _| {
            if event.name == "thinking" { with(event, |data| data["content"] = json!("")) } else { unchanged(&event) }
        })],
        red: &[red("RUN-031", "no thinking event has the thought")],
    },
    Mutant {
        id: "long-outputs-out-of-reach",
        title: "The result of a tool names a file of the driver's own, which no client can reach",
        defects: &[events(|event, _| {
            if event.name != "tool_result" {
                return unchanged(&event);
            }
            with(event, |data| {
                let content = data["content"].to_string().replace("/workspace/.", "/home/appuser/.");
                data["content"] = serde_json::from_str(&content).unwrap_or_default();
            })
        })],
        red: &[red("RUN-046", "names no file of the workspace")],
    },
    Mutant {
        id: "context-never-full",
        title: "The context is never reported as full",
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
        title: "One of many readers misses events that the others receive",
        defects: &[events(|event, memory| {
            let one_of_many = event.name == "done" && memory.count("ends") == 50;
            if one_of_many { with(event, |data| data["result"] = json!("")) } else { unchanged(&event) }
        })],
        red: &[red("RUN-024", "events, or different ones")],
    },
    Mutant {
        id: "costs-a-float",
        title: "The cost of a run is a floating-point number",
        defects: &[events(|event, _| {
            if event.name == "done" { with(event, |data| data["cost_usd"] = json!(0.01)) } else { unchanged(&event) }
        })],
        red: &[red("RUN-001", "cost_usd, a decimal string")],
    },
    Mutant {
        id: "unknown-event",
        title: "A stream has an event that the contract does not list",
        defects: &[events(|event, _| {
            let name = if event.name == "title" { "headline".to_owned() } else { event.name.clone() };
            unchanged(&SseEvent { name, ..event })
        })],
        red: &[red("RUN-001", "an event that the contract does not know")],
    },
    Mutant {
        id: "text-swallowed",
        title: "The text is missing from the model's message",
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
        title: "A cancelled or failed run is reported as successful",
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
        title: "A line of the CLI that is not JSON ends the run",
        defects: &[events(|event, _| {
            if event.name == "done" { with(event, |data| data["status"] = json!("error")) } else { unchanged(&event) }
        })],
        red: &[red("BUG-10-JUNK", "status in done")],
    },
    Mutant {
        id: "driver-errors-unnamed",
        title: "Every error of the driver has the same type and no details",
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
        red: &[red("BUG-10-GONE", "error_type in"), red("BUG-10-EXIT", "the message does not contain")],
    },
    Mutant {
        id: "recovery-untold",
        title: "A client is not informed that its workspace was lost and replaced",
        defects: &[events(|event, _| {
            let name = if event.name == "container_recovered" { "progress".to_owned() } else { event.name.clone() };
            unchanged(&SseEvent { name, ..event })
        })],
        red: &[
            red("CHAOS-002", "no error and then container_recovered"),
            red("CHAOS-004", "no container_recovered among"),
            red("CHAOS-010", "what the next run tells of the files"),
        ],
    },
];
