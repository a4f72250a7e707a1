//! A first target file for a running deployment, from what it answers.

use std::fmt::Write as _;

use serde_json::Value;

use super::offers;
use super::seen::{self, Look};
use crate::client::http::Api;
use crate::description::routes::Routes;
use crate::description::{Description, REQUEST_FIELD, Speech};
use crate::harness::engine::Engine;
use crate::harness::failure::Failure;

/// Prefixes that are tried where `/health/live` is not at the top, besides those that the description names.
const PREFIXES: [&str; 4] = ["", "/api", "/v1", "/api/v1"];
/// Headers that a key is tried in, each with what stands before the key.
const KEYS: [(&str, &str); 4] =
    [("X-API-Key", ""), ("Authorization", "Bearer "), ("Authorization", ""), ("Api-Key", "")];

/// What was found out about a deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    name: String,
    prefix: String,
    key: Option<(String, String)>,
    /// The form's field, if runs are forms.
    form_field: Option<String>,
    without: Vec<String>,
    /// What its workspaces look like, if their engine was asked.
    workspaces: Option<Look>,
    /// What could not be found out.
    open: Vec<String>,
}

/// Asks a deployment for what its file should say, and the engine with its workspaces, if it is given, for those of all deployments or of one
/// of this id. Nothing is created in either.
///
/// # Errors
/// It does not answer, or has `/health/live` at none of the places that were tried; or the engine does not answer.
pub async fn probe(api: &Api, has_key: bool, workspaces: Option<(&Engine, Option<&str>)>) -> anyhow::Result<Findings> {
    let into = |failure: Failure| anyhow::anyhow!("{failure}");
    let mut found = Findings::default();
    let Some(plain) = first_alive(api).await.map_err(into)? else {
        anyhow::bail!(
            "GET /health/live answers 200 nowhere, also not below {}: give the base URL of a deployment",
            PREFIXES[1..].join(", ")
        );
    };
    found.prefix = plain;
    let speech = Speech {
        routes: Routes::new(&found.prefix, &std::collections::BTreeMap::new()),
        ..(*Description::own().speech).clone()
    };
    let api = api.clone().speaking(&speech.clone().into()).map_err(into)?;
    let front = api.get("/").await.map_err(into)?;
    let front: Value = serde_json::from_slice(&front.body).unwrap_or_default();
    found.name = front["name"].as_str().unwrap_or_default().to_owned();
    find_key(&api, &speech, has_key, &mut found).await.map_err(into)?;
    let described = api.get("/openapi.json").await.map_err(into)?;
    match serde_json::from_slice::<Value>(&described.body) {
        Ok(_) if described.status == 200 => {
            let description = described.json().map_err(into)?;
            found.without = offers::lacking_parts(&description).iter().map(ToString::to_string).collect();
            found.form_field = form_field(&description);
        }
        _ => found.open.push(format!(
            "GET /openapi.json answers {}: optional parts and the encoding of runs are guesses",
            described.status
        )),
    }
    if let Some((engine, deployment)) = workspaces {
        match seen::look(engine, deployment).await {
            Ok(mut look) => {
                found.open.append(&mut look.open);
                found.workspaces = Some(look);
            }
            Err(why) => found.open.push(format!("what workspaces look like: {why:#}")),
        }
    }
    Ok(found)
}

async fn first_alive(api: &Api) -> Result<Option<String>, Failure> {
    for prefix in PREFIXES {
        if api.get(&format!("{prefix}/health/live")).await?.status == 200 {
            return Ok(Some(prefix.to_owned()));
        }
    }
    Ok(None)
}

/// Finds the header with which the key is accepted. Without a key, or where none is wanted, the contract's stays.
async fn find_key(api: &Api, speech: &Speech, has_key: bool, found: &mut Findings) -> Result<(), Failure> {
    if api.with_key(None).get("/api/tenants").await?.status != 401 {
        return Ok(());
    }
    if !has_key {
        found.open.push("it wants a key: give --api-key, and the header will be found".to_owned());
        return Ok(());
    }
    for (header, scheme) in KEYS {
        let speech = Speech { key_header: header.to_owned(), key_scheme: scheme.to_owned(), ..speech.clone() };
        if api.clone().speaking(&speech.into())?.get("/api/tenants").await?.status != 401 {
            found.key = Some((header.to_owned(), scheme.to_owned()));
            return Ok(());
        }
    }
    found.open.push("the key was accepted in none of the usual headers: set http.key_header".to_owned());
    Ok(())
}

/// The field of the form that begins a run, if the description has no JSON for it.
fn form_field(description: &Value) -> Option<String> {
    let paths = description["paths"].as_object()?;
    let run = paths.iter().find(|(path, item)| path.ends_with("/stream") && item.get("post").is_some())?.1;
    let content = run["post"]["requestBody"]["content"].as_object()?;
    let form = content.get("multipart/form-data").filter(|_| !content.contains_key("application/json"))?;
    let schema = &form["schema"];
    let referred = schema["$ref"].as_str().and_then(|path| description.pointer(path.trim_start_matches('#')));
    let fields = referred.unwrap_or(schema)["properties"].as_object();
    let named = fields.and_then(|fields| fields.keys().find(|name| *name != "files").cloned());
    Some(named.unwrap_or_else(|| REQUEST_FIELD.to_owned()))
}

