//! Texts, lists and objects that are longer than the description allows, wherever it allows a length.

use http::Method;
use serde_json::{Value, json};

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "API-025",
    "A text or list that is one longer than the description allows is refused, in every field of every body",
    "GET /openapi.json: every request that it does not allow is refused",
    body!(one_too_many),
)
.profile(Profile::Full)
.requires(&[Capability::Launch])
.limit(45)];

/// How deep schemas are followed: some contain themselves.
const DEPTH: usize = 8;

async fn one_too_many(context: &Context) -> Result<(), Failure> {
    let deployment = context.deployment().await?;
    let conversation = deployment.conversation(context).await?;
    let description = deployment.api.get("/openapi.json").await?.expect(200)?.json()?;
    let (mut tried, mut accepted) = (0, Vec::new());
    for (template, item) in description["paths"].as_object().into_iter().flatten() {
        let path = template
            .replace("{tenant_id}", &conversation.tenant)
            .replace("{conversation_id}", &conversation.id)
            .replace("{model_id}", &conversation.model);
        // Of a thing that does not exist, every request is refused.
        if path.contains('{') {
            continue;
        }
        for (method, operation) in item.as_object().into_iter().flatten() {
            let Ok(method) = method.to_uppercase().parse::<Method>() else { continue };
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let schemas = Schemas(&description);
            let mut excesses = Vec::new();
            schemas.excesses(schema, &mut Vec::new(), &mut excesses);
            for (place, value) in excesses {
                let mut body = schemas.sample(schema, 0);
                put(&mut body, &place, value);
                let reply = deployment.api.send(method.clone(), &path, Some(&body.to_string()), &[]).await?;
                if !matches!(reply.status.as_u16(), 400 | 413 | 422) {
                    accepted.push(format!("{method} {template}: {} ({})", place.join("."), reply.status));
                }
                tried += 1;
            }
        }
    }
    context.note(format!("{tried} values"));
    check(accepted.is_empty(), format!("accepted although longer than described: {}", accepted.join(", ")))?;
    check(tried > 0, "the description limits the length of nothing")
}

/// The schemas of a description.
struct Schemas<'a>(&'a Value);

impl<'a> Schemas<'a> {
    /// The schema itself, where this names one.
    fn resolved(&self, schema: &'a Value) -> &'a Value {
        let name = schema["$ref"].as_str().and_then(|named| named.strip_prefix('#'));
        name.and_then(|name| self.0.pointer(name)).unwrap_or(schema)
    }

    /// Each value that is one longer than allowed, with its place in the body.
    fn excesses(&self, schema: &'a Value, place: &mut Vec<String>, found: &mut Vec<(Vec<String>, Value)>) {
        if place.len() > DEPTH {
            return;
        }
        let schema = self.resolved(schema);
        for kind in ["oneOf", "anyOf", "allOf"] {
            for part in schema[kind].as_array().into_iter().flatten() {
                self.excesses(part, place, found);
            }
        }
        let more_than = |bound: &str| schema[bound].as_u64().and_then(|most| usize::try_from(most + 1).ok());
        if let Some(length) = more_than("maxLength") {
            found.push((place.clone(), "a".repeat(length).into()));
        }
        if let Some(length) = more_than("maxItems") {
            found.push((place.clone(), vec![self.sample(&schema["items"], 0); length].into()));
        }
        if let Some(length) = more_than("maxProperties") {
            let value = self.sample(&schema["additionalProperties"], 0);
            found.push((place.clone(), (0..length).map(|number| (format!("k{number}"), value.clone())).collect()));
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            place.push(name.clone());
            self.excesses(field, place, found);
            place.pop();
        }
    }

    /// A value that the schema allows, as far as a schema says: its example, or the least that it requires.
    fn sample(&self, schema: &'a Value, depth: usize) -> Value {
        let schema = self.resolved(schema);
        let first = |of: &'a Value| of.as_array().and_then(|all| all.first());
        if let Some(given) =
            [schema.get("example"), schema.get("const"), first(&schema["examples"]), first(&schema["enum"])]
                .into_iter()
                .flatten()
                .next()
        {
            return given.clone();
        }
        if let Some(part) = ["oneOf", "anyOf", "allOf"]
            .iter()
            .find_map(|kind| schema[*kind].as_array()?.iter().find(|part| part["type"] != "null"))
        {
            return self.sample(part, depth + 1);
        }
        let kind = match &schema["type"] {
            Value::Array(kinds) => kinds.first().and_then(Value::as_str),
            kind => kind.as_str(),
        };
        let least = |bound: &str| schema[bound].as_u64().and_then(|least| usize::try_from(least).ok()).unwrap_or(0);
        match kind {
            Some("string") => "a".repeat(least("minLength").max(1)).into(),
            Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or_else(|| 1.into()),
            Some("boolean") => true.into(),
            Some("array") => vec![self.sample(&schema["items"], depth + 1); least("minItems")].into(),
            _ if depth > DEPTH => json!({}),
            _ => schema["required"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(|name| (name.to_owned(), self.sample(&schema["properties"][name], depth + 1)))
                .collect(),
        }
    }
}

/// Puts a value at its place, with the objects that lead there.
fn put(body: &mut Value, place: &[String], value: Value) {
    let Some((name, rest)) = place.split_first() else {
        *body = value;
        return;
    };
    if !body.is_object() {
        *body = json!({});
    }
    put(&mut body[name.as_str()], rest, value);
}
