//! Explanations: what would happen to a request, and why. They are made by the function that decides about requests.

use http::Method;

use super::asked::Asked;
use super::decide::{Ground, decide};
use super::{Policy, PolicyError};
use crate::target::Target;

/// A request that might be made.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// The URL, with `http` or `https`.
    pub url: String,
    /// The method, as it would be sent.
    pub method: String,
    /// Whether a run is active.
    pub running: bool,
    /// The model that the body names, for the Messages API.
    pub model: Option<String>,
}

/// What would happen to a request, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Whether it would be sent.
    pub allowed: bool,
    /// Why not, as in answers and records.
    pub reason: Option<&'static str>,
    /// The same in a sentence.
    pub message: Option<String>,
    /// The layer that decided; of an allowed request, the innermost one.
    pub layer: Option<String>,
    /// That layer's rule, as it was configured; `None` where none matched.
    pub rule: Option<String>,
    /// Name of the credential that the request would get, or that refuses it.
    pub credential: Option<String>,
    /// The operation that it asks for, where the credential has a list.
    pub operation: Option<String>,
    /// The port that would be connected to.
    pub port: u16,
    /// What the decision leaves open, and what would be different.
    pub notes: Vec<String>,
}

/// Explains what a policy does with a request.
pub(crate) fn explain(ground: Ground<'_>, policy: &Policy, question: &Question) -> Result<Explanation, PolicyError> {
    let bad = |message: &str| PolicyError::new("url", message);
    let accepted = "accepted: http://host/path or https://host/path";
    let (scheme, rest) = question.url.split_once("://").ok_or_else(|| bad(accepted))?;
    let secure = scheme.eq_ignore_ascii_case("https");
    if !secure && !scheme.eq_ignore_ascii_case("http") {
        return Err(bad(accepted));
    }
    let method =
        Method::from_bytes(question.method.as_bytes()).ok().filter(|method| *method != Method::CONNECT).ok_or_else(
            || PolicyError::new("method", "accepted: a method, for example GET; a tunnel is what https asks for"),
        )?;
    let (mut target, path) = Target::of_url(rest, if secure { 443 } else { 80 }).map_err(|why| bad(why.message()))?;
    if secure {
        target.form = crate::target::Form::Connect;
    }
    let asked = Asked::new(&target, method.as_str(), &path, None);
    let decided = decide(ground, policy, question.running, &asked);
    let mut notes = Vec::new();
    let (mut refusal, mut port) = (None, target.port);
    match decided.ruling {
        Ok(ruling) => {
            port = ruling.port;
            if let Some(inspect) = ruling.inspect {
                match &question.model {
                    Some(model) => refusal = inspect.models.check(model).err(),
                    None => {
                        notes.push("the body must name an allowed model and no server tool that is not allowed".into());
                    }
                }
            }
            if ruling.tls {
                notes.push("it is sent by TLS".into());
            }
        }
        Err(why) => refusal = Some(why),
    }
    if secure {
        notes.push("https is a tunnel: neither methods nor paths are seen, and no credential is added; ask for http to get one".into());
    }
    if refusal.is_none() {
        notes.push("the address is checked when the host is connected to".into());
    }
    Ok(Explanation {
        allowed: refusal.is_none(),
        reason: refusal.as_ref().and_then(|why| why.decision.reason()),
        message: refusal.as_ref().map(|why| why.message().to_owned()),
        layer: decided.layer.map(ToString::to_string),
        rule: decided.rule.map(str::to_owned),
        credential: decided.credential.map(|credential| credential.name.to_string()),
        operation: decided.operation.map(|operation| operation.name.to_string()),
        port,
        notes,
    })
}
