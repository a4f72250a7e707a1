//! The decision about a request or tunnel: the only place where it is made.

use std::sync::Arc;

use super::asked::Asked;
use super::rules::{Applies, Verdict, cut};
use super::{Layer, Policy};
use crate::answer::Refusal;
use crate::credentials::{Api, Credential, Operation, When, segment_text};
use crate::model::ModelPolicy;

/// What every policy is held within: the operator's rules and credentials.
#[derive(Clone, Copy)]
pub(crate) struct Ground<'p> {
    pub(crate) operator: &'p Layer,
    pub(crate) credentials: &'p [Arc<Credential>],
}

/// A decision, and what it rests on.
pub(crate) struct Decided<'p> {
    /// The layer and the rule that decided; of an allowed request, those of the innermost layer.
    pub(crate) layer: Option<&'p Arc<str>>,
    pub(crate) rule: Option<&'p str>,
    /// The credential that the request gets, or that refuses it.
    pub(crate) credential: Option<&'p Arc<Credential>>,
    pub(crate) operation: Option<&'p Operation>,
    pub(crate) ruling: Result<Ruling<'p>, Refusal>,
}

/// How an allowed request is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ruling<'p> {
    /// Whether it is sent by TLS although it came without.
    pub(crate) tls: bool,
    pub(crate) port: u16,
    pub(crate) credential: Option<&'p Arc<Credential>>,
    /// What its body is read for.
    pub(crate) inspect: Option<Inspect<'p>>,
}

/// A body to read before it is sent, and the rules for what is in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inspect<'p> {
    pub(crate) models: &'p ModelPolicy,
    pub(crate) api: Api,
}

/// The credential of a request.
enum Match<'p> {
    /// No credential is for the host.
    None,
    /// One is for the host, none for this request.
    HostOnly,
    Found(&'p Arc<Credential>),
    /// Whether this one is for the request depends on who reads it.
    Unknown(&'p Arc<Credential>, &'static str),
}

/// Decides about a request or tunnel. `running` tells whether a run is active.
pub(crate) fn decide<'p>(ground: Ground<'p>, policy: &'p Policy, running: bool, asked: &Asked<'_>) -> Decided<'p> {
    let mut decided =
        Decided { layer: None, rule: None, credential: None, operation: None, ruling: Err(Refusal::denied("closed")) };
    if policy.closed {
        decided.layer = Some(&policy.name);
        return decided;
    }
    let found = find(ground, policy, asked);
    // Credentials are sent over TLS only, so port 80 becomes 443.
    let tls = !matches!(found, Match::None) && asked.call.is_some();
    let port = if tls && asked.port == 80 { 443 } else { asked.port };
    for layer in std::iter::once(ground.operator).chain(&policy.layers) {
        decided.layer = Some(&layer.name);
        match layer.rules.judge(asked, port) {
            Verdict::Allowed(rule) => decided.rule = Some(rule),
            Verdict::Denied("not_allowed", None) if layer.allows_rest => decided.rule = None,
            Verdict::Denied(reason, rule) => {
                decided.rule = rule;
                decided.ruling = Err(Refusal::denied(reason));
                return decided;
            }
        }
    }
    decided.ruling = with_credential(policy, running, asked, &found, &mut decided.credential, &mut decided.operation)
        .map(|(credential, inspect)| Ruling { tls, port, credential, inspect });
    decided
}

/// The first credential for a request: the policy's, then the operator's.
fn find<'p>(ground: Ground<'p>, policy: &'p Policy, asked: &Asked<'_>) -> Match<'p> {
    // A credential without a port is for every port; one with a port is compared with that of TLS.
    let port = if asked.call.is_some() && asked.port == 80 { 443 } else { asked.port };
    let mut found = Match::None;
    for credential in policy.credentials.iter().chain(ground.credentials) {
        if !credential.is_for(asked.host, port) {
            continue;
        }
        found = Match::HostOnly;
        let Some(call) = &asked.call else { break };
        match credential.covers(call) {
            Applies::Yes => return Match::Found(credential),
            Applies::Unknown(reason) => return Match::Unknown(credential, reason),
            Applies::No(_) => {}
        }
    }
    found
}

type Sent<'p> = (Option<&'p Arc<Credential>>, Option<Inspect<'p>>);

/// Decides about the credential, the operation and the model of a request that all layers allow.
fn with_credential<'p>(
    policy: &'p Policy,
    running: bool,
    asked: &Asked<'_>,
    found: &Match<'p>,
    noted: &mut Option<&'p Arc<Credential>>,
    operation: &mut Option<&'p Operation>,
) -> Result<Sent<'p>, Refusal> {
    let endpoint = policy.models.as_ref().and_then(|models| models.endpoint(asked.host));
    let Some(call) = &asked.call else {
        return match (found, endpoint) {
            // The proxy could not see the requests in the tunnel, for example those with a client's own account.
            (Match::HostOnly | Match::Found(_) | Match::Unknown(..), _) => Err(Refusal::denied("credential_host")),
            (Match::None, Some(_)) => Err(Refusal::denied("tunnel_not_inspectable")),
            (Match::None, None) => Ok((None, None)),
        };
    };
    let credential = match *found {
        Match::Unknown(credential, reason) => {
            *noted = Some(credential);
            return Err(Refusal::denied(reason));
        }
        Match::Found(credential) => Some(credential),
        Match::None | Match::HostOnly => None,
    };
    *noted = credential;
    if credential.is_some_and(|credential| credential.when == When::Run && !running) {
        return Err(Refusal::denied("no_run"));
    }
    let listed = credential.map(|credential| &credential.operations).filter(|operations| !operations.are_any());
    // A policy's endpoint is a model's whichever credential is used, also a client's own.
    let Some(operations) = listed.or(endpoint) else { return Ok((credential, None)) };
    // A server that takes method or path from a header is asked for another operation than the one that is compared.
    if call.overrides_method() {
        return Err(Refusal::denied("method_override"));
    }
    if call.overrides_path() {
        return Err(Refusal::denied("path_override"));
    }
    let Some((asked_for, captured)) = operations.find(call.method, call.path) else {
        let named = cut(&format!("{} {}", call.method, call.path));
        return Err(Refusal::denied("operation_not_allowed").about(&named));
    };
    *operation = Some(asked_for);
    let Some(api) = asked_for.api else { return Ok((credential, None)) };
    if !running {
        return Err(Refusal::denied("no_run"));
    }
    let Some(models) = &policy.models else { return Ok((credential, None)) };
    if api != Api::Messages {
        models.check(&captured.and_then(segment_text).unwrap_or_default())?;
    }
    let inspect = (api != Api::BedrockCount).then_some(Inspect { models, api });
    Ok((credential, inspect))
}
