//! The optional parts of a deployment, according to its OpenAPI description.

use serde_json::Value;

use crate::client::http::Api;
use crate::harness::context::Context;
use crate::harness::failure::Failure;
use crate::harness::vocabulary::Capability;

/// Every route (method, path) of an optional part that scenarios use. A part that lacks one of them is missing.
const ROUTES: [(Capability, &str, &str); 10] = [
    (Capability::Admin, "get", "/api/admin/pool"),
    (Capability::Admin, "put", "/api/admin/pool"),
    (Capability::Admin, "post", "/api/admin/gc"),
    (Capability::Admin, "get", "/api/admin/workspaces"),
    (Capability::Admin, "delete", "/api/admin/workspaces/{}"),
    (Capability::Resume, "get", "/api/tenants/{}/conversations/{}/stream"),
    (Capability::Files, "get", "/api/tenants/{}/conversations/{}/files"),
    (Capability::Files, "put", "/api/tenants/{}/conversations/{}/files"),
    (Capability::Files, "delete", "/api/tenants/{}/conversations/{}/files"),
    (Capability::Files, "get", "/api/tenants/{}/conversations/{}/files/download"),
];

/// All optional parts of a deployment.
pub const OPTIONAL: [Capability; 3] = [Capability::Admin, Capability::Resume, Capability::Files];

/// A path with empty braces: the names of parameters are up to the deployment.
fn without_names(path: &str) -> String {
    let segments = path.split('/').map(|segment| if segment.starts_with('{') { "{}" } else { segment });
    segments.collect::<Vec<_>>().join("/")
}

/// The parts of [`OPTIONAL`] that this description lacks, each with a reason.
fn lacking(description: &Value) -> Vec<(Capability, String)> {
    let has = |method: &str, route: &str| {
        let mut paths = description["paths"].as_object().into_iter().flatten();
        paths.any(|(path, methods)| without_names(path) == route && methods.get(method).is_some())
    };
    ROUTES
        .into_iter()
        .filter(|(_, method, route)| !has(method, route))
        .map(|(capability, method, route)| {
            (capability, format!("its /openapi.json has no {} {route}", method.to_uppercase()))
        })
        .collect()
}

/// The parts of [`OPTIONAL`] that this description lacks.
pub(super) fn lacking_parts(description: &Value) -> Vec<Capability> {
    let mut parts: Vec<Capability> = lacking(description).into_iter().map(|(part, _)| part).collect();
    parts.dedup();
    parts
}

/// The parts of [`OPTIONAL`] that a deployment lacks, according to its `/openapi.json`.
///
/// # Errors
/// It has no such description.
pub async fn probe(api: &Api) -> Result<Vec<(Capability, String)>, Failure> {
    let description = api.get("/openapi.json").await?.expect(200)?.json()?;
    Ok(lacking(&description))
}

impl Context {
    /// Ends a scenario that needs an optional part which the deployment, launched just now, does not have.
    pub(super) async fn check_offers(&self, api: &Api) -> Result<(), Failure> {
        let needed = self.requires;
        if !needed.iter().any(|one| OPTIONAL.contains(one)) {
            return Ok(());
        }
        match probe(api).await?.into_iter().find(|(capability, _)| needed.contains(capability)) {
            Some((capability, why)) => Err(Failure::could_not_run(format!("needs {capability}: {why}"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn missing_operations_are_reported_whatever_parameters_are_called() {
        let all = json!({"paths": {
            "/api/admin/pool": {"get": {}, "put": {}},
            "/api/admin/gc": {"post": {}},
            "/api/admin/workspaces": {"get": {}},
            "/api/admin/workspaces/{id}": {"delete": {}},
            "/api/tenants/{tenant_id}/conversations/{conversation_id}/stream": {"get": {}, "post": {}},
            "/api/tenants/{t}/conversations/{c}/files": {"get": {}, "put": {}, "delete": {}},
            "/api/tenants/{t}/conversations/{c}/files/download": {"get": {}},
        }});
        assert_eq!(lacking(&all), []);
        let mut less = all.clone();
        less["paths"]["/api/tenants/{tenant_id}/conversations/{conversation_id}/stream"] = json!({"post": {}});
        let missing = lacking(&less);
        assert_eq!(missing.len(), 1);
        assert_eq!(missing[0].0, Capability::Resume);
        assert!(missing[0].1.contains("GET /api/tenants/{}/conversations/{}/stream"), "{missing:?}");
        // Files that can be listed and not written are no files for the scenarios.
        let mut read_only = all.clone();
        read_only["paths"]["/api/tenants/{t}/conversations/{c}/files"] = json!({"get": {}, "delete": {}});
        let missing = lacking(&read_only);
        assert!(missing.len() == 1 && missing[0].0 == Capability::Files, "{missing:?}");
        assert!(missing[0].1.contains("PUT /api/tenants/{}/conversations/{}/files"), "{missing:?}");
        assert_eq!(lacking(&json!([])).len(), ROUTES.len());
    }
}
