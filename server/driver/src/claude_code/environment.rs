//! The environment that leads the CLI to its model.

use std::collections::BTreeMap;

use crate::access::{Access, Place};

/// How often the CLI repeats a call of the model: five attempts within about ten seconds.
const MODEL_RETRIES: u32 = 4;

/// What the CLI is given as its credential for the Messages API. It refuses to start without one; the egress proxy removes it and adds the
/// real one.
///
/// It is a bearer token and not a key: with a key, the CLI asks Anthropic for its organisation's settings and limits before
/// each run, in a tunnel that the proxy refuses, and repeats that for twenty seconds.
const PLACEHOLDER: &str = "the-egress-proxy-adds-the-credential";

/// Every variable that may be set here, but for the region, which other programs use too, and those under which somebody could give the
/// CLI another credential.
const VARIABLES: [&str; 16] = [
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "ANTHROPIC_BASE_URL",
    "ANTHROPIC_BEDROCK_BASE_URL",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL",
    "ANTHROPIC_DEFAULT_OPUS_MODEL",
    "ANTHROPIC_DEFAULT_SONNET_MODEL",
    "CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS",
    "CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS",
    "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK",
    "CLAUDE_CODE_MAX_RETRIES",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_CODE_SKIP_BEDROCK_AUTH",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_ENABLE_BYTE_WATCHDOG",
    "CLAUDE_ENABLE_BYTE_WATCHDOG_BEDROCK",
];

/// Variables that name the CLI's models for sub-agents and small tasks. The proxy passes on the conversation's alone.
const OTHER_MODELS: [&str; 3] =
    ["ANTHROPIC_DEFAULT_OPUS_MODEL", "ANTHROPIC_DEFAULT_SONNET_MODEL", "ANTHROPIC_DEFAULT_HAIKU_MODEL"];

/// The variables of a CLI that is to call `model` there. Those that lead to another provider are removed: `None`.
pub(super) fn of_a_run(access: &Access, model: &str) -> BTreeMap<String, Option<String>> {
    let mut variables: BTreeMap<_, _> = VARIABLES.iter().map(|name| ((*name).to_owned(), None)).collect();
    let set = leading_to(access).into_iter().chain(OTHER_MODELS.map(|name| (name, model.to_owned())));
    variables.extend(set.map(|(name, value)| (name.to_owned(), Some(value))));
    variables
}

/// The variables of a container. There is no model yet whose name could be given to others.
pub(super) fn of_a_container(access: &Access) -> BTreeMap<String, String> {
    let always = [
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".to_owned()),
        // A run ends with the driver's turn, so a sub-agent or command in the background would be killed before it completes.
        ("CLAUDE_CODE_DISABLE_BACKGROUND_TASKS", "1".to_owned()),
        ("DISABLE_AUTOUPDATER", "1".to_owned()),
    ];
    let variables = leading_to(access).into_iter().chain(always);
    variables.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A call that fails is repeated at most [`MODEL_RETRIES`] times, and an answer that stalls is given up: the CLI's own limits are some
/// minutes, ten attempts, and a second, unstreamed request for an answer whose beginning was shown already.
fn leading_to(access: &Access) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        ("CLAUDE_CODE_MAX_RETRIES", MODEL_RETRIES.to_string()),
        ("CLAUDE_ENABLE_BYTE_WATCHDOG", "1".into()),
        ("CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS", access.idle.as_millis().to_string()),
        ("CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK", "1".into()),
    ];
    match &access.place {
        Place::Bedrock { region, url } => variables.extend([
            ("AWS_REGION", region.clone()),
            ("CLAUDE_CODE_USE_BEDROCK", "1".into()),
            ("CLAUDE_CODE_SKIP_BEDROCK_AUTH", "1".into()),
            ("ANTHROPIC_BEDROCK_BASE_URL", url.clone()),
            ("CLAUDE_ENABLE_BYTE_WATCHDOG_BEDROCK", "1".into()),
        ]),
        Place::Messages { url, is_anthropics } => {
            variables.extend([("ANTHROPIC_BASE_URL", url.clone()), ("ANTHROPIC_AUTH_TOKEN", PLACEHOLDER.into())]);
            if !is_anthropics {
                // The CLI would send headers and fields that Anthropic is trying out, which a gateway may refuse.
                variables.push(("CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS", "1".into()));
            }
        }
    }
    variables
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn access(place: Place) -> Access {
        Access { place, idle: Duration::from_secs(10) }
    }

    fn bedrock() -> Access {
        access(Place::Bedrock { region: "eu-west-1".into(), url: "http://bedrock.example".into() })
    }

    fn messages(is_anthropics: bool) -> Access {
        access(Place::Messages { url: "http://gw.example:8443/a".into(), is_anthropics })
    }

    #[test]
    fn every_variable_of_one_provider_is_removed_for_the_other() {
        for is_anthropics in [true, false] {
            let mut bedrock = of_a_run(&bedrock(), "b");
            let anthropic = of_a_run(&messages(is_anthropics), "a");
            assert_eq!(bedrock.remove("AWS_REGION"), Some(Some("eu-west-1".into())));
            assert_eq!(bedrock["ANTHROPIC_DEFAULT_HAIKU_MODEL"].as_deref(), Some("b"));
            assert_eq!(bedrock["CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS"].as_deref(), Some("10000"));
            assert!(bedrock.keys().eq(anthropic.keys()), "one of them leaves a variable as the container has it");
            assert_eq!((&bedrock["ANTHROPIC_BASE_URL"], &bedrock["ANTHROPIC_AUTH_TOKEN"]), (&None, &None));
            assert_eq!(
                (&anthropic["CLAUDE_CODE_USE_BEDROCK"], &anthropic["ANTHROPIC_BEDROCK_BASE_URL"]),
                (&None, &None)
            );
            assert_eq!(anthropic["ANTHROPIC_BASE_URL"].as_deref(), Some("http://gw.example:8443/a"));
            // With a key the CLI asks for settings and limits of its organisation before each run.
            assert_eq!(anthropic["ANTHROPIC_API_KEY"], None);
        }
    }

    #[test]
    fn a_gateway_gets_nothing_that_anthropic_is_trying_out() {
        let betas = |access: &Access| of_a_run(access, "m")["CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS"].clone();
        assert!(betas(&messages(false)).is_some());
        assert_eq!(betas(&messages(true)), None);
    }

    #[test]
    fn a_container_names_no_model() {
        for access in [bedrock(), messages(true)] {
            let variables = of_a_container(&access);
            assert!(variables.values().all(|value| !value.is_empty()), "{variables:?}");
            assert!(variables.keys().all(|name| !OTHER_MODELS.contains(&name.as_str())), "{variables:?}");
            assert_eq!(variables["DISABLE_AUTOUPDATER"], "1");
        }
    }
}
