//! The OpenAPI description of the service: what every handler says of itself, and what is true of all of them.

use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, RefOr};
use utoipa::{Modify, OpenApi};

use super::error::ErrorEnvelope;
use crate::conversation::event::Event;

/// What is said once for the whole.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Nagaya",
        description = "Every AI-agent conversation in a locked room of its own. Errors always have the same envelope; every \
                       answer carries X-Request-ID, and where keys are limited, X-RateLimit-Limit, -Remaining and -Reset."
    ),
    components(schemas(ErrorEnvelope, Event)),
    modifiers(&Keys)
)]
pub(super) struct Description;

const API_KEY: &str = "api_key";
const BEARER: &str = "bearer";

struct Keys;

impl Modify for Keys {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let components = api.components.get_or_insert_default();
        components.add_security_scheme(API_KEY, SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key"))));
        components.add_security_scheme(BEARER, SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}

/// Answers that any route with a key may give, beside its own.
const GUARDED: [(&str, &str); 3] = [
    ("401", "UNAUTHORIZED: no valid key"),
    ("403", "FORBIDDEN: an operator's key is needed"),
    ("429", "RATE_LIMIT_EXCEEDED: Retry-After says when there is something left"),
];
/// Answers of any route.
const ANY: [(&str, &str); 2] = [
    ("500", "INTERNAL_ERROR: a fault of the server; its log has the cause under the request's id"),
    ("503", "SERVICE_UNAVAILABLE: Retry-After says when it may go better"),
];
/// Answers of a route that takes parameters.
const WITH_PARAMETERS: [(&str, &str); 2] = [
    ("404", "NOT_FOUND: it is not there, or not the caller's"),
    ("422", "VALIDATION_ERROR: `details` names the field and what is accepted"),
];
/// Answers of a route that takes a body.
const WITH_BODY: [(&str, &str); 2] = [
    ("413", "PAYLOAD_TOO_LARGE: the body is longer than is taken"),
    ("422", "VALIDATION_ERROR: `details` names the field and what is accepted"),
];

/// Adds to the routes that need a key what is true of all such routes.
pub(super) fn guarded(mut api: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    for operation in operations(&mut api) {
        let none: [&str; 0] = [];
        operation.security =
            Some([API_KEY, BEARER].map(|scheme| SecurityRequirement::new(scheme, none)).into_iter().collect());
        add(operation, &GUARDED);
        add(operation, &ANY);
        if operation.parameters.as_ref().is_some_and(|parameters| !parameters.is_empty()) {
            add(operation, &WITH_PARAMETERS);
        }
        if operation.request_body.is_some() {
            add(operation, &WITH_BODY);
        }
    }
    api
}

fn operations(api: &mut utoipa::openapi::OpenApi) -> impl Iterator<Item = &mut Operation> {
    api.paths.paths.values_mut().flat_map(|item| {
        let PathItem { get, put, post, delete, patch, .. } = item;
        [get, put, post, delete, patch].into_iter().flatten()
    })
}

/// What an operation says of itself stays.
fn add(operation: &mut Operation, answers: &[(&str, &str)]) {
    for (status, what) in answers {
        let envelope = RefOr::Ref(Ref::from_schema_name("ErrorEnvelope"));
        let content = ContentBuilder::new().schema(Some(envelope)).build();
        let answer: Response = ResponseBuilder::new().description(*what).content("application/json", content).build();
        let responses = &mut operation.responses.responses;
        match responses.get_mut(*status) {
            Some(RefOr::T(own)) if own.description.is_empty() => own.description = (*what).to_owned(),
            Some(_) => {}
            None => {
                responses.insert((*status).to_owned(), RefOr::T(answer));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    fn described() -> Value {
        serde_json::to_value(super::super::openapi()).expect("a description")
    }

    #[test]
    fn the_committed_description_is_the_servers() {
        let committed: Value = serde_json::from_str(include_str!("../../../docs/openapi.json")).expect("JSON");
        assert!(committed == described(), "docs/openapi.json is stale: run `make docs` and commit it");
    }

    #[test]
    fn every_route_is_described_with_its_errors_and_no_name_is_used_twice() {
        let description = described();
        let mut ids = BTreeSet::new();
        for (path, item) in description["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("operations") {
                let what = format!("{method} {path}");
                assert!(operation["summary"].is_string(), "{what} has no summary");
                let id = operation["operationId"].as_str().expect("an id").to_owned();
                assert!(ids.insert((id, operation["tags"].to_string())), "{what}: two with the same id");
                let responses = operation["responses"].as_object().expect("responses");
                if path.starts_with("/api/") {
                    for status in ["401", "403", "429", "500", "503"] {
                        assert!(responses.contains_key(status), "{what} does not tell of {status}");
                    }
                    assert!(operation["security"].is_array(), "{what} asks for no key");
                }
                let undescribed = responses.iter().filter(|(_, answer)| answer["description"].as_str() == Some(""));
                let undescribed: Vec<_> =
                    undescribed.map(|(status, _)| status).filter(|s| !s.starts_with('2')).collect();
                assert!(undescribed.is_empty(), "{what}: {undescribed:?} are not explained");
            }
        }
        // Two types of one name would silently describe each other's bodies.
        let body = |path: &str| {
            let body =
                &description["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"];
            body.as_str().expect("a body").to_owned()
        };
        assert_ne!(body("/api/tenants"), body("/api/models"));
    }
}
