//! The contract's JSON Schemas (2020-12), and which values differ from them. Schemas are open: fields that they do not name are free.

use std::sync::LazyLock;

use serde_json::Value;

/// How much of a value a message shows.
const SHOWN: usize = 200;

static EVENTS: LazyLock<Value> =
    LazyLock::new(|| read(include_str!("../../../docs/contract/schema/events.schema.json")));
static BODIES: LazyLock<Value> =
    LazyLock::new(|| read(include_str!("../../../docs/contract/schema/bodies.schema.json")));

/// A document that a test has read.
fn read(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

/// The version of the contract that the schemas belong to.
#[must_use]
pub fn version() -> &'static str {
    EVENTS["$id"].as_str().and_then(|id| id.split('/').nth(1)).unwrap_or_default()
}

/// The names of all events of a run.
#[must_use]
pub fn events() -> Vec<&'static str> {
    EVENTS["$defs"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect()
}

/// How the data of an event differs from the contract; an event that the contract does not know differs as a whole.
#[must_use]
pub fn of_event(name: &str, data: &Value) -> Vec<String> {
    if EVENTS["$defs"].get(name).is_none() {
        return vec![format!("the contract has no event {name:?}: {}", shown(data))];
    }
    differences(&EVENTS, name, name, data)
}

/// How a body differs from the schema of this name. `what` names it in messages.
#[must_use]
pub fn of_body(name: &str, what: &str, body: &Value) -> Vec<String> {
    if BODIES["$defs"].get(name).is_none() {
        return vec![format!("the contract has no body {name:?}")];
    }
    differences(&BODIES, name, what, body)
}

/// How the body of a successful answer differs from the contract. `asked` is the request, `GET /api/tenants?limit=1`. Bodies of routes that the
/// contract does not have are free.
#[must_use]
pub fn of_answer(asked: &str, body: &Value) -> Vec<String> {
    let asked = asked.split('?').next().unwrap_or_default();
    let answers = BODIES["x-answers"].as_object().into_iter().flatten();
    let Some((route, answer)) = answers.into_iter().find(|(route, _)| is_route(route, asked)) else {
        return Vec::new();
    };
    let name = answer.as_str().unwrap_or_default();
    match name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        None => of_body(name, route, body),
        Some(name) => match body.as_array() {
            Some(list) => list.iter().flat_map(|one| of_body(name, route, one)).collect(),
            None => vec![format!("{route} is {}, not a list", shown(body))],
        },
    }
}

/// Whether a request is one of this route, whose parameters are in braces.
fn is_route(route: &str, asked: &str) -> bool {
    let (wanted, given): (Vec<&str>, Vec<&str>) = (route.split('/').collect(), asked.split('/').collect());
    wanted.len() == given.len() && wanted.iter().zip(given).all(|(one, other)| *one == other || one.starts_with('{'))
}

fn differences(document: &Value, name: &str, what: &str, value: &Value) -> Vec<String> {
    let mut check = Check { document, what, found: Vec::new() };
    check.value(&document["$defs"][name], value, "");
    check.found
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.len() <= SHOWN { text } else { format!("{}…", &text[..text.floor_char_boundary(SHOWN)]) }
}

struct Check<'s> {
    document: &'s Value,
    what: &'s str,
    found: Vec<String>,
}

