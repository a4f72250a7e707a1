//! Tools that the caller itself carries out: their declaration with a run, and their results.

use std::collections::HashSet;

use axum::extract::State;
use axum::{Extension, Json};
use nagaya_driver::{Answer, AskKind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::auth::{Caller, TenantScope};
use super::error::{ApiError, Detail, ErrorEnvelope};
use super::extract::{ApiJson, ApiPath};
use crate::conversation::approvals::Decision;
use crate::conversation::asked::Resolution;

/// Tools that a run may declare.
const MOST_TOOLS: usize = 64;
/// Length of a tool's name. With the prefix that the driver adds, it is within the limit of the models' APIs, which is 64.
const LONGEST_NAME: usize = 50;
/// Size of all declarations of a run as JSON, in bytes.
const LARGEST_TOOLS: usize = 64 * 1024;
/// Length of a result, in bytes.
const LONGEST_RESULT: usize = 200_000;

/// A tool that the caller itself carries out: when the model calls it, the run's stream has the event `tool_request`, and waits for the result.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "price", "description": "The price of an item of the shop", "input_schema": {"type": "object",
    "properties": {"item": {"type": "string", "description": "Name of the item"}}, "required": ["item"]}}))]
pub(super) struct ClientTool {
    /// Name of the tool: up to 50 letters, digits, '-' and single '_'. The model knows it as `mcp__client__NAME`.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,50}$")]
    name: String,
    /// What the tool does and when it is to be used, for the model.
    #[schema(min_length = 1, max_length = 10_000)]
    description: String,
    /// JSON Schema of the tool's arguments, with `"type": "object"`.
    #[schema(value_type = Object)]
    input_schema: Map<String, Value>,
}

impl From<ClientTool> for nagaya_driver::ClientTool {
    fn from(ClientTool { name, description, input_schema }: ClientTool) -> Self {
        Self { name, description, input_schema: Value::Object(input_schema) }
    }
}

/// Checks the tools that a run declares.
pub(super) fn check(tools: &[ClientTool]) -> Result<(), ApiError> {
    let mut details = Vec::new();
    let mut require = |holds: bool, field: String, message: &str| {
        if !holds {
            details.push(Detail { field, message: message.to_owned() });
        }
    };
    require(tools.len() <= MOST_TOOLS, "client_tools".into(), &format!("must be at most {MOST_TOOLS}"));
    let bytes = serde_json::to_vec(tools).map_or(usize::MAX, |text| text.len());
    let few = format!("must have at most {LARGEST_TOOLS} bytes as JSON");
    require(bytes <= LARGEST_TOOLS, "client_tools".into(), &few);
    let mut seen = HashSet::new();
    for (at, ClientTool { name, description, input_schema }) in tools.iter().enumerate().take(MOST_TOOLS) {
        let place = |field: &str| format!("client_tools[{at}].{field}");
        let accepted = "must be 1 to 50 letters, digits, '-' and single '_', which begin with a letter or digit";
        require(is_name(name), place("name"), accepted);
        require(seen.insert(name), place("name"), "is given twice");
        let described = !description.trim().is_empty() && !description.contains('\0') && description.len() <= 10_000;
        require(described, place("description"), "must be 1 to 10000 bytes, not white space alone");
        let object = input_schema.get("type").is_some_and(|kind| kind == "object");
        require(object, place("input_schema"), "must be a JSON Schema with \"type\": \"object\"");
    }
    if details.is_empty() { Ok(()) } else { Err(ApiError::invalid_fields(details)) }
}

/// Two underscores separate the names of server and tool.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (1..=LONGEST_NAME).contains(&name.len())
        && name.bytes().all(plain)
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && !name.contains("__")
        && !name.ends_with('_')
}

/// Path of a route that concerns one call of a caller's tool.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct ToolRequestPath {
    /// Id of the conversation's tenant.
    #[allow(dead_code, reason = "TenantScope reads it and checks that the caller may use it")]
    tenant_id: String,
    /// Id of the conversation.
    conversation_id: String,
    /// Id of the request: `request_id` of the event.
    #[param(max_length = 256)]
    request_id: String,
}

/// The result of a tool that the caller has carried out.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"content": "3.20 EUR"}))]
pub(super) struct ToolResult {
    /// What the model is told, up to 200,000 bytes.
    #[schema(max_length = 200_000)]
    content: String,
    /// Whether the tool has failed; default false.
    #[serde(default)]
    is_error: bool,
}

/// A result that counts.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Answered {
    /// Id of the request.
    request_id: String,
    outcome: Resolution,
    /// Who sent the result: `API_KEYS:n`, the id of a key, or `token:` and a token's subject; null if the time was up.
    by: Option<String>,
}

