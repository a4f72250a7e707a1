//! What a client is told when calls of the model fail.

use crate::conversation::event::ErrorType;
use crate::conversation::store::Model;
use crate::messages_api::Endpoint;
use crate::providers::{Provider, Providers};

/// The message for a run that ended because calls of the model failed. `status` is the endpoint's answer, if there was one.
pub(super) fn message(providers: &Providers, model: &Model, status: Option<u16>, said: &str) -> String {
    let advice = match (model.provider, &providers.anthropic) {
        (Provider::Bedrock, _) => bedrock(status).to_owned(),
        (Provider::Anthropic, Some(endpoint)) => messages_api(endpoint, status),
        (Provider::Anthropic, None) => {
            providers.missing(Provider::Anthropic).map(|why| format!("; {why}")).unwrap_or_default()
        }
    };
    format!("the model {} cannot be used: {said}{advice}", model.provider_model_id)
}

/// Why what the model has said is no whole answer, by the reason with which its last answer has ended; `None` if it is one.
pub(super) fn no_answer(model: &Model, stop_reason: Option<&str>) -> Option<(ErrorType, String)> {
    let id = &model.provider_model_id;
    let cut_off = |why: &str| {
        (ErrorType::AnswerCutOff, format!("the answer of the model {id} is cut off: {why}; ask for a part at a time"))
    };
    match stop_reason? {
        "refusal" => Some((ErrorType::ModelRefused, format!("the model {id} has refused to answer this"))),
        "max_tokens" => Some(cut_off("it is longer than an answer of this model may be")),
        "model_context_window_exceeded" => Some(cut_off("the model's context is full")),
        _ => None,
    }
}

fn bedrock(status: Option<u16>) -> &'static str {
    match status {
        Some(401 | 403) => {
            "; the server's operator checks its AWS credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, or another source of the \
             AWS credential chain), their permission to call this model, and PROXY_CREDENTIALS"
        }
        _ => "",
    }
}

/// The driver's own words name its variables, which are not the operator's, and a command to log in, which nobody can type.
fn messages_api(endpoint: &Endpoint, status: Option<u16>) -> String {
    match status {
        Some(401 | 403) => format!(
            "; the server's operator checks the credential for {endpoint} (ANTHROPIC_API_KEY, or ANTHROPIC_AUTH_TOKEN), its permission to \
             use this model, and PROXY_CREDENTIALS"
        ),
        Some(404) => format!(
            "; the server's operator checks the model's provider_model_id, and ANTHROPIC_BASE_URL, which leads to {endpoint}"
        ),
        Some(429) => format!(
            "; {endpoint} limits the requests or tokens of this server's credential (ANTHROPIC_API_KEY, or ANTHROPIC_AUTH_TOKEN); try \
             again later"
        ),
        Some(529) => format!("; {endpoint} is overloaded; try again later"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn model(provider: &str) -> Model {
        serde_json::from_value(json!({
            "model_id": "m", "display_name": "M", "provider": provider, "provider_model_id": "at-provider", "model_region": null,
            "context_window": 1, "max_output_tokens": 1, "input_token_price": "0", "output_token_price": "0", "status": "active",
            "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
        }))
        .expect("a model")
    }

    fn told(provider: &str, url: Option<&str>, status: u16) -> String {
        let anthropic = url.map(|url| Endpoint::parse(url).expect(url));
        let providers =
            Providers { bedrock: true, anthropic, region: "us-east-1".into(), idle: Duration::from_secs(60) };
        message(&providers, &model(provider), Some(status), "said")
    }

    #[test]
    fn an_answer_that_is_refused_or_cut_off_is_none() {
        let kind = |reason| no_answer(&model("bedrock"), reason).map(|(kind, _)| kind);
        assert_eq!(kind(Some("refusal")), Some(ErrorType::ModelRefused));
        for reason in ["max_tokens", "model_context_window_exceeded"] {
            assert_eq!(kind(Some(reason)), Some(ErrorType::AnswerCutOff), "{reason}");
        }
        for reason in [None, Some("end_turn"), Some("stop_sequence"), Some("tool_use"), Some("of_the_future")] {
            assert_eq!(kind(reason), None, "{reason:?}");
        }
    }

    #[test]
    fn a_refusal_names_the_settings_of_the_models_provider() {
        let (own, gateway) = (Some("https://api.anthropic.com"), Some("https://gw.example/llm"));
        let bedrock = told("bedrock", own, 403);
        assert!(bedrock.starts_with("the model at-provider cannot be used: said; "), "{bedrock}");
        assert!(bedrock.contains("AWS_ACCESS_KEY_ID") && !bedrock.contains("ANTHROPIC"), "{bedrock}");
        for status in [401, 403, 429] {
            let (own, gateway) = (told("anthropic", own, status), told("anthropic", gateway, status));
            assert!(own.contains("ANTHROPIC_API_KEY") && own.contains("https://api.anthropic.com"), "{own}");
            assert!(gateway.contains("https://gw.example/llm") && !gateway.contains("AWS"), "{gateway}");
        }
        assert!(told("anthropic", gateway, 404).contains("ANTHROPIC_BASE_URL"));
        assert!(told("anthropic", own, 529).contains("overloaded"));
        assert!(told("anthropic", None, 403).contains("ANTHROPIC_API_KEY"));
        for status in [400, 529] {
            assert_eq!(told("bedrock", own, status), "the model at-provider cannot be used: said");
        }
    }
}
