//! The CLI's control protocol: requests in both directions, beside the messages of the conversation.
//!
//! A request is `{"type": "control_request", "request_id": R, "request": {"subtype": S, …}}`, its answer `{"type": "control_response",
//! "response": {"subtype": "success" or "error", "request_id": R, …}}`. The CLI waits for the answer to each of its requests, so each is
//! answered: an unknown one with an error.

use serde_json::{Map, Value, json};

use super::client_tools;
use super::mapping::text;
use crate::Answer;
use crate::event::{Ask, AskKind, ErrorKind, Event, Failure, REQUEST};

/// The tool with which the model asks the user something.
pub(super) const QUESTION_TOOL: &str = "AskUserQuestion";

/// The events that a request of the CLI's means.
pub(super) fn request(message: &Value, tools: &mut client_tools::Server) -> Vec<Event> {
    let Some(request_id) = text(&message["request_id"]) else { return Vec::new() };
    let request = &message["request"];
    if request["subtype"] == "can_use_tool" {
        let tool_name = text(&request["tool_name"]).unwrap_or_default();
        return vec![Event::Ask(Ask {
            tool_use_id: text(&request["tool_use_id"]).unwrap_or_default(),
            kind: if tool_name == QUESTION_TOOL { AskKind::Question } else { AskKind::Approval },
            tool_name,
            input: request["input"].clone(),
            title: text(&request["title"]).or_else(|| text(&request["description"])),
            request_id,
        })];
    }
    if let Some(events) = tools.message(&request_id, request) {
        return events;
    }
    let subtype = text(&request["subtype"]).unwrap_or_default();
    let error = format!("this host does not offer {}", subtype.chars().take(100).collect::<String>());
    let answer = response(json!({"subtype": "error", "request_id": request_id, "error": error}));
    vec![Event::Unknown { kind: REQUEST.into() }, Event::Reply { id: request_id, lines: vec![answer] }]
}

/// The line that answers a request with success.
pub(super) fn success(request_id: &str, answer: &Value) -> String {
    response(json!({"subtype": "success", "request_id": request_id, "response": answer}))
}

/// Id of the request with the system prompt.
const INITIALIZE: &str = "initialize";

/// The line that tells a CLI which has had no turn what follows its own system prompt, also where it continues a session.
pub(super) fn initialize(system_prompt: &str) -> String {
    let request = json!({"subtype": "initialize", "appendSystemPrompt": system_prompt});
    json!({"type": "control_request", "request_id": INITIALIZE, "request": request}).to_string()
}

/// Why the turn must not go on, if the CLI has refused to be told what follows its system prompt.
pub(super) fn not_introduced(message: &Value) -> Option<Failure> {
    let response = &message["response"];
    let refused = response["request_id"] == INITIALIZE && response["subtype"] == "error";
    let why = || text(&response["error"]).unwrap_or_else(|| "it does not say why".into());
    refused.then(|| Failure {
        kind: ErrorKind::ExecutionError,
        message: format!("the driver did not take its instructions: {}", why()),
    })
}

/// The line that interrupts a turn.
pub(super) fn interrupt(id: &str) -> String {
    json!({"type": "control_request", "request_id": id, "request": {"subtype": "interrupt"}}).to_string()
}

/// The line that answers a question.
pub(super) fn answer(ask: &Ask, answer: &Answer) -> String {
    let answer = match answer {
        Answer::Result { content, is_error } => return client_tools::result(&ask.request_id, content, *is_error),
        Answer::Allow { updated_input } => {
            json!({"behavior": "allow", "updatedInput": updated_input.as_ref().unwrap_or(&ask.input)})
        }
        Answer::Deny { message } => json!({"behavior": "deny", "message": message}),
    };
    success(&ask.request_id, &answer)
}

/// The questions that a question of the model's consists of.
pub(super) fn questions(ask: &Ask) -> Vec<&str> {
    let questions = ask.input["questions"].as_array().into_iter().flatten();
    questions.filter_map(|asked| asked["question"].as_str()).collect()
}

/// The answer to a question of the model's: its input, with an answer to each of its questions for which there is one.
pub(super) fn answers(ask: &Ask, answer: &dyn Fn(&str) -> Option<String>) -> Answer {
    let given: Map<String, Value> = questions(ask)
        .into_iter()
        .filter_map(|question| Some((question.to_owned(), Value::from(answer(question)?))))
        .collect();
    Answer::Allow { updated_input: Some(json!({"questions": ask.input["questions"], "answers": given})) }
}

fn response(response: Value) -> String {
    json!({"type": "control_response", "response": response}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(request: Value) -> Vec<Event> {
        let message = json!({"type": "control_request", "request_id": "r", "request": request});
        super::request(&message, &mut client_tools::Server::default())
    }

    #[test]
    fn a_request_for_a_decision_is_asked_and_answered() {
        let call = json!({"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": "ls"}, "tool_use_id": "t",
            "title": "List files"});
        let [Event::Ask(ask)] = &asked(call)[..] else { panic!("a question") };
        assert_eq!(
            (ask.tool_name.as_str(), ask.kind, ask.title.as_deref()),
            ("Bash", AskKind::Approval, Some("List files"))
        );
        let line = |given: Answer| -> Value { serde_json::from_str(&answer(ask, &given)).expect("JSON") };
        let allowed = line(Answer::Allow { updated_input: None });
        assert_eq!(allowed["response"]["request_id"], "r");
        assert_eq!(allowed["response"]["response"], json!({"behavior": "allow", "updatedInput": {"command": "ls"}}));
        let changed = line(Answer::Allow { updated_input: Some(json!({"command": "pwd"})) });
        assert_eq!(changed["response"]["response"]["updatedInput"]["command"], "pwd");
        let denied = line(Answer::Deny { message: "no".into() });
        assert_eq!(denied["response"]["response"], json!({"behavior": "deny", "message": "no"}));
        let question = json!({"subtype": "can_use_tool", "tool_name": QUESTION_TOOL, "input": {"questions": []}});
        assert!(matches!(&asked(question)[..], [Event::Ask(Ask { kind: AskKind::Question, .. })]));
        let questions = json!([{"question": "Which?"}, {"question": "Why?"}]);
        let question =
            json!({"subtype": "can_use_tool", "tool_name": QUESTION_TOOL, "input": {"questions": questions}});
        let [Event::Ask(ask)] = &asked(question)[..] else { panic!("a question") };
        assert_eq!(super::questions(ask), ["Which?", "Why?"]);
        let given = answers(ask, &|question| (question == "Why?").then(|| "so".into()));
        let updated_input = Some(json!({"questions": questions, "answers": {"Why?": "so"}}));
        assert_eq!(given, Answer::Allow { updated_input });
    }

    #[test]
    fn an_unknown_request_is_answered_with_an_error() {
        let events = asked(json!({"subtype": "hook_callback"}));
        let [Event::Unknown { .. }, Event::Reply { id, lines }] = &events[..] else { panic!("a reply: {events:?}") };
        assert_eq!(id, "r");
        let answer: Value = serde_json::from_str(&lines[0]).expect("JSON");
        assert_eq!((&answer["response"]["subtype"], &answer["response"]["request_id"]), (&json!("error"), &json!("r")));
        assert_eq!(super::request(&json!({"type": "control_request"}), &mut client_tools::Server::default()), vec![]);
    }
}
