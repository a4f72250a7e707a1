//! Servers of the Model Context Protocol that cannot be used.
//!
//! The CLI lists each server with its state at the beginning of a turn. It waits up to 30 s (`MCP_TIMEOUT`) until they are connected; the state of one that
//! takes longer is `pending`. What becomes of that it only tells when it is asked (`mcp_status`).
//!
//! A server that fails while the CLI runs is listed as connected all the same; what has happened is only in the result of the tool that
//! was called, as a text.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::client_tools;
use super::mapping::text;
use crate::event::Event;

/// States of servers of which there is nothing to tell, or not yet.
const CONNECTED: &str = "connected";
const PENDING: &str = "pending";
/// How often the CLI is asked in one turn what has become of servers.
const MOST_ASKED: u32 = 30;
/// How many servers are waited for. A configuration has no more; what the workspace says is a claim.
const MOST_AWAITED: usize = 100;
/// Longest name of one, in bytes.
const LONGEST_NAME: usize = 256;

/// The state of each server of a list.
pub(super) fn states(servers: &Value) -> impl Iterator<Item = Event> {
    servers.as_array().into_iter().flatten().map(|server| Event::McpServer {
        name: text(&server["name"]).unwrap_or_default(),
        status: text(&server["status"]).unwrap_or_else(|| "unknown".into()),
    })
}

/// The servers of a turn for which the CLI still waits.
#[derive(Debug, Default)]
pub(super) struct Awaited {
    servers: BTreeSet<String>,
    asked: u32,
    /// Whether the CLI has been asked and has not said anything yet.
    open: bool,
    /// Whether the model has begun to answer in this turn.
    answers: bool,
}

impl Awaited {
    /// The events that this one means: what becomes of a server is told once it is known, and of one that is still not connected at the end of
    /// the turn, that. `turn` is unique to the turn.
    pub(super) fn follow(&mut self, event: Event, turn: &str) -> Vec<Event> {
        match event {
            Event::McpServer { name, status } if status == PENDING => {
                self.open = false;
                if self.servers.len() < MOST_AWAITED && name.len() <= LONGEST_NAME {
                    self.servers.insert(name);
                }
                Vec::new()
            }
            Event::McpServer { name, status } => {
                self.open = false;
                self.servers.remove(&name);
                let told = status != CONNECTED;
                told.then_some(Event::McpServer { name, status }).into_iter().collect()
            }
            // The model has answered, or needs something: by now it may be known.
            Event::Assistant { .. } | Event::ToolUse { .. } | Event::ToolResult { .. } => {
                let ask = self.ask(turn);
                [event].into_iter().chain(ask).collect()
            }
            Event::TextDelta { .. } if !self.answers => {
                self.answers = true;
                let ask = self.ask(turn);
                [event].into_iter().chain(ask).collect()
            }
            Event::Result(_) => {
                (self.open, self.answers) = (false, false);
                let left = std::mem::take(&mut self.servers).into_iter();
                let left = left.map(|name| Event::McpServer { name, status: PENDING.into() });
                left.chain([event]).collect()
            }
            event => vec![event],
        }
    }

    fn ask(&mut self, turn: &str) -> Option<Event> {
        if self.servers.is_empty() || self.open || self.asked >= MOST_ASKED {
            return None;
        }
        self.asked += 1;
        self.open = true;
        let id = format!("{turn}-mcp-status-{}", self.asked);
        let line =
            json!({"type": "control_request", "request_id": id, "request": {"subtype": "mcp_status"}}).to_string();
        Some(Event::Reply { id, lines: vec![line] })
    }
}

/// Prefix of the names of tools that a server has: `mcp__SERVER__TOOL`.
const PREFIX: &str = "mcp__";
/// How the CLI's text begins where the server has refused the credential, and the sign-in that the CLI tries then has failed.
const UNAUTHORISED: [&str; 1] = ["Dynamic Client Registration rejected"];
/// How it begins where the server has not answered, or with a status that is no success.
const UNREACHABLE: [&str; 7] = [
    "Error POSTing to endpoint:",
    "Streamable HTTP error:",
    "MCP error -32000: Connection closed",
    "MCP error -32001: Request timed out",
    "ECONNREFUSED:",
    "ECONNRESET:",
    "ETIMEDOUT:",
];

