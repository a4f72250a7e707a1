//! How the agent works on a run: what a configuration says about it, and what applies where levels meet.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::problem::{Problems, check_list};
use super::resolve::{Decided, Level};

/// Length of the instructions of one level, in characters.
const LONGEST_INSTRUCTIONS: usize = 32 * 1024;
/// Length of a directory's path, in bytes: the kernel takes 4,096 of the whole path.
const LONGEST_DIRECTORY: usize = 1_024;
/// Size of a schema as JSON, in bytes. The driver gets it as one argument, of which the kernel takes 128 KiB (execve(2)).
const LARGEST_SCHEMA: usize = 32 * 1024;
/// Models that may stand in for another one.
const MOST_FALLBACKS: usize = 5;
/// Variables of one level.
const MOST_VARIABLES: usize = 50;
/// Length of a variable's value, in bytes.
const LONGEST_VALUE: usize = 4 * 1024;
/// Beginnings of the names of variables that lead the driver, its runtime or a program's loader elsewhere.
const RESERVED: [&str; 33] = [
    "ANTHROPIC",
    "API_",
    "AWS_",
    "AZURE",
    "BASH",
    "BEDROCK",
    "BUN",
    "CLAUDE",
    "CLOUD_ML",
    "CURL_",
    "DEBUG",
    "DISABLE_",
    "DYLD_",
    "ENABLE_",
    "FORCE_",
    "GCLOUD",
    "GIT_",
    "GOOGLE_",
    "IS_",
    "LD_",
    "MALLOC",
    "MAX_",
    "MCP_",
    "NODE_",
    "NPM_CONFIG_",
    "OTEL_",
    "PIP_",
    "REQUESTS_",
    "SSL_",
    "UNDICI",
    "USE_",
    "VERTEX",
    "XDG_",
];
/// Names that do the same.
const RESERVED_NAMES: [&str; 14] = [
    "CDPATH",
    "ENV",
    "GLOBIGNORE",
    "HOME",
    "HOSTALIASES",
    "IFS",
    "LOCALDOMAIN",
    "LOGNAME",
    "PATH",
    "PROMPT_COMMAND",
    "PS4",
    "SHELL",
    "TMPDIR",
    "USER",
];
/// Parts of the names of variables that hold credentials.
const SECRETS: [&str; 6] = ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "API_KEY"];

/// How the agent works.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = ConfigurationAgent)]
pub struct Agent {
    /// Ids of models that are asked, in this order, where the run's model is overloaded or not available. They must be models that may be
    /// used, of the same provider and region. The lowest level that has the field decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 5)]
    pub fallback_models: Option<Vec<String>>,
    /// How much effort the model spends, at most; the driver's default where no level says so. A level can only lower it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effort: Option<Effort>,
    /// Instructions that follow the tenant's system prompt and those of the levels above, up to 32,768 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 32_768, pattern = r"^[^\u0000]*$")]
    pub instructions: Option<String>,
    /// JSON Schema of the result, an object, up to 32 KiB. The run's `done` then has `structured_output`. The lowest level that has the field
    /// decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub output_schema: Option<Map<String, Value>>,
    /// Directory in which the agent works, relative to the workspace; it must exist. Up to 1,024 bytes of UTF-8, and up to 255 in each of its
    /// parts, as file systems count. The lowest level that has the field decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1_024)]
    pub directory: Option<String>,
    /// Variables of the environment of the agent's tools, up to 50, by their names of upper-case letters, digits and '_'. The levels' are
    /// put together; of a name that several have, the lowest counts. None may hold a credential: that belongs into a vault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<BTreeMap<String, String>>,
}

/// How much effort the model spends, from the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Effort {
    /// The least: short answers, few thoughts.
    Low,
    /// Less than usual.
    Medium,
    /// The usual of most models.
    High,
    /// More than usual.
    Xhigh,
    /// As much as the model can.
    Max,
}

impl Effort {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Xhigh => "xhigh",
            Self::Max => "max",
        }
    }
}

