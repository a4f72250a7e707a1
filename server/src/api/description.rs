//! The OpenAPI document: assembled from the handlers' own annotations and from what all operations have in common.

use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Required};
use utoipa::{Modify, OpenApi};

use super::error::ErrorEnvelope;
use crate::conversation::event::Event;

/// The document's title, description and shared schemas.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Nagaya",
        description = "Gives every AI-agent conversation a locked workspace of its own. Every error has the same envelope. Every \
                       response carries X-Request-ID and, if a rate limit is configured, X-RateLimit-Limit, \
                       X-RateLimit-Remaining and X-RateLimit-Reset."
    ),
    components(schemas(ErrorEnvelope, Event)),
    modifiers(&SecuritySchemes)
)]
pub(super) struct Description;

const API_KEY: &str = "api_key";
const BEARER: &str = "bearer";

struct SecuritySchemes;

impl Modify for SecuritySchemes {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let components = api.components.get_or_insert_default();
        components.add_security_scheme(API_KEY, SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key"))));
        components.add_security_scheme(BEARER, SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}

/// Status and description of an error response.
type ErrorResponse = (&'static str, &'static str);

const UNAUTHORIZED: ErrorResponse = ("401", "UNAUTHORIZED: the request has no valid key or token");
const FORBIDDEN: ErrorResponse =
    ("403", "FORBIDDEN: the credential lacks the scope that the message names, or the operation is for operators");
const NOT_FOUND: ErrorResponse = ("404", "NOT_FOUND: the resource does not exist or belongs to another tenant");
const CONFLICT: ErrorResponse = (
    "409",
    "CONFLICT or RESOURCE_LOCKED: the resource's current state does not allow the operation; with RESOURCE_LOCKED, Retry-After says when to try again",
);
const PAYLOAD_TOO_LARGE: ErrorResponse = ("413", "PAYLOAD_TOO_LARGE: the body exceeds the size limit");
const VALIDATION_ERROR: ErrorResponse =
    ("422", "VALIDATION_ERROR: `details` names each invalid field and what is accepted");
const RATE_LIMIT_EXCEEDED: ErrorResponse =
    ("429", "RATE_LIMIT_EXCEEDED: the key's limit is used up until the time in Retry-After");
const INTERNAL_ERROR: ErrorResponse =
    ("500", "INTERNAL_ERROR: the server failed; its log has the cause under the request's id");
const SERVICE_UNAVAILABLE: ErrorResponse =
    ("503", "SERVICE_UNAVAILABLE: a dependency does not work; retry after the seconds in Retry-After");

/// Describes the error responses that the routes without a mandatory key declare.
pub(super) fn open(mut api: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    for (_, operation) in operations(&mut api) {
        describe(operation, &[UNAUTHORIZED, RATE_LIMIT_EXCEEDED, SERVICE_UNAVAILABLE]);
    }
    summarized(api)
}

/// Adds the security schemes to operations that require a key, and the error responses that follow from the key, the parameters and
/// the body.
pub(super) fn guarded(mut api: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    for (is_post, operation) in operations(&mut api) {
        let none: [&str; 0] = [];
        operation.security =
            Some([API_KEY, BEARER].map(|scheme| SecurityRequirement::new(scheme, none)).into_iter().collect());
        describe(operation, &[NOT_FOUND, CONFLICT, VALIDATION_ERROR]);
        add(operation, &[UNAUTHORIZED, FORBIDDEN, RATE_LIMIT_EXCEEDED, INTERNAL_ERROR, SERVICE_UNAVAILABLE]);
        if operation.parameters.as_ref().is_some_and(|parameters| !parameters.is_empty()) {
            add(operation, &[NOT_FOUND, VALIDATION_ERROR]);
        }
        if is_post {
            operation.parameters.get_or_insert_default().push(RefOr::T(idempotency_key()));
            add(operation, &[CONFLICT, VALIDATION_ERROR]);
        }
        if operation.request_body.is_some() {
            add(operation, &[PAYLOAD_TOO_LARGE, VALIDATION_ERROR]);
        }
    }
    summarized(api)
}

/// Makes the first sentence of what a handler says the summary of its operation, and the rest its description.
fn summarized(mut api: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    for (_, operation) in operations(&mut api) {
        let Some(text) = operation.summary.take() else { continue };
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let (first, rest) = text.split_once(". ").unwrap_or((&text, ""));
        operation.summary = Some(format!("{}.", first.trim_end_matches('.')));
        let rest = [Some(rest.to_owned()), operation.description.take()].into_iter().flatten();
        let rest: Vec<String> = rest.filter(|text| !text.is_empty()).collect();
        operation.description = (!rest.is_empty()).then(|| rest.join("\n\n"));
    }
    api
}

/// The header by which a POST can be repeated safely.
fn idempotency_key() -> Parameter {
    let text = "Key of the request, made by the client: the same request with the same key is carried out once and answered as the \
                first time, for 24 hours; see docs/api.md. Visible ASCII characters.";
    let schema = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[!-~]{1,255}$"));
    ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(text))
        .schema(Some(schema))
        .build()
}

/// Every operation, and whether it is a POST.
fn operations(api: &mut utoipa::openapi::OpenApi) -> impl Iterator<Item = (bool, &mut Operation)> {
    api.paths.paths.values_mut().flat_map(|item| {
        let PathItem { get, put, post, delete, patch, .. } = item;
        let others = [get, put, delete, patch].into_iter().flatten().map(|operation| (false, operation));
        others.chain(post.as_mut().map(|operation| (true, operation)))
    })
}

/// Adds error responses to an operation. A description that the operation has itself stays.
fn add(operation: &mut Operation, responses: &[ErrorResponse]) {
    for (status, description) in responses {
        let envelope = RefOr::Ref(Ref::from_schema_name("ErrorEnvelope"));
        let content = ContentBuilder::new().schema(Some(envelope)).build();
        let response: Response =
            ResponseBuilder::new().description(*description).content("application/json", content).build();
        operation.responses.responses.entry((*status).to_owned()).or_insert(RefOr::T(response));
    }
    describe(operation, responses);
}

/// Describes those of the responses that an operation declares without a description.
fn describe(operation: &mut Operation, responses: &[ErrorResponse]) {
    for (status, description) in responses {
        if let Some(RefOr::T(own)) = operation.responses.responses.get_mut(*status)
            && own.description.is_empty()
        {
            (*description).clone_into(&mut own.description);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use serde_json::Value;

    fn document() -> Value {
        serde_json::to_value(super::super::openapi()).expect("the OpenAPI document serializes")
    }

    #[test]
    fn the_committed_document_is_up_to_date() {
        let committed: Value = serde_json::from_str(include_str!("../../../docs/openapi.json")).expect("JSON");
        assert!(committed == document(), "docs/openapi.json is stale: run `make docs` and commit it");
    }

    #[test]
    fn every_operation_documents_its_errors_and_has_an_id_of_its_own() {
        let document = document();
        let mut ids = BTreeSet::new();
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("operations") {
                let name = format!("{method} {path}");
                let summary = operation["summary"].as_str().unwrap_or_default();
                let fits = (10..=140).contains(&summary.len()) && !summary.contains('\n') && summary.ends_with('.');
                assert!(fits, "{name} has no summary of one line: {summary:?}");
                let id = operation["operationId"].as_str().expect("an id").to_owned();
                assert!(ids.insert((id, operation["tags"].to_string())), "{name}: another operation has its id");
                if path.starts_with("/api/") {
                    for status in ["401", "403", "429", "500", "503"] {
                        assert!(operation["responses"][status].is_object(), "{name} does not document {status}");
                    }
                    assert!(operation["security"].is_array(), "{name} does not require a key");
                }
            }
        }
        // utoipa overwrites one of two schemas with the same name, so the request bodies would silently be mixed up.
        let body = |path: &str| {
            let body = &document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"];
            body.as_str().expect("a body").to_owned()
        };
        assert_ne!(body("/api/tenants"), body("/api/models"));
    }

    /// Collects every summary and description below `value` with its JSON pointer; examples are data and are left out.
    fn collect_texts<'a>(value: &'a Value, pointer: &str, texts: &mut Vec<(String, &'a str)>) {
        let children: Vec<(String, &Value)> = match value {
            Value::Object(fields) => fields.iter().map(|(name, child)| (name.clone(), child)).collect(),
            Value::Array(items) => items.iter().enumerate().map(|(at, child)| (at.to_string(), child)).collect(),
            _ => return,
        };
        for (name, child) in children {
            match (name.as_str(), child) {
                ("summary" | "description", Value::String(text)) => texts.push((format!("{pointer}/{name}"), text)),
                ("example" | "examples", _) => {}
                _ => collect_texts(child, &format!("{pointer}/{}", name.replace('/', "~1")), texts),
            }
        }
    }

    /// Collects the JSON pointers of parameters, responses, schemas and properties that have no description. A reference has the
    /// description of the schema it refers to; that of an optional reference is inside its `oneOf`.
    fn collect_undescribed(value: &Value, pointer: &str, undescribed: &mut Vec<String>) {
        let has_text = |child: &Value| child["description"].is_string() || child["$ref"].is_string();
        let described =
            |child: &Value| has_text(child) || child["oneOf"].as_array().is_some_and(|any| any.iter().any(has_text));
        for part in ["parameters", "responses", "schemas", "properties"] {
            let children: Vec<(String, &Value)> = match &value[part] {
                Value::Object(fields) => fields.iter().map(|(name, child)| (name.clone(), child)).collect(),
                Value::Array(items) => items.iter().map(|child| (child["name"].to_string(), child)).collect(),
                _ => continue,
            };
            let missing = children.iter().filter(|(_, child)| !described(child));
            undescribed.extend(missing.map(|(name, _)| format!("{pointer}/{part}/{name}")));
        }
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, child)| {
                collect_undescribed(child, &format!("{pointer}/{}", name.replace('/', "~1")), undescribed);
            }),
            Value::Array(items) => items.iter().enumerate().for_each(|(at, child)| {
                collect_undescribed(child, &format!("{pointer}/{at}"), undescribed);
            }),
            _ => {}
        }
    }

    /// Why an API client cannot use a description: it is too short to say anything, or cites a text that is not published.
    fn fault(text: &str) -> Option<String> {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let words = text.split_whitespace().filter(|word| word.contains(char::is_alphanumeric)).count();
        if words < 4 {
            return Some(format!("has {words} words"));
        }
        if let Some(internal) = ["CONTRACT", "EGRESS", "§"].into_iter().find(|name| text.contains(name)) {
            return Some(format!("cites {internal}"));
        }
        let is_part_of_path = |c: char| c.is_alphanumeric() || "-_./".contains(c);
        let mut names = text.split(|c| !is_part_of_path(c)).map(|word| word.trim_end_matches('.'));
        let page = names.find(|name| name.ends_with(".md") && !docs.join(name.trim_start_matches("docs/")).is_file());
        page.map(|page| format!("cites {page}, which is not below docs/"))
    }

    #[test]
    fn every_description_says_something_and_cites_only_published_pages() {
        let document = document();
        let mut texts = Vec::new();
        collect_texts(&document, "", &mut texts);
        assert!(texts.len() > 200, "only {} descriptions were found", texts.len());
        let mut faults: Vec<String> = texts
            .into_iter()
            .filter_map(|(pointer, text)| fault(text).map(|fault| format!("{pointer} {fault}: {text:?}")))
            .collect();
        let mut undescribed = Vec::new();
        collect_undescribed(&document, "", &mut undescribed);
        faults.extend(undescribed.into_iter().map(|pointer| format!("{pointer} has no description")));
        assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    }

    #[test]
    fn a_description_that_is_short_or_cites_an_unpublished_page_is_a_fault() {
        for text in
            ["The conversation's id.", "Events as CONTRACT defines them.", "See docs/internal.md for all of it.", ""]
        {
            assert!(fault(text).is_some(), "{text:?}");
        }
        for text in ["The id of the conversation.", "See docs/api.md for the events."] {
            assert_eq!(fault(text), None, "{text:?}");
        }
    }
}
