//! What is known of the model's answers while a turn runs: their tokens, so that a turn that is cut off has a count, and why the last one
//! has ended.
//!
//! Source: Anthropic, "Streaming Messages": `message_start` has the input's tokens, and each `message_delta` the output's so far. The last
//! `message_delta` of an answer has its `stop_reason`.

use std::collections::HashMap;

use serde_json::Value;

use crate::event::Usage;

/// The tokens of the model calls that have been seen so far.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    /// Of answers that were followed by another one of the same agent.
    before: Usage,
    /// Of the latest answer of each agent: the main one, and sub-agents by the tool use that started them.
    latest: HashMap<Option<String>, Usage>,
    /// Why the main agent's last answer has ended.
    stop_reason: Option<String>,
}

/// The CLI's word for an answer that needs more tokens than one may have, also in further attempts.
const OUT_OF_TOKENS: &str = "max_output_tokens";

/// Agents of one turn that are counted one by one; what further ones use is known at the end.
const MOST_AGENTS: usize = 200;

impl Counted {
    /// Takes an event of a streamed answer of the agent `parent`; returns the sum so far if the event changes it.
    pub(crate) fn see(&mut self, event: &Value, parent: Option<&str>) -> Option<Usage> {
        let agent = parent.map(ToOwned::to_owned);
        if self.latest.len() >= MOST_AGENTS && !self.latest.contains_key(&agent) {
            return None;
        }
        match event["type"].as_str()? {
            "message_start" => {
                let earlier = self.latest.insert(agent, of(&event["message"]["usage"]));
                self.before += earlier.unwrap_or_default();
            }
            "message_delta" => {
                if let (None, Some(reason)) = (parent, event["delta"]["stop_reason"].as_str()) {
                    self.stop_reason = Some(reason.to_owned());
                }
                self.latest.entry(agent).or_default().output_tokens = event["usage"]["output_tokens"].as_u64()?;
            }
            _ => return None,
        }
        let mut sum = self.before;
        self.latest.values().for_each(|usage| sum += *usage);
        Some(sum)
    }

    /// Takes a message of the CLI's own in the place of an answer: it says what has failed by `error`, and that it asks no further.
    pub(crate) fn fail(&mut self, error: &str, stop_reason: Option<&str>) {
        self.stop_reason = match (error, stop_reason) {
            (OUT_OF_TOKENS, _) => Some("max_tokens".into()),
            (_, Some("refusal")) => Some("refusal".into()),
            _ => None,
        };
    }

    /// Why the main agent's last answer has ended.
    pub(crate) fn stop_reason(&self) -> Option<String> {
        self.stop_reason.clone()
    }
}

/// The counts in a `usage` object of the Messages API.
pub(crate) fn of(usage: &Value) -> Usage {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let hour = number(&usage["cache_creation"]["ephemeral_1h_input_tokens"]);
    Usage {
        input_tokens: number(&usage["input_tokens"]),
        output_tokens: number(&usage["output_tokens"]),
        // Older versions of the API report only the total.
        cache_creation_5m_tokens: number(&usage["cache_creation_input_tokens"]).saturating_sub(hour),
        cache_creation_1h_tokens: hour,
        cache_read_tokens: number(&usage["cache_read_input_tokens"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn answers_add_up_and_the_output_of_each_is_its_last_count() {
        let mut counted = Counted::default();
        let start = |input: u64| json!({"type": "message_start", "message": {"usage": {"input_tokens": input, "output_tokens": 1}}});
        let delta = |output: u64| json!({"type": "message_delta", "usage": {"output_tokens": output}});
        let mut sum =
            |event: Value, parent| counted.see(&event, parent).map(|usage| (usage.input_tokens, usage.output_tokens));
        assert_eq!(sum(start(10), None), Some((10, 1)));
        assert_eq!(sum(delta(5), None), Some((10, 5)));
        assert_eq!(sum(delta(9), None), Some((10, 9)));
        assert_eq!(
            sum(start(100), Some("sub")),
            Some((110, 10)),
            "a sub-agent's answer, in the middle of the main one's"
        );
        assert_eq!(sum(start(20), None), Some((130, 11)));
        assert_eq!(sum(json!({"type": "content_block_stop"}), None), None);
    }
    #[test]
    fn each_kind_of_tokens_is_read_from_its_own_field() {
        for (usage, expected) in [
            (json!({}), [0, 0, 0, 0, 0]),
            (json!({"input_tokens": 1, "output_tokens": 2, "cache_read_input_tokens": 5}), [1, 2, 0, 0, 5]),
            (json!({"cache_creation_input_tokens": 7}), [0, 0, 7, 0, 0]),
            (
                json!({"cache_creation_input_tokens": 7, "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4}}),
                [0, 0, 3, 4, 0],
            ),
            (
                json!({"cache_creation_input_tokens": 1, "cache_creation": {"ephemeral_1h_input_tokens": 4}}),
                [0, 0, 0, 4, 0],
            ),
            (json!({"input_tokens": -1, "output_tokens": "2"}), [0, 0, 0, 0, 0]),
        ] {
            let found = of(&usage);
            let found = [
                found.input_tokens,
                found.output_tokens,
                found.cache_creation_5m_tokens,
                found.cache_creation_1h_tokens,
                found.cache_read_tokens,
            ];
            assert_eq!(found, expected, "{usage}");
        }
    }

    #[test]
    fn so_many_agents_are_counted_one_by_one() {
        let mut counted = Counted::default();
        let start = json!({"type": "message_start", "message": {"usage": {"input_tokens": 1}}});
        for number in 0..MOST_AGENTS {
            let sum = counted.see(&start, Some(&number.to_string())).expect("a sum");
            assert_eq!(sum.input_tokens, number as u64 + 1);
        }
        assert_eq!(counted.see(&start, Some("one too many")), None);
        assert_eq!(counted.see(&start, Some("0")).expect("it is known").input_tokens, MOST_AGENTS as u64 + 1);
    }

    #[test]
    fn why_the_last_answer_has_ended_is_what_the_main_agent_was_told() {
        let mut counted = Counted::default();
        assert_eq!(counted.stop_reason(), None);
        let ends =
            |reason| json!({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 1}});
        counted.see(&ends("tool_use"), None);
        counted.see(&ends("max_tokens"), Some("sub"));
        assert_eq!(counted.stop_reason().as_deref(), Some("tool_use"));
        for (error, told, reason) in [
            ("max_output_tokens", Some("stop_sequence"), Some("max_tokens")),
            ("invalid_request", Some("refusal"), Some("refusal")),
            ("rate_limit", Some("stop_sequence"), None),
        ] {
            counted.see(&ends("end_turn"), None);
            counted.fail(error, told);
            assert_eq!(counted.stop_reason().as_deref(), reason, "{error}");
        }
    }
}