impl Check<'_> {
    fn differs(&mut self, place: &str, value: &Value, expected: impl std::fmt::Display) {
        let place = if place.is_empty() { self.what.to_owned() } else { format!("{place} of {}", self.what) };
        self.found.push(format!("{place} is {}, not {expected}", shown(value)));
    }

    /// Whether a value fits a schema, without recording why not.
    fn fits(&self, schema: &Value, value: &Value) -> bool {
        let mut check = Check { document: self.document, what: self.what, found: Vec::new() };
        check.value(schema, value, "");
        check.found.is_empty()
    }

    fn value(&mut self, schema: &Value, value: &Value, place: &str) {
        // One message for each value: what has the wrong type differs in everything else as well.
        if let Some(types) = schema.get("type")
            && !is_one_of(types, value)
        {
            return self.differs(place, value, expected(schema));
        }
        for (word, wanted) in schema.as_object().into_iter().flatten() {
            match word.as_str() {
                "type" | "description" | "examples" => {}
                "$ref" => self.reference(wanted.as_str().unwrap_or_default(), value, place),
                "const" if value != wanted => self.differs(place, value, wanted),
                "enum" if !wanted.as_array().is_some_and(|all| all.contains(value)) => {
                    self.differs(place, value, format!("one of {wanted}"));
                }
                "minimum" if value.as_f64() < wanted.as_f64() && value.is_number() => {
                    self.differs(place, value, format!("at least {wanted}"));
                }
                "minLength" if value == "" => self.differs(place, value, "a text that is not empty"),
                "format" if value.is_string() && !has_format(wanted, value) => {
                    self.differs(place, value, expected(schema));
                }
                "required" => self.required(wanted, value, place),
                "properties" => self.properties(wanted, value, place),
                "items" => {
                    for (index, one) in value.as_array().into_iter().flatten().enumerate() {
                        self.value(wanted, one, &format!("{place}[{index}]"));
                    }
                }
                "allOf" => wanted.as_array().into_iter().flatten().for_each(|one| self.value(one, value, place)),
                "oneOf" if !wanted.as_array().is_some_and(|all| all.iter().any(|one| self.fits(one, value))) => {
                    self.differs(place, value, "what any of the alternatives describes");
                }
                "const" | "enum" | "minimum" | "minLength" | "format" | "oneOf" => {}
                unknown => {
                    self.found.push(format!("the schema of {} has {unknown:?}, which is not checked", self.what));
                }
            }
        }
    }

    fn reference(&mut self, to: &str, value: &Value, place: &str) {
        let document = self.document;
        match to.strip_prefix("#/$defs/").and_then(|name| document["$defs"].get(name)) {
            Some(schema) => self.value(schema, value, place),
            None => self.found.push(format!("the schema of {} refers to {to}, which is not checked", self.what)),
        }
    }

    fn required(&mut self, names: &Value, value: &Value, place: &str) {
        let Some(object) = value.as_object() else { return };
        let missing =
            names.as_array().into_iter().flatten().filter_map(Value::as_str).filter(|name| !object.contains_key(*name));
        for name in missing {
            self.found.push(format!("{} of {} is missing", below(place, name), self.what));
        }
    }

    fn properties(&mut self, schemas: &Value, value: &Value, place: &str) {
        for (name, schema) in schemas.as_object().into_iter().flatten() {
            if let Some(one) = value.get(name) {
                self.value(schema, one, &below(place, name));
            }
        }
    }
}

fn below(place: &str, name: &str) -> String {
    if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") }
}

/// What a schema's type and format ask for, in words.
fn expected(schema: &Value) -> String {
    match schema["format"].as_str() {
        Some("date-time") => "a time (RFC 3339)".to_owned(),
        Some("decimal") => "a decimal number in a text".to_owned(),
        _ => schema["type"].to_string().replace('"', ""),
    }
}

fn is_one_of(types: &Value, value: &Value) -> bool {
    let is = |kind: &Value| match kind.as_str().unwrap_or_default() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.is_u64() || value.is_i64(),
        _ => false,
    };
    types.as_array().map_or_else(|| is(types), |all| all.iter().any(is))
}

