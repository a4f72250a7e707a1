//! What is done to the schemas of the API's description after they are derived, and a schema as a document of its own.

use serde_json::Value;
use utoipa::openapi::{RefOr, Schema};

/// Beginning of the names of generic schemas: a value with the level that decided it.
const DECIDED: &str = "Decided_";

/// Describes what derives cannot describe: values of generic schemas, and the words that tell variants apart.
pub(super) fn complete(mut api: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    let schemas = api.components.iter_mut().flat_map(|components| components.schemas.iter_mut());
    for (name, schema) in schemas {
        match schema {
            RefOr::T(Schema::Object(object)) if name.starts_with(DECIDED) => {
                describe(object.properties.get_mut("value"), "The value that applies.");
            }
            RefOr::T(Schema::OneOf(variants)) => {
                for variant in &mut variants.items {
                    if let RefOr::T(Schema::Object(object)) = variant {
                        describe(object.properties.get_mut("type"), "The word for this kind.");
                    }
                }
            }
            _ => {}
        }
    }
    api
}

fn describe(schema: Option<&mut RefOr<Schema>>, text: &str) {
    let description = match schema {
        Some(RefOr::T(Schema::Object(object))) => &mut object.description,
        Some(RefOr::T(Schema::Array(array))) => &mut array.description,
        Some(RefOr::T(Schema::OneOf(one_of))) => &mut one_of.description,
        _ => return,
    };
    description.get_or_insert_with(|| text.to_owned());
}

/// A schema of the API's description as a JSON Schema of its own; `None` if there is none of this name.
pub(super) fn schema_of(name: &str) -> Option<Value> {
    let api = serde_json::to_value(super::openapi()).ok()?;
    let schemas = api.pointer("/components/schemas")?.as_object()?;
    let mut needed = vec![name.to_owned()];
    let mut definitions = serde_json::Map::new();
    while let Some(name) = needed.pop() {
        if definitions.contains_key(&name) {
            continue;
        }
        let mut schema = schemas.get(&name)?.clone();
        point_to_definitions(&mut schema, &mut needed);
        definitions.insert(name, schema);
    }
    let mut schema = definitions.remove(name)?;
    let fields = schema.as_object_mut()?;
    fields.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
    fields.insert("$defs".to_owned(), definitions.into());
    Some(schema)
}

/// Makes references to schemas of the OpenAPI document references to definitions, and collects their names.
fn point_to_definitions(schema: &mut Value, names: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(to) if key == "$ref" => {
                        if let Some(name) = to.strip_prefix("#/components/schemas/").map(ToOwned::to_owned) {
                            *to = format!("#/$defs/{name}");
                            names.push(name);
                        }
                    }
                    other => point_to_definitions(other, names),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| point_to_definitions(item, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_of_a_configuration_stands_by_itself() {
        let schema = schema_of("Configuration").expect("a schema");
        let text = schema.to_string();
        assert!(!text.contains("#/components/") && text.contains("#/$defs/ConfigurationEgress"), "{text}");
        assert_eq!(schema["additionalProperties"], Value::Bool(false));
        assert!(schema["$defs"]["ConfigurationAllowRule"]["properties"]["host"].is_object());
        assert_eq!(schema_of("NoSuchSchema"), None);
    }
}
