//! Servers of the Model Context Protocol that fail while the CLI runs. It lists such a server as connected all the same; what has happened
//! is only in the result of the tool that was called, as a text.

use super::client_tools;

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
