//! What a client is told when calls of the model fail.

/// The message for a run that ended because calls of the model failed. `status` is the endpoint's answer, if there was one.
pub(super) fn message(model: &str, status: Option<u16>, said: &str) -> String {
    let advice = match status {
        Some(401 | 403) => {
            "; the server's operator checks its AWS credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, or another source of the \
             AWS credential chain), their permission to call this model, and PROXY_CREDENTIALS"
        }
        _ => "",
    };
    format!("the model {model} cannot be used: {said}{advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_settings() {
        let told = message("m", Some(403), "refused");
        assert!(
            told.starts_with("the model m cannot be used: refused") && told.contains("AWS_ACCESS_KEY_ID"),
            "{told}"
        );
        assert!(!message("m", Some(529), "overloaded").contains("AWS"));
    }
}