/// Sends the result of a tool that the model has called and the caller has carried out. The same result again is answered in the same way;
/// another one is refused.
#[utoipa::path(post, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}/tool-results/{request_id}", tag = "runs",
    params(ToolRequestPath), request_body = ToolResult,
    responses((status = 200, body = Answered, description = "The result that counts"), (status = 404, body = ErrorEnvelope),
        (status = 409, body = ErrorEnvelope, description = "The request has another result, or the run no longer waits for it"),
        (status = 422, body = ErrorEnvelope)))]
pub(super) async fn answer(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    Extension(caller): Extension<Caller>,
    ApiPath(path): ApiPath<ToolRequestPath>,
    ApiJson(ToolResult { content, is_error }): ApiJson<ToolResult>,
) -> Result<Json<Answered>, ApiError> {
    app.store.conversation(&tenant, &path.conversation_id).await?;
    let ask = app.runs.asked(&path.conversation_id, &path.request_id).await;
    let ask = ask.map_err(|error| ApiError::internal(&error))?;
    if ask.is_none_or(|ask| ask.kind != AskKind::ClientTool) {
        return Err(ApiError::not_found("tool request"));
    }
    if content.len() > LONGEST_RESULT || content.contains('\0') {
        return Err(ApiError::invalid(
            "content",
            format!("must have at most {LONGEST_RESULT} bytes, none of them NUL"),
        ));
    }
    let decision = Decision { answer: Answer::Result { content, is_error }, by: Some(caller.credential.to_string()) };
    let counts = app.runs.decide(&path.conversation_id, &path.request_id, decision).await?;
    Ok(Json(Answered { request_id: path.request_id, outcome: Resolution::of(&counts), by: counts.by }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tool(name: &str) -> Value {
        json!({"name": name, "description": "d", "input_schema": {"type": "object"}})
    }

    fn problems(tools: Value) -> Vec<String> {
        let tools: Vec<ClientTool> = serde_json::from_value(tools).expect("tools");
        let fields = |error: ApiError| error.details().iter().map(|detail| detail.field.clone()).collect();
        check(&tools).map_or_else(fields, |()| Vec::new())
    }

    #[test]
    fn declarations_are_checked_with_their_place() {
        assert_eq!(problems(json!([tool("price"), tool("my-tool_2")])), Vec::<String>::new());
        for bad in ["", "a b", "a__b", "_a", "a_", "ä", &"a".repeat(51)] {
            assert_eq!(problems(json!([tool("ok"), tool(bad)])), ["client_tools[1].name"], "{bad}");
        }
        assert_eq!(problems(json!([tool("a"), tool("a")])), ["client_tools[1].name"]);
        let bad = json!([{"name": "a", "description": " ", "input_schema": {"type": "string"}}]);
        assert_eq!(problems(bad), ["client_tools[0].description", "client_tools[0].input_schema"]);
        let many: Vec<Value> = (0..65).map(|n| tool(&n.to_string())).collect();
        assert_eq!(problems(json!(many)), ["client_tools"]);
        let large: Vec<Value> = (0..10)
            .map(|n| json!({"name": format!("t{n}"), "description": "d".repeat(8_000), "input_schema": {"type": "object"}}))
            .collect();
        assert_eq!(problems(json!(large)), ["client_tools"]);
    }

    #[test]
    fn limits_are_exact() {
        let many = |count: usize| json!((0..count).map(|n| tool(&n.to_string())).collect::<Vec<_>>());
        let described = |description: String| json!([{"name": "a", "description": description, "input_schema": {"type": "object"}}]);
        let sized = |bytes: usize| {
            let mut tool = tool("a");
            tool["input_schema"]["title"] = json!("");
            let least = json!([tool]).to_string().len();
            tool["input_schema"]["title"] = json!("x".repeat(bytes - least));
            json!([tool])
        };
        let named = |name: &str| json!([tool(name)]);
        for (fits, exceeds) in [
            (many(MOST_TOOLS), many(MOST_TOOLS + 1)),
            (described("d".repeat(10_000)), described("d".repeat(10_001))),
            (described("d".into()), described("a\0".into())),
            (sized(LARGEST_TOOLS), sized(LARGEST_TOOLS + 1)),
            (named(&"a".repeat(LONGEST_NAME)), named(&"a".repeat(LONGEST_NAME + 1))),
            (named("1"), named("-1")),
        ] {
            assert_eq!(problems(fits), Vec::<String>::new());
            assert_eq!(problems(exceeds).len(), 1);
        }
    }
}
