//! Tools that the caller itself carries out. The CLI takes them from a server of the Model Context Protocol that this host is: messages of
//! JSON-RPC 2.0 come as requests of the control protocol, `{"subtype": "mcp_message", "server_name": …, "message": …}`.
//!
//! Source: Model Context Protocol, "Lifecycle", "Tools" and "Cancellation".

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::control::success;
use super::mapping::text;
use crate::event::{Ask, AskKind, Event};
use crate::options::ClientTool;

/// Name of the server. The model knows its tools as `mcp__client__NAME`.
pub(super) const SERVER: &str = "client";
/// Calls that are remembered for their cancellation. The run takes fewer at a time.
const MOST_CALLS: usize = 1_000;
/// JSON-RPC's code for a method that does not exist.
const NO_METHOD: i32 = -32601;
/// JSON-RPC's code for arguments that are not accepted.
const BAD_PARAMS: i32 = -32602;

/// The server that has the caller's tools.
#[derive(Debug, Default)]
pub(super) struct Server {
    tools: Vec<ClientTool>,
    /// The last calls: their ids of JSON-RPC, and those of the questions. Whether one is answered is not known here.
    calls: VecDeque<(u64, String)>,
}

impl Server {
    pub(super) fn new(tools: Vec<ClientTool>) -> Self {
        Self { tools, calls: VecDeque::new() }
    }

    /// The events that a request of the CLI's means; `None` if it is no message to this server.
    pub(super) fn message(&mut self, request_id: &str, request: &Value) -> Option<Vec<Event>> {
        let ours = request["subtype"] == "mcp_message" && request["server_name"] == SERVER && !self.tools.is_empty();
        if !ours {
            return None;
        }
        let message = &request["message"];
        let params = &message["params"];
        let reply = |answer: Value| Event::Reply {
            id: request_id.to_owned(),
            lines: vec![success(request_id, &json!({"mcp_response": answer}))],
        };
        let result = |result: Value| reply(json!({"jsonrpc": "2.0", "id": message["id"], "result": result}));
        let error = |code: i32, why: &str| {
            reply(json!({"jsonrpc": "2.0", "id": message["id"], "error": {"code": code, "message": why}}))
        };
        Some(match message["method"].as_str().unwrap_or_default() {
            "initialize" => {
                let version = text(&params["protocolVersion"]).unwrap_or_default();
                vec![result(json!({"protocolVersion": version, "capabilities": {"tools": {}},
                    "serverInfo": {"name": SERVER, "version": "1"}}))]
            }
            "tools/list" => vec![result(json!({"tools": self.tools.iter().map(listed).collect::<Vec<_>>()}))],
            "tools/call" => {
                let known = self.tools.iter().find(|tool| params["name"] == tool.name.as_str());
                match (known, message["id"].as_u64()) {
                    (Some(tool), Some(call)) => {
                        let tool_name = tool.name.clone();
                        vec![Event::Ask(self.call(request_id, call, tool_name, params))]
                    }
                    _ => vec![error(BAD_PARAMS, "no such tool")],
                }
            }
            "notifications/cancelled" => {
                let place = self.calls.iter().position(|(call, _)| params["requestId"].as_u64() == Some(*call));
                let cancelled = place.and_then(|place| self.calls.remove(place));
                let withdrawn = cancelled.map(|(_, request_id)| Event::Withdrawn { request_id });
                withdrawn.into_iter().chain([reply(acknowledged())]).collect()
            }
            note if note.starts_with("notifications/") => vec![reply(acknowledged())],
            "ping" => vec![result(json!({}))],
            _ => vec![error(NO_METHOD, "no such method")],
        })
    }

    fn call(&mut self, request_id: &str, call: u64, tool_name: String, params: &Value) -> Ask {
        let id = format!("{request_id}.{call}");
        if self.calls.len() == MOST_CALLS {
            self.calls.pop_front();
        }
        self.calls.push_back((call, id.clone()));
        Ask {
            request_id: id,
            tool_use_id: text(&params["_meta"]["claudecode/toolUseId"]).unwrap_or_default(),
            tool_name,
            input: if params["arguments"].is_object() { params["arguments"].clone() } else { json!({}) },
            title: None,
            kind: AskKind::ClientTool,
        }
    }
}

/// A tool as the server lists it. The CLI runs calls of tools that only read side by side, and others one after the other: then only
/// the first of an answer's calls would reach the caller. Without `alwaysLoad` it shows the model only the tools' names, to be looked up.
fn listed(tool: &ClientTool) -> Value {
    json!({"name": tool.name, "description": tool.description, "inputSchema": tool.input_schema,
        "annotations": {"readOnlyHint": true}, "_meta": {"anthropic/alwaysLoad": true}})
}

/// What the CLI expects in answer to a notification.
fn acknowledged() -> Value {
    json!({"jsonrpc": "2.0", "result": {}})
}