fn has_format(format: &Value, value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    match format.as_str() {
        Some("date-time") => text.parse::<jiff::Timestamp>().is_ok(),
        Some("decimal") => {
            text.starts_with(|c: char| c.is_ascii_digit()) && text.parse::<f64>().is_ok_and(f64::is_finite)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    /// The description of this project's own API.
    fn description() -> Value {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
        read(&std::fs::read_to_string(path).expect("the description"))
    }

    /// The names that a list of fields has.
    fn fields(schema: &Value) -> BTreeSet<&str> {
        schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn every_difference_is_named_once_and_other_fields_are_free() {
        let good = json!({"seq": 1, "timestamp": "2026-01-01T00:00:00Z", "title": "t", "more": [1]});
        assert_eq!(of_event("title", &good), Vec::<String>::new());
        let bad = json!({"seq": 0, "timestamp": "yesterday", "title": null});
        let expected = [
            "seq of title is 0, not at least 1",
            "timestamp of title is \"yesterday\", not a time (RFC 3339)",
            "title of title is null, not string",
        ];
        assert_eq!(BTreeSet::from_iter(of_event("title", &bad)), BTreeSet::from(expected.map(str::to_owned)));
        assert_eq!(of_event("title", &json!([])), ["title is [], not object"]);
        assert_eq!(of_event("hologram", &json!({})), ["the contract has no event \"hologram\": {}"]);
        let missing = of_event("closed", &json!({"reason": "boredom"}));
        assert_eq!(missing.len(), 2, "{missing:?}");
        assert!(missing.iter().any(|one| one == "message of closed is missing"), "{missing:?}");
    }

    #[test]
    fn every_schema_has_an_example_that_fits() {
        let agent = read(include_str!("../../../docs/contract/schema/agent.schema.json"));
        let mut seen = 0;
        for document in [&*EVENTS, &*BODIES, &agent] {
            assert_eq!(document["$id"].as_str().and_then(|id| id.split('/').nth(1)), Some(version()));
            for (name, schema) in document["$defs"].as_object().expect("schemas") {
                if schema.get("$ref").is_some() {
                    continue;
                }
                let examples = schema["examples"].as_array().filter(|all| !all.is_empty());
                for example in examples.unwrap_or_else(|| panic!("{name} has no example")) {
                    assert_eq!(differences(document, name, name, example), Vec::<String>::new());
                    seen += 1;
                }
            }
        }
        assert!(seen > 50, "only {seen} examples");
    }

    #[test]
    fn bodies_are_looked_at_in_depth() {
        let check = json!({"status": "healthy", "message": "", "latency_ms": 0.5});
        let mut health = json!({
            "status": "healthy", "version": "1", "environment": "development", "timestamp": "2026-01-01T00:00:00Z",
            "checks": {"database": check, "redis": check, "docker": check, "s3": check},
            "container_system": {"active_containers": 0, "warm_pool_size": 0},
        });
        assert_eq!(of_body("Health", "/health", &health), Vec::<String>::new());
        health["checks"]["s3"]["message"] = Value::Null;
        health["version"] = json!("");
        let found = of_body("Health", "/health", &health);
        assert_eq!(
            found,
            [
                "checks.s3.message of /health is null, not string",
                "version of /health is \"\", not a text that is not empty",
            ]
        );
        for (price, fits) in
            [(json!("0.003"), true), (json!(0.003), false), (json!("inf"), false), (json!("-1"), false)]
        {
            assert_eq!(of_body("Model", "m", &json!({"input_token_price": price})).len() == 5, fits, "{price}");
        }
        let page = json!({"items": [{"path": "a", "size": 1, "modified_at": "2026-01-01T00:00:00Z"}, {"path": 1}],
            "total": 2, "limit": 50, "offset": 0, "complete": true});
        let found = of_body("FilePage", "files", &page);
        assert!(found.contains(&"items[1].path of files is 1, not string".to_owned()), "{found:?}");
    }

    #[test]
    fn every_event_of_the_server_has_a_schema_with_its_fields() {
        let description = description();
        let events_of = &description["components"]["schemas"];
        let named = events_of["RunEvent"]["properties"]["event"]["description"].as_str().expect("names").to_owned();
        let names: Vec<&str> = named.split('`').skip(1).step_by(2).filter(|name| !name.contains('<')).collect();
        assert_eq!(BTreeSet::from_iter(names.iter().copied()), BTreeSet::from_iter(events()), "the names of events");
        let variants = events_of["RunEventData"]["oneOf"].as_array().expect("events");
        // `closed` is none of a run's.
        assert_eq!(variants.len(), events().len() - 1, "the number of events");
        for variant in variants {
            let name = variant["$ref"].as_str().and_then(|to| to.rsplit('/').next());
            let variant = name.map_or(variant, |name| &events_of[name]);
            let of_server = fields(variant);
            let fits = events().into_iter().any(|event| {
                let of_contract = fields(&EVENTS["$defs"][event]);
                of_server.iter().all(|field| of_contract.contains(field)) && of_contract.len() == of_server.len() + 2
            });
            assert!(fits, "no event of the contract has exactly the fields {of_server:?}, seq and timestamp");
        }
    }

    #[test]
    fn every_body_of_the_server_has_a_schema() {
        let description = description();
        let found = bodies(&description);
        assert!(found.len() > 30, "{found:?}");
        for name in found {
            let (schema, own) = (&BODIES["$defs"][name], &description["components"]["schemas"]);
            assert!(schema.is_object(), "docs/contract/schema/bodies.schema.json lacks {name}");
            if let Some(to) = schema["$ref"].as_str() {
                assert!(
                    to == format!("../../openapi.json#/components/schemas/{name}") && own[name].is_object(),
                    "{to}"
                );
            }
            let of_server = all_fields(own, &own[name]);
            let unknown: Vec<&str> = fields(schema).difference(&of_server).copied().collect();
            assert!(unknown.is_empty(), "{name}: the server has no {unknown:?}");
        }
    }

    #[test]
    fn answers_are_found_by_their_routes() {
        assert_eq!(of_answer("GET /api/tenants/acme/keys", &json!({})), Vec::<String>::new(), "free");
        assert_eq!(of_answer("DELETE /api/tenants/acme", &json!({})), Vec::<String>::new(), "without a body");
        let of_page =
            of_answer("GET /api/tenants/acme/conversations?limit=1", &json!({"items": [], "total": 0, "limit": 1}));
        assert_eq!(of_page, ["offset of GET /api/tenants/{tenant_id}/conversations is missing"]);
        assert_eq!(of_answer("GET /api/tenants", &json!({})), ["GET /api/tenants is {}, not a list"]);
        assert_eq!(of_answer("GET /api/tenants", &json!([{}, {}])).len(), 8);
        assert_eq!(of_answer("GET /", &json!({"name": "n", "version": "1"})), ["docs_url of GET / is missing"]);
    }

    #[test]
    fn every_answer_of_the_server_is_in_the_list() {
        let description = description();
        let mut found = 0;
        for (path, item) in description["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("operations") {
                let responses = operation["responses"].as_object().into_iter().flatten();
                let successes = responses.filter(|(status, _)| status.starts_with('2'));
                for schema in successes.map(|(_, response)| &response["content"]["application/json"]["schema"]) {
                    let (one, list) = (schema["$ref"].as_str(), schema["items"]["$ref"].as_str());
                    let Some(name) = one.or(list).and_then(|to| to.rsplit('/').next()) else { continue };
                    if BODIES["$defs"][name].get("$ref").is_some() {
                        continue;
                    }
                    let expected = if list.is_some() { format!("[{name}]") } else { name.to_owned() };
                    let route = format!("{} {path}", method.to_uppercase());
                    assert_eq!(BODIES["x-answers"][&route].as_str(), Some(expected.as_str()), "{route}");
                    found += 1;
                }
            }
        }
        assert_eq!(found, BODIES["x-answers"].as_object().expect("a list").len());
    }

    /// The names of the schemas of requests and responses, which are one body or a list of them.
    fn bodies(description: &Value) -> BTreeSet<&str> {
        let operations = description["paths"].as_object().into_iter().flatten().flat_map(|(_, item)| item.as_object());
        let contents = operations.flatten().flat_map(|(_, operation)| {
            let responses = operation["responses"].as_object().into_iter().flatten().map(|(_, response)| response);
            responses.chain([&operation["requestBody"]]).flat_map(|one| one["content"].as_object())
        });
        let schemas = contents.flatten().map(|(_, media)| &media["schema"]);
        let names = schemas.filter_map(|schema| schema["$ref"].as_str().or(schema["items"]["$ref"].as_str()));
        // A stream has events instead.
        names.filter_map(|to| to.rsplit('/').next()).filter(|name| *name != "RunEvent").collect()
    }

    /// The fields of a schema and of those that it consists of.
    fn all_fields<'d>(schemas: &'d Value, schema: &'d Value) -> BTreeSet<&'d str> {
        let name = schema["$ref"].as_str().and_then(|to| to.rsplit('/').next());
        let schema = name.map_or(schema, |name| &schemas[name]);
        let parts = schema["allOf"].as_array().into_iter().flatten();
        parts.flat_map(|part| all_fields(schemas, part)).chain(fields(schema)).collect()
    }
}
