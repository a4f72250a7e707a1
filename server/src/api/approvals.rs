//! What a run waits for: tools for which somebody's consent is needed, questions of the model's, and results of the caller's tools.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::{Extension, Json};
use nagaya_driver::{Answer, AskKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::auth::{Caller, TenantScope};
use super::conversations::ConversationPath;
use super::error::{ApiError, Code, ErrorEnvelope};
use super::extract::{ApiJson, ApiPath};
use crate::conversation::approvals::{DecideError, Decision, Pending};
use crate::conversation::asked::{Asked, Resolution};

/// Longest text that the model is told, or is given as an answer, in bytes.
const LONGEST_TEXT: usize = 20_000;

/// Path of a route that concerns one approval.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct ApprovalPath {
    /// Id of the conversation's tenant.
    #[allow(dead_code, reason = "TenantScope reads it and checks that the caller may use it")]
    tenant_id: String,
    /// Id of the conversation.
    conversation_id: String,
    /// Id of the question: `request_id` of the event.
    #[param(max_length = 256)]
    approval_id: String,
}

/// What the conversation's run waits for, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Approvals {
    /// What the run waits for; empty while no run is in progress.
    approvals: Vec<Approval>,
}

/// Something that a run waits for.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Approval {
    kind: Kind,
    #[serde(flatten)]
    asked: Asked,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// Somebody's consent to the call of a tool.
    Approval,
    /// The user's answer to a question of the model's.
    Question,
    /// The result of a tool that the caller itself carries out.
    ToolRequest,
}

impl From<Pending> for Approval {
    fn from(pending: Pending) -> Self {
        let kind = match pending.ask.kind {
            AskKind::Approval => Kind::Approval,
            AskKind::Question => Kind::Question,
            AskKind::ClientTool => Kind::ToolRequest,
        };
        Self { kind, asked: pending.into() }
    }
}

/// A decision about what a run waits for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"decision": "allow"}))]
pub(super) struct DecisionRequest {
    decision: Verdict,
    /// With `allow`: arguments in the place of the model's.
    #[schema(value_type = Option<Object>)]
    updated_input: Option<serde_json::Map<String, Value>>,
    /// With `allow`, for a question: the answer to each of its `questions`, by the question's text. Several chosen labels are separated by
    /// commas.
    answers: Option<BTreeMap<String, String>>,
    /// With `deny`: what the model is told.
    #[schema(max_length = 20000)]
    message: Option<String>,
}

/// What somebody decides about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// The tool is called, or the question is answered.
    Allow,
    /// The tool is not called, or the question is not answered.
    Deny,
}

/// A decision that counts.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Decided {
    /// Id of the question.
    request_id: String,
    decision: Resolution,
    /// Who decided: `API_KEYS:n`, the id of a key, or `token:` and a token's subject; null if the time was up.
    by: Option<String>,
}

/// Lists what the conversation's run waits for. The list is empty while no run is in progress.
#[utoipa::path(get, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}/approvals", tag = "runs",
    params(ConversationPath),
    responses((status = 200, body = Approvals, description = "What the run waits for"), (status = 404, body = ErrorEnvelope)))]
pub(super) async fn list(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    ApiPath(path): ApiPath<ConversationPath>,
) -> Result<Json<Approvals>, ApiError> {
    app.store.conversation(&tenant, &path.conversation_id).await?;
    let pending = app.runs.pending_approvals(&path.conversation_id);
    Ok(Json(Approvals { approvals: pending.into_iter().map(Into::into).collect() }))
}

/// Decides what the conversation's run waits for. The same decision again is answered in the same way; another one is refused.
#[utoipa::path(post, path = "/api/tenants/{tenant_id}/conversations/{conversation_id}/approvals/{approval_id}", tag = "runs",
    params(ApprovalPath), request_body = DecisionRequest,
    responses((status = 200, body = Decided, description = "The decision that counts"), (status = 404, body = ErrorEnvelope),
        (status = 409, body = ErrorEnvelope, description = "It was decided otherwise, its time was up, or the run no longer waits for it"),
        (status = 422, body = ErrorEnvelope)))]
pub(super) async fn decide(
    TenantScope(tenant): TenantScope,
    State(app): State<AppState>,
    Extension(caller): Extension<Caller>,
    ApiPath(path): ApiPath<ApprovalPath>,
    ApiJson(request): ApiJson<DecisionRequest>,
) -> Result<Json<Decided>, ApiError> {
    app.store.conversation(&tenant, &path.conversation_id).await?;
    let ask = app.runs.asked(&path.conversation_id, &path.approval_id).await;
    let ask = ask.map_err(|error| ApiError::internal(&error))?;
    let ask = ask.filter(|ask| ask.kind != AskKind::ClientTool).ok_or_else(|| ApiError::not_found("approval"))?;
    let answer = match request.decision {
        Verdict::Deny => {
            let unused = [("updated_input", request.updated_input.is_some()), ("answers", request.answers.is_some())];
            refuse_fields(&unused, "is accepted with the decision allow")?;
            let message =
                request.message.unwrap_or_else(|| "The user has refused this. Do something else, or end.".into());
            if message.len() > LONGEST_TEXT {
                return Err(ApiError::invalid("message", format!("must have at most {LONGEST_TEXT} bytes")));
            }
            Answer::Deny { message }
        }
        Verdict::Allow => {
            refuse_fields(&[("message", request.message.is_some())], "is accepted with the decision deny")?;
            match (request.answers, ask.kind == AskKind::Question) {
                (Some(_), false) => {
                    return Err(ApiError::invalid("answers", "is accepted for a question; this is a tool"));
                }
                (None, true) if request.updated_input.is_none() => {
                    return Err(ApiError::invalid("answers", "must have an answer to each of the questions"));
                }
                (Some(given), true) => {
                    let driver = app.runs.driver();
                    check_answers(&driver.questions(&ask), &given)?;
                    driver.answers(&ask, &|question| given.get(question).cloned())
                }
                (None, _) => Answer::Allow { updated_input: request.updated_input.map(Value::Object) },
            }
        }
    };
    let decision = Decision { answer, by: Some(caller.credential.to_string()) };
    let decided = app.runs.decide(&path.conversation_id, &path.approval_id, decision).await?;
    Ok(Json(Decided { request_id: path.approval_id, decision: Resolution::of(&decided), by: decided.by }))
}

fn refuse_fields(given: &[(&str, bool)], why: &str) -> Result<(), ApiError> {
    match given.iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(ApiError::invalid(*name, why)),
        None => Ok(()),
    }
}

/// Each of the questions has an answer, and there is no other answer.
fn check_answers(asked: &[&str], given: &BTreeMap<String, String>) -> Result<(), ApiError> {
    if let Some(question) = asked.iter().find(|question| !given.contains_key(**question)) {
        return Err(ApiError::invalid("answers", format!("must have an answer to {question:?}")));
    }
    if let Some(other) = given.keys().find(|question| !asked.contains(&question.as_str())) {
        return Err(ApiError::invalid("answers", format!("{other:?} is not one of the questions")));
    }
    if given.values().map(String::len).sum::<usize>() > LONGEST_TEXT {
        return Err(ApiError::invalid("answers", format!("must have at most {LONGEST_TEXT} bytes together")));
    }
    Ok(())
}

impl From<DecideError> for ApiError {
    fn from(error: DecideError) -> Self {
        match error {
            DecideError::Unknown => Self::not_found("question"),
            DecideError::Otherwise | DecideError::Late(_) | DecideError::Withdrawn => {
                Self::new(Code::Conflict, error.to_string())
            }
            DecideError::Journal(error) => Self::internal(&error),
        }
    }
}
