//! Whether requests to the model would get their credentials.

use nagaya_egress::Chain;

use super::Finding;
use crate::aws;
use crate::config::Config;

/// Looks for every credential that a rule of the egress proxy promises. AWS's own are fetched, but not shown to AWS.
pub(super) async fn check(config: &Config) -> Finding {
    let rules = &config.egress.credentials;
    let missing = rules.missing_secrets();
    if !missing.is_empty() {
        return Finding::Bad(missing.join("; "), "Set the variable, or write the file, that the rule names.".into());
    }
    if !rules.need_aws() {
        return Finding::Ok("every rule has its secret; no rule signs requests".into());
    }
    match Chain::new(aws::credentials(&config.region).await).credentials().await {
        Ok(found) => Finding::Ok(format!("AWS access key {} (not tried at AWS)", found.access_key_id())),
        Err(error) => Finding::Bad(
            format!("requests to the model cannot be signed: {error}"),
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or another source of the AWS credential chain. ANTHROPIC_API_KEY is no \
             substitute: workspaces call their models at Bedrock."
                .into(),
        ),
    }
}
