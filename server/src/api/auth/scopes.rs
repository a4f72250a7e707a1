//! What a caller may do: the scopes of its key, and those that each route needs. A test compares the table with the API's description.

use std::fmt;

use axum::http::{HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};

use super::super::error::{ApiError, Code};
use super::METRICS_PATH;
use crate::conversation::store::Scope;

/// A set of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

/// Every scope, in the order in which they are listed.
pub const ALL: [Scope; 6] = [Scope::Run, Scope::Read, Scope::Files, Scope::Approve, Scope::Admin, Scope::Metrics];

impl Scopes {
    /// Every scope.
    pub const ALL: Self = Self(0b11_1111);

    /// All that a tenant's key may have.
    #[must_use]
    pub fn of_tenant() -> Self {
        ALL.into_iter().filter(|scope| *scope != Scope::Metrics).collect()
    }

    /// Whether a scope is in the set.
    #[must_use]
    pub fn contains(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u8) != 0
    }

    /// The scopes of this set that are not in the other one.
    #[must_use]
    pub fn beyond(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether no scope is in the set.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The scopes of the set, in their usual order.
    #[must_use]
    pub fn list(self) -> Vec<Scope> {
        ALL.into_iter().filter(|scope| self.contains(*scope)).collect()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<T: IntoIterator<Item = Scope>>(scopes: T) -> Self {
        Self(scopes.into_iter().fold(0, |set, scope| set | 1 << scope as u8))
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.list().into_iter().map(Scope::as_str).collect();
        f.write_str(&words.join(", "))
    }
}

/// The scopes of which one is needed.
type AnyOf = &'static [Scope];

const RUN: AnyOf = &[Scope::Run];
const READ: AnyOf = &[Scope::Read];
const FILES: AnyOf = &[Scope::Files];
const ADMIN: AnyOf = &[Scope::Admin];
/// Whoever starts a run may also follow it again after its connection was lost.
const FOLLOW: AnyOf = &[Scope::Read, Scope::Run];

const APPROVE: AnyOf = &[Scope::Approve];
/// Whoever follows a run sees what it waits for, and so does whoever decides.
const ASKED: AnyOf = &[Scope::Read, Scope::Run, Scope::Approve];

/// Every route that needs a key, with its methods and the scopes of which each needs one.
const TABLE: &[(&str, &[(Method, AnyOf)])] = &[
    (METRICS_PATH, &[(Method::GET, &[Scope::Metrics])]),
    ("/api/tenants", &[(Method::GET, READ), (Method::POST, ADMIN)]),
    ("/api/tenants/{tenant_id}", &[(Method::GET, READ), (Method::PUT, ADMIN), (Method::DELETE, ADMIN)]),
    ("/api/tenants/{tenant_id}/usage", &[(Method::GET, READ)]),
    ("/api/tenants/{tenant_id}/keys", &[(Method::GET, ADMIN), (Method::POST, ADMIN)]),
    ("/api/tenants/{tenant_id}/keys/{key_id}", &[(Method::GET, ADMIN), (Method::PUT, ADMIN), (Method::DELETE, ADMIN)]),
    ("/api/tenants/{tenant_id}/keys/{key_id}/rotate", &[(Method::POST, ADMIN)]),
    ("/api/models", &[(Method::GET, READ), (Method::POST, ADMIN)]),
    ("/api/models/{model_id}", &[(Method::GET, READ), (Method::PUT, ADMIN), (Method::DELETE, ADMIN)]),
    ("/api/models/{model_id}/status", &[(Method::PATCH, ADMIN)]),
    ("/api/tenants/{tenant_id}/conversations", &[(Method::GET, READ), (Method::POST, RUN)]),
    (
        "/api/tenants/{tenant_id}/conversations/{conversation_id}",
        &[(Method::GET, READ), (Method::PUT, RUN), (Method::DELETE, RUN)],
    ),
    ("/api/tenants/{tenant_id}/conversations/{conversation_id}/archive", &[(Method::POST, RUN)]),
    ("/api/tenants/{tenant_id}/conversations/{conversation_id}/log", &[(Method::GET, READ)]),
    ("/api/tenants/{tenant_id}/conversations/{conversation_id}/messages", &[(Method::GET, READ), (Method::POST, RUN)]),
    ("/api/tenants/{tenant_id}/conversations/{conversation_id}/workspace", &[(Method::DELETE, RUN)]),
    ("/api/tenants/{tenant_id}/conversations/{conversation_id}/stream", &[(Method::GET, FOLLOW), (Method::POST, RUN)]),
    ("/api/tenants/{tenant_id}/conversations/{conversation_id}/cancel", &[(Method::POST, RUN)]),
    ("/api/tenants/{tenant_id}/conversations/{conversation_id}/interrupt", &[(Method::POST, RUN)]),
    ("/api/tenants/{tenant_id}/conversations/{conversation_id}/approvals", &[(Method::GET, ASKED)]),
    ("/api/tenants/{tenant_id}/conversations/{conversation_id}/approvals/{approval_id}", &[(Method::POST, APPROVE)]),
    ("/api/tenants/{tenant_id}/conversations/{conversation_id}/tool-results/{request_id}", &[(Method::POST, RUN)]),
    (
        "/api/tenants/{tenant_id}/conversations/{conversation_id}/files",
        &[(Method::GET, FILES), (Method::PUT, FILES), (Method::DELETE, FILES)],
    ),
    ("/api/tenants/{tenant_id}/conversations/{conversation_id}/files/presented", &[(Method::GET, FILES)]),
    ("/api/tenants/{tenant_id}/conversations/{conversation_id}/files/download", &[(Method::GET, FILES)]),
    ("/api/tenants/{tenant_id}/configuration", &[(Method::GET, READ), (Method::PUT, ADMIN)]),
    ("/api/tenants/{tenant_id}/effective", &[(Method::GET, READ)]),
    ("/api/tenants/{tenant_id}/egress/explain", &[(Method::GET, READ)]),
    (
        "/api/tenants/{tenant_id}/conversations/{conversation_id}/configuration",
        &[(Method::GET, READ), (Method::PUT, RUN)],
    ),
    ("/api/tenants/{tenant_id}/conversations/{conversation_id}/effective", &[(Method::GET, READ)]),
    ("/api/schemas/configuration", &[(Method::GET, READ)]),
    ("/api/tenants/{tenant_id}/skills", &[(Method::GET, READ)]),
    ("/api/tenants/{tenant_id}/skills/{name}", &[(Method::PUT, ADMIN), (Method::DELETE, ADMIN)]),
    ("/api/tenants/{tenant_id}/vaults", &[(Method::GET, ADMIN), (Method::POST, ADMIN)]),
    ("/api/tenants/{tenant_id}/vaults/{vault_id}", &[(Method::GET, ADMIN), (Method::DELETE, ADMIN)]),
    ("/api/tenants/{tenant_id}/vaults/{vault_id}/credentials", &[(Method::GET, ADMIN), (Method::POST, ADMIN)]),
    (
        "/api/tenants/{tenant_id}/vaults/{vault_id}/credentials/{credential_id}",
        &[(Method::GET, ADMIN), (Method::PUT, ADMIN), (Method::DELETE, ADMIN)],
    ),
    ("/api/admin/vaults/rekey", &[(Method::POST, ADMIN)]),
    ("/api/admin/workspaces", &[(Method::GET, READ)]),
    ("/api/admin/workspaces/{workspace_id}", &[(Method::DELETE, ADMIN)]),
    ("/api/admin/pool", &[(Method::GET, READ), (Method::PUT, ADMIN)]),
    ("/api/admin/gc", &[(Method::POST, ADMIN)]),
    ("/api/admin/keys", &[(Method::GET, ADMIN), (Method::POST, ADMIN)]),
    ("/api/admin/keys/{key_id}", &[(Method::GET, ADMIN), (Method::PUT, ADMIN), (Method::DELETE, ADMIN)]),
    ("/api/admin/keys/{key_id}/rotate", &[(Method::POST, ADMIN)]),
];

/// The scopes of which a request to a route needs one. A route or method that is not in the table is refused, whoever asks.
///
/// # Errors
/// The answer to the request.
pub(super) fn needed(route: &str, method: &Method) -> Result<AnyOf, Box<Response>> {
    let Some((_, methods)) = TABLE.iter().find(|(known, _)| *known == route) else {
        return Err(Box::new(ApiError::internal(&format!("the route {route} has no scope")).into_response()));
    };
    let sought = if method == Method::HEAD { &Method::GET } else { method };
    methods.iter().find(|(known, _)| known == sought).map(|(_, scopes)| *scopes).ok_or_else(|| {
        let allowed: Vec<&str> = methods.iter().map(|(method, _)| method.as_str()).collect();
        let refusal = ApiError::new(Code::MethodNotAllowed, "the route does not support this method; see /docs");
        let mut response = refusal.into_response();
        if let Ok(allowed) = HeaderValue::from_str(&allowed.join(",").replace("GET", "GET,HEAD")) {
            response.headers_mut().insert(header::ALLOW, allowed);
        }
        Box::new(response)
    })
}

/// 403 for a caller that has none of the needed scopes.
pub(super) fn missing(needed: AnyOf) -> ApiError {
    let words: Vec<&str> = needed.iter().map(|scope| scope.as_str()).collect();
    ApiError::new(Code::Forbidden, format!("this key lacks the scope {}", words.join(" or ")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Operations that need a key, in the API's description.
    fn described() -> BTreeSet<(String, String)> {
        let document = serde_json::to_value(crate::api::openapi()).expect("serializes");
        let mut described = BTreeSet::new();
        for (path, item) in document["paths"].as_object().expect("paths") {
            let needs_key = |operation: &serde_json::Value| operation["security"].is_array() || path == METRICS_PATH;
            for (method, _) in item.as_object().expect("operations").iter().filter(|(_, one)| needs_key(one)) {
                described.insert((path.clone(), method.to_uppercase()));
            }
        }
        described
    }

    #[test]
    fn every_operation_that_needs_a_key_has_its_scopes_and_no_other() {
        let listed = |(route, methods): &(&str, &[(Method, AnyOf)])| {
            let each = methods.iter().map(|(method, _)| (String::from(*route), method.to_string()));
            each.collect::<Vec<_>>()
        };
        let listed: Vec<_> = TABLE.iter().flat_map(listed).collect();
        let unique: BTreeSet<_> = listed.iter().cloned().collect();
        assert_eq!(unique.len(), listed.len(), "an operation is listed twice");
        let described = described();
        assert!(described.len() > 25, "{described:?}");
        let missing: Vec<_> = described.difference(&unique).collect();
        let unknown: Vec<_> = unique.difference(&described).collect();
        assert!(missing.is_empty(), "operations without an entry in TABLE (api/auth/scopes.rs): {missing:?}");
        assert!(unknown.is_empty(), "entries of TABLE without an operation: {unknown:?}");
    }

    #[test]
    fn what_is_not_in_the_table_is_refused() {
        assert_eq!(needed("/api/tenants", &Method::HEAD).ok(), Some(READ));
        let refused = needed("/api/tenants", &Method::DELETE).expect_err("refused");
        assert_eq!((refused.status().as_u16(), refused.headers()["allow"].to_str().ok()), (405, Some("GET,HEAD,POST")));
        assert_eq!(needed("/api/forgotten", &Method::GET).expect_err("refused").status(), 500);
    }

    #[test]
    fn sets_of_scopes_are_compared() {
        let some: Scopes = [Scope::Run, Scope::Files].into_iter().collect();
        assert!(some.contains(Scope::Run) && !some.contains(Scope::Read));
        assert_eq!(Scopes::ALL.list(), ALL);
        assert!(some.beyond(Scopes::ALL).is_empty());
        assert_eq!(Scopes::of_tenant().beyond(some).to_string(), "read, approve, admin");
        assert!(!Scopes::of_tenant().contains(Scope::Metrics));
    }
}
