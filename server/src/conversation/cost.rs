//! Prices, and the cost of a run as an exact decimal.

use std::str::FromStr;

use nagaya_driver::Usage;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A price in USD per 1,000 tokens. It keeps the digits it was given with: `0.0030` stays `0.0030`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = r"^(10000|[0-9]{1,4}(\.[0-9]{1,20})?)$", example = "0.003")]
pub struct Price(Decimal);

/// Highest accepted price; a higher one was probably meant per million tokens.
const HIGHEST: i64 = 10_000;

impl FromStr for Price {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || {
            format!("{text:?} is not a price: a decimal from 0 to {HIGHEST}, USD per 1,000 tokens, such as \"0.003\"")
        };
        // The same as the pattern in the OpenAPI description: no sign, no exponent, a digit before and after the point.
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str, most| (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        let plain = text == "10000" || digits(whole, 4) && digits(part, 20);
        let price = Decimal::from_str(text).ok().filter(|price| plain && *price <= Decimal::from(HIGHEST));
        price.map(Self).ok_or_else(refused)
    }
}

impl TryFrom<String> for Price {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Price> for String {
    fn from(price: Price) -> Self {
        price.0.to_string()
    }
}

/// Cost of one run in USD. Cache tokens are billed as multiples of the input price: a write costs 1.25 (five minutes) or 2 (one
/// hour), a read 0.1 (Anthropic, "Prompt caching: pricing").
#[must_use]
pub fn of_run(usage: &Usage, input: Price, output: Price) -> Decimal {
    let thousand = Decimal::ONE_THOUSAND;
    let at = |tokens: u64, price: Price| Decimal::from(tokens) * price.0 / thousand;
    let cache = at(usage.cache_creation_5m_tokens, input) * Decimal::new(125, 2)
        + at(usage.cache_creation_1h_tokens, input) * Decimal::TWO
        + at(usage.cache_read_tokens, input) * Decimal::new(1, 1);
    (at(usage.input_tokens, input) + at(usage.output_tokens, output) + cache).normalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_is_exact() {
        let usage = Usage {
            input_tokens: 1_001,
            output_tokens: 3,
            cache_creation_5m_tokens: 1_000,
            cache_creation_1h_tokens: 1_000,
            cache_read_tokens: 1_000,
        };
        let price = |text: &str| text.parse::<Price>().expect("a price");
        assert_eq!(of_run(&usage, price("0.003"), price("0.015")).to_string(), "0.013098");
        assert_eq!(of_run(&Usage::default(), price("3"), price("15")).to_string(), "0");
    }

    #[test]
    fn anything_but_a_price_is_rejected() {
        assert_eq!(String::from("0.0030".parse::<Price>().expect("a price")), "0.0030");
        for junk in ["", "-1", "1e3", "0,3", "free", "10001", "1_000", "+1"] {
            assert!(junk.parse::<Price>().is_err(), "{junk}");
        }
    }
}