/// The server of this tool and its state, in the CLI's words for servers that fail at its start, if the result of the failed call says that
/// the server has failed. `None` where the tool itself reports an error, and for the caller's own tools.
pub(super) fn failed<'t>(tool: &'t str, result: &str) -> Option<(&'t str, &'static str)> {
    let (server, _) = tool.strip_prefix(PREFIX)?.split_once("__")?;
    if server == client_tools::SERVER {
        return None;
    }
    // The CLI says this once it has given the server up, or cannot read its answer; further words say what to do.
    let about_it = result.strip_prefix("MCP server \"").and_then(|rest| rest.strip_prefix(server)?.strip_prefix("\" "));
    let begins = |texts: &[&str]| texts.iter().any(|text| result.starts_with(text));
    if begins(&UNAUTHORISED) || about_it.is_some_and(|text| text.starts_with("requires")) {
        return Some((server, "needs-auth"));
    }
    (about_it.is_some() || begins(&UNREACHABLE)).then_some((server, "failed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::TurnResult;

    fn server(name: &str, status: &str) -> Event {
        Event::McpServer { name: name.into(), status: status.into() }
    }

    fn text() -> Event {
        Event::Assistant { content_blocks: Vec::new(), parent_tool_use_id: None }
    }

    fn ids(events: &[Event]) -> Vec<&str> {
        events
            .iter()
            .filter_map(|event| if let Event::Reply { id, .. } = event { Some(id.as_str()) } else { None })
            .collect()
    }

    #[test]
    fn what_becomes_of_a_server_that_is_not_connected_yet_is_asked_and_told() {
        let mut awaited = Awaited::default();
        assert_eq!(awaited.follow(text(), "t"), [text()], "nothing is asked where nothing is open");
        for (name, status, told) in
            [("up", "connected", 0), ("down", "failed", 1), ("slow", "pending", 0), ("late", "pending", 0)]
        {
            assert_eq!(awaited.follow(server(name, status), "t").len(), told, "{name}");
        }
        let asked = awaited.follow(text(), "t");
        assert_eq!((ids(&asked), asked.len()), (vec!["t-mcp-status-1"], 2));
        assert_eq!(awaited.follow(text(), "t"), [text()], "it is asked again only once it has answered");
        for status in ["connected", "pending"] {
            assert_eq!(awaited.follow(server("late", status), "t"), []);
            assert_eq!(awaited.follow(server("slow", "pending"), "t"), []);
        }
        assert_eq!(ids(&awaited.follow(text(), "t")), ["t-mcp-status-2"]);
        assert_eq!(awaited.follow(server("slow", "failed"), "t"), [server("slow", "failed")]);
        let result = || Event::Result(TurnResult::default());
        assert_eq!(awaited.follow(result(), "t"), [server("late", "pending"), result()]);
        assert_eq!(awaited.follow(result(), "t"), [result()]);
        assert_eq!(ids(&awaited.follow(text(), "t")), [""; 0]);
    }

    #[test]
    fn the_beginning_of_an_answer_is_a_moment_to_ask_as_well() {
        let mut awaited = Awaited::default();
        awaited.follow(server("slow", "pending"), "t");
        let delta = || Event::TextDelta { text: "a".into() };
        assert_eq!(ids(&awaited.follow(delta(), "t")), ["t-mcp-status-1"]);
        awaited.follow(server("slow", "pending"), "t");
        assert_eq!(awaited.follow(delta(), "t"), [delta()]);
    }

    #[test]
    fn so_many_servers_are_waited_for_and_no_longer_names() {
        let mut awaited = Awaited::default();
        awaited.follow(server(&"n".repeat(LONGEST_NAME + 1), "pending"), "t");
        for number in 0..2 * MOST_AWAITED {
            awaited.follow(server(&format!("{number:0LONGEST_NAME$}"), "pending"), "t");
        }
        assert_eq!(awaited.servers.len(), MOST_AWAITED);
    }

    #[test]
    fn the_driver_is_asked_a_limited_number_of_times() {
        let mut awaited = Awaited::default();
        awaited.follow(server("slow", "pending"), "t");
        let mut ask = || {
            let asked = ids(&awaited.follow(text(), "t")).len();
            awaited.follow(server("slow", "pending"), "t");
            asked
        };
        let asked: usize = (0..2 * MOST_ASKED).map(|_| ask()).sum();
        assert_eq!(asked, MOST_ASKED as usize);
    }

    #[test]
    fn states_are_read_from_a_list() {
        let listed = json!([{"name": "a", "status": "needs-auth"}, {"name": "b"}]);
        assert_eq!(Vec::from_iter(states(&listed)), [server("a", "needs-auth"), server("b", "unknown")]);
        assert_eq!(states(&Value::Null).count(), 0);
    }

    #[test]
    fn a_server_that_has_failed_is_told_from_a_tool_that_has() {
        let failed = |result| failed("mcp__sums__add", result);
        // As CLI 2.1.331 says it, or the library with which it speaks to servers.
        for (result, status) in [
            ("Dynamic Client Registration rejected (HTTP 401): {\"error\": \"no\"}", "needs-auth"),
            ("Error POSTing to endpoint: <html>Bad gateway</html>", "failed"),
            ("ECONNREFUSED: Unable to connect. Is the computer able to access the url?", "failed"),
            ("MCP server \"sums\" returned a malformed result that failed schema validation: [", "failed"),
            ("MCP server \"sums\" requires authorization: its", "needs-auth"),
            ("ECONNRESET: The socket connection was closed unexpectedly. For more information, pass", "failed"),
            ("MCP server \"sums\" is not connected", "failed"),
            ("Streamable HTTP error: Failed to open SSE stream: Bad Gateway", "failed"),
            ("MCP error -32000: Connection closed", "failed"),
            ("MCP error -32001: Request timed out", "failed"),
            ("ETIMEDOUT: connect", "failed"),
            ("MCP server \"sums\" connection closed before the tool call was answered. The tool may", "failed"),
        ] {
            assert_eq!(failed(result), Some(("sums", status)), "{result}");
        }
        // What a server says of its own work.
        for result in [
            "no such item",
            "",
            "The shop says: ECONNREFUSED",
            "MCP server \"other\" is not connected",
            "Unauthorized: no access to this project",
            "MCP error -32000: the shop is closed",
            "MCP error -320001: no",
            "ECONNREFUSED by the warehouse",
        ] {
            assert_eq!(failed(result), None, "{result}");
        }
    }

    #[test]
    fn only_tools_of_a_server_are_a_servers() {
        let gone = "ECONNREFUSED: Unable to connect.";
        assert_eq!(super::failed("mcp__my_shop__a__b", gone), Some(("my_shop", "failed")));
        for tool in ["Bash", "mcp__", "mcp__shop", "mcp__client__price", "unknown"] {
            assert_eq!(super::failed(tool, gone), None, "{tool}");
        }
    }
}