/// How the agent works, each value with where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = EffectiveAgent)]
pub struct EffectiveAgent {
    /// Ids of the models that stand in for the run's.
    pub fallback_models: Decided<Vec<String>>,
    /// How much effort the model spends; the driver's default if null.
    pub effort: Decided<Option<Effort>>,
    /// The instructions of all levels, in their order.
    pub instructions: Decided<Option<String>>,
    /// JSON Schema of the result.
    #[schema(value_type = Object)]
    pub output_schema: Decided<Option<Map<String, Value>>>,
    /// Directory in which the agent works, relative to the workspace.
    pub directory: Decided<Option<String>>,
    /// Variables of the environment of the agent's tools.
    pub environment: Decided<BTreeMap<String, String>>,
}

impl Default for EffectiveAgent {
    fn default() -> Self {
        Self {
            fallback_models: Decided::operators(Vec::new()),
            effort: Decided::operators(None),
            instructions: Decided::operators(None),
            output_schema: Decided::operators(None),
            directory: Decided::operators(None),
            environment: Decided::operators(BTreeMap::new()),
        }
    }
}

impl EffectiveAgent {
    /// What applies once a level has had its say.
    pub(super) fn narrow(&mut self, from: Level, own: &Agent) {
        let Agent { fallback_models, effort, instructions, output_schema, directory, environment } = own;
        if let Some(models) = fallback_models {
            self.fallback_models = Decided { value: models.clone(), from };
        }
        if let Some(effort) = effort.filter(|effort| self.effort.value.is_none_or(|above| *effort < above)) {
            self.effort = Decided { value: Some(effort), from };
        }
        if let Some(added) = instructions {
            let value = match self.instructions.value.take() {
                Some(above) => format!("{above}\n\n{added}"),
                None => added.clone(),
            };
            self.instructions = Decided { value: Some(value), from };
        }
        if let Some(schema) = output_schema {
            self.output_schema = Decided { value: Some(schema.clone()), from };
        }
        if let Some(directory) = directory {
            self.directory = Decided { value: Some(directory.clone()), from };
        }
        if let Some(variables) = environment {
            self.environment.value.extend(variables.clone());
            self.environment.from = from;
        }
    }
}

impl Agent {
    pub(super) fn check(&self, problems: &mut Problems) {
        check_list(problems, "agent.fallback_models", self.fallback_models.as_deref());
        let few = self.fallback_models.as_ref().is_none_or(|models| models.len() <= MOST_FALLBACKS);
        problems.require(few, "agent.fallback_models", format!("must be at most {MOST_FALLBACKS}"));
        if let Some(text) = &self.instructions {
            let fits = (1..=LONGEST_INSTRUCTIONS).contains(&text.chars().count()) && !text.contains('\0');
            let accepted = format!("must have 1 to {LONGEST_INSTRUCTIONS} characters, none of them NUL");
            problems.require(fits, "agent.instructions", accepted);
        }
        if let Some(schema) = &self.output_schema {
            let object = schema.get("type").is_some_and(|kind| kind == "object");
            problems.require(object, "agent.output_schema", "must be a JSON Schema with \"type\": \"object\"");
            let bytes = serde_json::to_vec(schema).map_or(usize::MAX, |text| text.len());
            let small = bytes <= LARGEST_SCHEMA;
            problems.require(small, "agent.output_schema", format!("must have at most {LARGEST_SCHEMA} bytes as JSON"));
        }
        if let Some(directory) = &self.directory {
            let accepted = "must be a path below the workspace: no '/' at its ends, no empty part, '.', '..' or control character; up to 1024 bytes, \
                 255 in each part";
            problems.require(is_directory(directory), "agent.directory", accepted);
        }
        if let Some(variables) = &self.environment {
            let few = variables.len() <= MOST_VARIABLES;
            problems.require(few, "agent.environment", format!("must have at most {MOST_VARIABLES} entries"));
            for (name, value) in variables.iter().take(MOST_VARIABLES) {
                let place = format!("agent.environment.{name}");
                if let Some(why) = refusal(name) {
                    problems.add(&*place, why);
                }
                let fits = value.len() <= LONGEST_VALUE && !value.contains('\0');
                problems.require(fits, &*place, format!("must have at most {LONGEST_VALUE} bytes, none of them NUL"));
            }
        }
    }

