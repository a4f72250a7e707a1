//! What a deployment offers of what it need not have, by its own description.

use serde_json::Value;

use crate::client::http::Api;
use crate::context::Context;
use crate::failure::Failure;
use crate::scenario::Capability;

/// What can be left out, and a route (method, path) that a deployment has which does not.
const ROUTES: [(Capability, &str, &str); 3] = [
    (Capability::Admin, "get", "/api/admin/pool"),
    (Capability::Resume, "get", "/api/tenants/{}/conversations/{}/stream"),
    (Capability::Files, "get", "/api/tenants/{}/conversations/{}/files"),
];

/// Everything that a deployment may leave out.
pub const OPTIONAL: [Capability; 3] = [Capability::Admin, Capability::Resume, Capability::Files];

/// A path with nothing in the braces: what a deployment calls its parameters is its own affair.
fn without_names(path: &str) -> String {
    let segments = path.split('/').map(|segment| if segment.starts_with('{') { "{}" } else { segment });
    segments.collect::<Vec<_>>().join("/")
}

/// Of [`OPTIONAL`] what this description lacks, each with a sentence that says so.
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

/// What a deployment lacks of [`OPTIONAL`], by its `/openapi.json`.
///
/// # Errors
/// It does not describe itself.
pub async fn probe(api: &Api) -> Result<Vec<(Capability, String)>, Failure> {
    let description = api.get("/openapi.json").await?.expect(200)?.json()?;
    Ok(lacking(&description))
}

impl Context {
    /// Gives up where the scenario needs something that this deployment, launched just now, says it does not have.
    pub(super) async fn check_offers(&self, api: &Api) -> Result<(), Failure> {
        let needed = self.scenario.requires;
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
    fn what_a_description_lacks_is_told_whatever_parameters_are_called() {
        let all = json!({"paths": {
            "/api/admin/pool": {"get": {}},
            "/api/tenants/{tenant_id}/conversations/{conversation_id}/stream": {"get": {}, "post": {}},
            "/api/tenants/{t}/conversations/{c}/files": {"get": {}},
        }});
        assert_eq!(lacking(&all), []);
        let mut less = all.clone();
        less["paths"]["/api/tenants/{tenant_id}/conversations/{conversation_id}/stream"] = json!({"post": {}});
        let told = lacking(&less);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].0, Capability::Resume);
        assert!(told[0].1.contains("GET /api/tenants/{}/conversations/{}/stream"), "{told:?}");
        assert_eq!(lacking(&json!([])).len(), OPTIONAL.len());
    }
}
