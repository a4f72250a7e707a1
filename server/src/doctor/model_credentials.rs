//! Whether requests to the model would get their credentials.

use nagaya_egress::Chain;

use super::Finding;
use crate::aws;
use crate::config::Config;
use crate::providers::Provider;

/// Looks for every credential that a rule of the egress proxy promises. AWS's own are fetched, but not shown to AWS; that of the Messages
/// API is not tried there.
pub(super) async fn check(config: &Config) -> Finding {
    let (rules, providers) = (&config.egress.credentials, &config.providers);
    let missing = rules.missing_secrets();
    if !missing.is_empty() {
        return Finding::Bad(missing.join("; "), "Set the variable, or write the file, that the rule names.".into());
    }
    let allowed = |host: &str, port| config.egress.allowed.allows_host(host, port);
    if let Some(endpoint) = &providers.anthropic
        && let Some(why) = providers.unreachable(Provider::Anthropic, None, allowed)
    {
        return Finding::Bad(
            format!("{endpoint} gets its credential, but {why}"),
            "PROXY_ALLOWED_DOMAINS replaces the default, which has the endpoints of all providers.".into(),
        );
    }
    let messages =
        providers.anthropic.as_ref().map(|endpoint| format!("{endpoint} gets its credential (not tried there)"));
    if !rules.need_aws() {
        return Finding::Ok(messages.unwrap_or_else(|| "every rule has its secret; no rule signs requests".into()));
    }
    match Chain::new(aws::credentials(&providers.region).await).credentials().await {
        Ok(found) => {
            let aws = format!("AWS access key {} (not tried at AWS)", found.access_key_id());
            Finding::Ok(messages.map_or(aws.clone(), |messages| format!("{aws}; {messages}")))
        }
        Err(error) => Finding::Bad(
            format!("requests to Bedrock cannot be signed: {error}"),
            format!(
                "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or another source of the AWS credential chain; or {}.",
                match messages {
                    Some(_) => "set MODEL_PROVIDERS=anthropic, if no model is called at Bedrock",
                    None => "set ANTHROPIC_API_KEY, to call models at the Messages API instead",
                }
            ),
        ),
    }
}