    /// Where this goes beyond what applies above; `models` are those that may be used.
    pub(super) fn exceed(&self, above: &EffectiveAgent, models: &[String], problems: &mut Problems) {
        for (at, model) in self.fallback_models.iter().flatten().enumerate() {
            let why = format!("there is no active model {model:?} that may be used here");
            problems.require(models.contains(model), format!("agent.fallback_models[{at}]"), why);
        }
        if let (Some(effort), Some(most)) = (self.effort, above.effort.value) {
            problems.require(effort <= most, "agent.effort", format!("must be at most {}", most.name()));
        }
    }
}

fn is_directory(path: &str) -> bool {
    path.len() <= LONGEST_DIRECTORY
        && !path.chars().any(char::is_control)
        && path.split('/').all(|part| !matches!(part, "" | "." | "..") && part.len() <= 255)
}

/// Why a variable of this name is refused; `None` if it is accepted.
fn refusal(name: &str) -> Option<&'static str> {
    let plain = name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
    if !plain || !name.starts_with(|first: char| first.is_ascii_uppercase()) || name.len() > 64 {
        return Some("must be named by 1 to 64 upper-case letters, digits and '_', beginning with a letter");
    }
    if SECRETS.iter().any(|part| name.contains(part)) || name.ends_with("_KEY") {
        return Some("credentials are not given to workspaces: put it into a vault");
    }
    if RESERVED.iter().any(|start| name.starts_with(start)) || RESERVED_NAMES.contains(&name) || name.contains("PROXY")
    {
        return Some("is reserved: such a variable would lead the driver or its tools elsewhere");
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn agent(json: Value) -> Agent {
        serde_json::from_value(json).expect("an agent")
    }

    fn places(agent: &Agent) -> Vec<String> {
        let mut problems = Problems::default();
        agent.check(&mut problems);
        problems.0.into_iter().map(|problem| problem.place).collect()
    }

    #[test]
    fn levels_narrow_add_or_decide() {
        let mut effective = EffectiveAgent::default();
        effective.narrow(
            Level::Tenant,
            &agent(json!({"effort": "high", "instructions": "one", "directory": "a", "fallback_models": ["m"],
                "environment": {"A": "1", "B": "1"}})),
        );
        effective.narrow(
            Level::Run,
            &agent(json!({"effort": "max", "instructions": "two", "directory": "b/c", "fallback_models": [],
                "environment": {"B": "2"}, "output_schema": {"type": "object"}})),
        );
        assert_eq!(effective.effort, Decided { value: Some(Effort::High), from: Level::Tenant }, "only lowered");
        assert_eq!(effective.instructions, Decided { value: Some("one\n\ntwo".into()), from: Level::Run });
        assert_eq!((effective.directory.value.as_deref(), effective.fallback_models.value.len()), (Some("b/c"), 0));
        let variables = [("A", "1"), ("B", "2")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(effective.environment.value, BTreeMap::from(variables));
        assert!(effective.output_schema.value.is_some());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        assert_eq!(
            places(&agent(json!({"directory": "a/b c/長", "environment": {"LANG": "C", "MY_VAR_1": ""}}))),
            [""; 0]
        );
        let bad = json!({"fallback_models": ["a", "b", "c", "d", "e", "f"], "instructions": "", "output_schema": {"type": "array"},
            "directory": "../a", "environment": {"lower": ""}});
        assert_eq!(
            places(&agent(bad)),
            [
                "agent.fallback_models",
                "agent.instructions",
                "agent.output_schema",
                "agent.directory",
                "agent.environment.lower"
            ]
        );
        for path in ["", "/a", "a/", "a//b", "./a", "a/..", "a\nb"] {
            assert_eq!(places(&agent(json!({"directory": path}))), ["agent.directory"], "{path:?}");
        }
        for name in [
            "HTTP_PROXY",
            "NO_PROXY",
            "ALL_PROXY_X",
            "ANTHROPIC_BASE_URL",
            "CLAUDE_CONFIG_DIR",
            "AWS_REGION",
            "NODE_OPTIONS",
            "LD_PRELOAD",
            "BASH_ENV",
            "PATH",
            "HOME",
            "ENV",
            "GITHUB_TOKEN",
            "DB_PASSWORD",
            "SIGNING_KEY",
            "MAX_THINKING_TOKENS",
            "DISABLE_TELEMETRY",
            "",
            "A-B",
            "1A",
        ] {
            assert_eq!(places(&agent(json!({"environment": {name: "x"}}))).len(), 1, "{name}");
        }
    }

    #[test]
    fn limits_are_exact() {
        let schema = |bytes: usize| {
            let mut schema = json!({"type": "object", "title": ""});
            let least = schema.to_string().len();
            schema["title"] = json!("x".repeat(bytes - least));
            json!({"output_schema": schema})
        };
        let variables = |count: usize| {
            let variables: BTreeMap<String, &str> = (0..count).map(|number| (format!("V{number}"), "x")).collect();
            json!({"environment": variables})
        };
        let models = |count: usize| json!({"fallback_models": (0..count).map(|n| n.to_string()).collect::<Vec<_>>()});
        let named = |length: usize| json!({"environment": {"A".repeat(length): "x"}});
        for (fits, exceeds) in [
            (schema(LARGEST_SCHEMA), schema(LARGEST_SCHEMA + 1)),
            (variables(MOST_VARIABLES), variables(MOST_VARIABLES + 1)),
            (models(MOST_FALLBACKS), models(MOST_FALLBACKS + 1)),
            (named(64), named(65)),
            (
                json!({"environment": {"A": "x".repeat(LONGEST_VALUE)}}),
                json!({"environment": {"A": "x".repeat(LONGEST_VALUE + 1)}}),
            ),
            (
                json!({"instructions": "\u{e9}".repeat(LONGEST_INSTRUCTIONS)}),
                json!({"instructions": "\u{e9}".repeat(LONGEST_INSTRUCTIONS + 1)}),
            ),
            (json!({"directory": "x".repeat(255)}), json!({"directory": "x".repeat(256)})),
            (
                json!({"directory": format!("{}a", "\u{e9}/".repeat(LONGEST_DIRECTORY / 3))}),
                json!({"directory": format!("{}ab", "\u{e9}/".repeat(LONGEST_DIRECTORY / 3))}),
            ),
            (json!({"instructions": "x"}), json!({"instructions": "a\0"})),
            (json!({"environment": {"A": "x"}}), json!({"environment": {"A": "a\0"}})),
        ] {
            assert_eq!(places(&agent(fits)), [""; 0]);
            assert_eq!(places(&agent(exceeds)).len(), 1);
        }
    }

    #[test]
    fn what_goes_beyond_the_level_above_is_told() {
        let above = EffectiveAgent {
            effort: Decided { value: Some(Effort::Low), from: Level::Tenant },
            ..EffectiveAgent::default()
        };
        let mut problems = Problems::default();
        agent(json!({"effort": "high", "fallback_models": ["a", "b"]})).exceed(&above, &["a".into()], &mut problems);
        let places: Vec<_> = problems.0.iter().map(|problem| problem.place.as_str()).collect();
        assert_eq!(places, ["agent.fallback_models[1]", "agent.effort"]);
        for effort in [Effort::Low, Effort::Medium, Effort::High, Effort::Xhigh, Effort::Max] {
            let above = EffectiveAgent {
                effort: Decided { value: Some(Effort::High), from: Level::Tenant },
                ..EffectiveAgent::default()
            };
            let mut problems = Problems::default();
            agent(json!({"effort": effort.name()})).exceed(&above, &[], &mut problems);
            assert_eq!(problems.0.is_empty(), effort <= Effort::High, "{}", effort.name());
            let mut problems = Problems::default();
            agent(json!({"effort": effort.name()})).exceed(&EffectiveAgent::default(), &[], &mut problems);
            assert!(problems.0.is_empty(), "no level above says anything");
        }
    }
}