/// The line with the result of a call.
pub(super) fn result(ask: &str, content: &str, is_error: bool) -> String {
    let (request_id, call) = ask.rsplit_once('.').unwrap_or((ask, ""));
    let result = json!({"content": [{"type": "text", "text": content}], "isError": is_error});
    let answer = json!({"jsonrpc": "2.0", "id": call.parse::<u64>().ok(), "result": result});
    success(request_id, &json!({"mcp_response": answer}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        let input_schema = json!({"type": "object"});
        Server::new(vec![ClientTool { name: "price".into(), description: "Its price".into(), input_schema }])
    }

    fn send(server: &mut Server, message: Value) -> Vec<Event> {
        let request = json!({"subtype": "mcp_message", "server_name": SERVER, "message": message});
        server.message("r-1", &request).expect("a message to this server")
    }

    fn answer(events: &[Event]) -> Value {
        let [Event::Reply { id, lines }] = events else { panic!("a reply: {events:?}") };
        let line: Value = serde_json::from_str(&lines[0]).expect("JSON");
        assert_eq!((id.as_str(), &line["response"]["request_id"]), ("r-1", &json!("r-1")));
        line["response"]["response"]["mcp_response"].clone()
    }

    #[test]
    fn the_tools_are_listed_as_declared() {
        let mut server = server();
        let begun =
            answer(&send(&mut server, json!({"id": 0, "method": "initialize", "params": {"protocolVersion": "v"}})));
        assert_eq!((&begun["id"], &begun["result"]["protocolVersion"]), (&json!(0), &json!("v")));
        assert_eq!(answer(&send(&mut server, json!({"method": "notifications/initialized"})))["result"], json!({}));
        let listed = answer(&send(&mut server, json!({"id": 1, "method": "tools/list"})));
        assert_eq!(
            listed["result"]["tools"],
            json!([{"name": "price", "description": "Its price", "inputSchema": {"type": "object"},
                "annotations": {"readOnlyHint": true}, "_meta": {"anthropic/alwaysLoad": true}}])
        );
        assert_eq!(
            answer(&send(&mut server, json!({"id": 2, "method": "resources/list"})))["error"]["code"],
            NO_METHOD
        );
    }

    #[test]
    fn a_call_is_asked_answered_and_withdrawn() {
        let mut server = server();
        let call = json!({"id": 7, "method": "tools/call", "params": {"name": "price", "arguments": {"item": "melon"},
            "_meta": {"claudecode/toolUseId": "t"}}});
        let events = send(&mut server, call);
        let [Event::Ask(ask)] = &events[..] else { panic!("a question: {events:?}") };
        assert_eq!((ask.request_id.as_str(), ask.tool_use_id.as_str(), ask.kind), ("r-1.7", "t", AskKind::ClientTool));
        assert_eq!((ask.tool_name.as_str(), &ask.input), ("price", &json!({"item": "melon"})));
        let line: Value = serde_json::from_str(&result(&ask.request_id, "3", true)).expect("JSON");
        assert_eq!(line["response"]["request_id"], "r-1");
        assert_eq!(
            line["response"]["response"]["mcp_response"],
            json!({"jsonrpc": "2.0", "id": 7, "result": {"content": [{"type": "text", "text": "3"}], "isError": true}})
        );
        let cancel = json!({"method": "notifications/cancelled", "params": {"requestId": 7}});
        let events = send(&mut server, cancel.clone());
        assert!(matches!(&events[..], [Event::Withdrawn { request_id }, Event::Reply { .. }] if request_id == "r-1.7"));
        assert!(matches!(&send(&mut server, cancel)[..], [Event::Reply { .. }]), "it is withdrawn once");
    }

    #[test]
    fn the_last_calls_are_known_however_many_there_were() {
        let mut server = server();
        let call = |id: usize| json!({"id": id, "method": "tools/call", "params": {"name": "price"}});
        for id in 0..=MOST_CALLS {
            assert!(matches!(&send(&mut server, call(id))[..], [Event::Ask(_)]));
        }
        let mut withdrawn = |id: usize| {
            let cancel = json!({"method": "notifications/cancelled", "params": {"requestId": id}});
            send(&mut server, cancel).len() == 2
        };
        assert!(withdrawn(MOST_CALLS) && withdrawn(1) && !withdrawn(0));
    }

    #[test]
    fn what_was_not_declared_is_not_asked() {
        let mut server = server();
        for params in [json!({"name": "other"}), json!({}), json!({"name": "price"})] {
            let id = if params["name"] == "price" { json!("text") } else { json!(1) };
            let told = answer(&send(&mut server, json!({"id": id, "method": "tools/call", "params": params})));
            assert_eq!(told["error"]["code"], BAD_PARAMS);
        }
        let request =
            json!({"subtype": "mcp_message", "server_name": "other", "message": {"id": 1, "method": "tools/list"}});
        assert_eq!(server.message("r", &request), None);
        let ours =
            json!({"subtype": "mcp_message", "server_name": SERVER, "message": {"id": 1, "method": "tools/list"}});
        assert_eq!(Server::default().message("r", &ours), None, "nothing was declared");
    }
}