impl Findings {
    /// A target file. What was not asked for stands in comments.
    #[must_use]
    pub fn file(&self) -> String {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let mut text = "# A first description of a target, found by asking it. Check it, and complete what is commented out.\n\
                        # Every key is explained in docs/contract/schema/target.schema.json; what is left out is as the contract says.\n"
            .to_owned();
        for open in &self.open {
            let _ = writeln!(text, "# Not known: {open}.");
        }
        let name = if self.name.is_empty() { "the target" } else { &self.name };
        let _ = write!(text, "\nname = {}\n\n[http]\n", quoted(name));
        let own = &Description::own().speech;
        let (header, scheme) = self.key.as_ref().map_or((&*own.key_header, ""), |(header, scheme)| (header, scheme));
        let _ = writeln!(text, "key_header = {}\nkey_scheme = {}", quoted(header), quoted(scheme));
        let _ = writeln!(text, "prefix = {}", quoted(&self.prefix));
        match &self.form_field {
            Some(field) => _ = write!(text, "runs = \"form\"\nform_field = {}\n", quoted(field)),
            None => text.push_str("runs = \"json\"\n"),
        }
        let parts: Vec<String> = self.without.iter().map(|part| quoted(part)).collect();
        let _ = write!(text, "\n[optional]\nwithout = [{}]\n", parts.join(", "));
        match &self.workspaces {
            Some(look) => {
                let seen: Vec<&str> = look.deployments.iter().map(String::as_str).collect();
                let _ =
                    write!(text, "\n# As the workspaces look that run now. For `host`: --docker SOCK --deployment ID");
                let _ = writeln!(
                    text,
                    "{}",
                    if seen.is_empty() { String::new() } else { format!(" ({})", seen.join(", ")) }
                );
                text.push_str("[containers]\n");
                for (key, value) in &look.containers {
                    let _ = writeln!(text, "{key} = {}", quoted(value));
                }
                if let Some(image) = &look.image {
                    let _ = write!(text, "\n[images]\nworkspace = {}\n", quoted(image));
                }
            }
            None => text.push_str(WORKSPACES),
        }
        text.push_str(LATER);
        text
    }
}

/// What an engine tells that was not asked.
const WORKSPACES: &str = r#"
# For `host`: how its workspaces are found, where that is not as the contract says.
# [containers]
# name = "room-{workspace}"
# deployment_label = "example.deployment"
# workspace_label = "example.workspace"
# [images]
# workspace = "example/workspace:1"
"#;

/// What only the target's team knows.
const LATER: &str = r#"
# For `full`: how the suite launches it, without --target.
# [launch]
# program = "bin/server"
# serve = ["serve", "--addr-file={addr_file}"]
# [settings]
# BIND_ADDR = "LISTEN_ON"
"#;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_found_is_a_valid_file_with_and_without_its_comments() {
        let found = Findings {
            name: "a \"name\"".to_owned(),
            prefix: "/v1".to_owned(),
            key: Some(("Authorization".to_owned(), "Token ".to_owned())),
            form_field: Some("body".to_owned()),
            without: vec!["admin".to_owned(), "files".to_owned()],
            workspaces: None,
            open: vec!["something".to_owned()],
        };
        let text = found.file();
        let whole: String = text
            .lines()
            .map(|line| {
                format!("{}\n", line.strip_prefix("# ").filter(|line| line.contains(['=', '['])).unwrap_or(line))
            })
            .collect();
        for text in [&text, &whole] {
            let described =
                Description::parse(text, Path::new("")).unwrap_or_else(|faults| panic!("{faults:?}: {text}"));
            assert_eq!(described.name, "a \"name\"");
            assert_eq!((&*described.speech.key_header, &*described.speech.key_scheme), ("Authorization", "Token "));
            assert_eq!(described.speech.routes.target("/x"), "/v1/x");
            assert_eq!((described.speech.runs_are_forms, &*described.speech.form.request), (true, "body"));
            assert_eq!(described.without, ["admin", "files"]);
        }
        assert!(Description::parse(&whole, Path::new("")).expect("valid").launch.program.is_some());
        assert_eq!(
            Description::parse(&Findings::default().file(), Path::new("")).expect("valid").speech,
            Description::own().speech
        );
    }

    #[test]
    fn what_workspaces_look_like_is_part_of_the_file() {
        let look = Look {
            containers: vec![("name", "room-{workspace}".to_owned()), ("deployment_label", "x.d".to_owned())],
            image: Some("theirs:1".to_owned()),
            deployments: ["one".to_owned()].into(),
            open: Vec::new(),
        };
        let text = Findings { workspaces: Some(look), ..Findings::default() }.file();
        let described = Description::parse(&text, Path::new("")).unwrap_or_else(|faults| panic!("{faults:?}: {text}"));
        assert_eq!(
            (described.containers.name("7"), &*described.containers.deployment_label),
            ("room-7".to_owned(), "x.d")
        );
        assert_eq!(described.images.workspace.as_deref(), Some("theirs:1"));
        assert!(text.contains("--deployment ID (one)"), "{text}");
    }

    #[test]
    fn runs_are_forms_where_only_a_form_is_described() {
        let with = |content: Value| {
            json!({"paths": {"/t/{a}/stream": {"post": {"requestBody": {"content": content}}}}, "components":
            {"schemas": {"Run": {"properties": {"files": {}, "query": {}}}}}})
        };
        let form = json!({"schema": {"$ref": "#/components/schemas/Run"}});
        assert_eq!(form_field(&with(json!({"multipart/form-data": form}))).as_deref(), Some("query"));
        assert_eq!(form_field(&with(json!({"multipart/form-data": form, "application/json": {}}))), None);
        assert_eq!(form_field(&with(json!({"multipart/form-data": {}}))).as_deref(), Some("request_data"));
        assert_eq!(form_field(&json!({})), None);
    }
}
