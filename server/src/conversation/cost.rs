//! Prices, and the cost of a run as an exact decimal.

use std::fmt;
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

/// An amount in USD, a decimal that keeps its digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = r"^(10000|[0-9]{1,4}(\.[0-9]{1,20})?)$", example = "2.50")]
pub struct Usd(Decimal);

impl Usd {
    /// Whether a cost exceeds this amount.
    #[must_use]
    pub fn is_exceeded_by(self, cost: Decimal) -> bool {
        cost > self.0
    }
}

impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for Usd {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let refused = || format!("{text:?} is not an amount: a decimal from 0 to {HIGHEST} in USD, such as \"2.50\"");
        decimal(&text).map(Self).ok_or_else(refused)
    }
}

impl From<Usd> for String {
    fn from(amount: Usd) -> Self {
        amount.0.to_string()
    }
}

/// A decimal from 0 to [`HIGHEST`], as the pattern in the OpenAPI description has it: no sign, no exponent, a digit before and after the
/// point.
fn decimal(text: &str) -> Option<Decimal> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str, most| (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let plain = text == "10000" || digits(whole, 4) && digits(part, 20);
    Decimal::from_str(text).ok().filter(|price| plain && *price <= Decimal::from(HIGHEST))
}

impl FromStr for Price {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || {
            format!("{text:?} is not a price: a decimal from 0 to {HIGHEST}, USD per 1,000 tokens, such as \"0.003\"")
        };
        decimal(text).map(Self).ok_or_else(refused)
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

/// What a run has cost so far, also where other models stand in for its own.
#[derive(Debug, Clone)]
pub struct Meter {
    /// Prices of the model that answers now: input and output.
    prices: (Price, Price),
    /// Tokens until it began to answer, and their cost.
    before: (Usage, Decimal),
}

impl Meter {
    /// A meter for a run whose model has these prices.
    #[must_use]
    pub fn new(input: Price, output: Price) -> Self {
        Self { prices: (input, output), before: (Usage::default(), Decimal::ZERO) }
    }

    /// The cost of all tokens of the run so far.
    #[must_use]
    pub fn cost(&self, usage: Usage) -> Decimal {
        let (before, cost) = self.before;
        (cost + of_run(&(usage - before), self.prices.0, self.prices.1)).normalize()
    }

    /// From here on, a model with these prices answers. `usage` are the tokens so far.
    pub fn switch(&mut self, usage: Usage, input: Price, output: Price) {
        self.before = (usage, self.cost(usage));
        self.prices = (input, output);
    }
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
    fn tokens_have_the_price_of_the_model_that_answered() {
        let price = |text: &str| text.parse::<Price>().expect("a price");
        let of = |input_tokens: u64| Usage { input_tokens, ..Usage::default() };
        let mut meter = Meter::new(price("1"), price("2"));
        assert_eq!(meter.cost(of(1_000)).to_string(), "1");
        meter.switch(of(1_000), price("3"), price("6"));
        assert_eq!(meter.cost(of(1_500)).to_string(), "2.5");
        let limit = Usd::try_from("2.50".to_owned()).expect("an amount");
        assert!(!limit.is_exceeded_by(meter.cost(of(1_500))) && limit.is_exceeded_by(meter.cost(of(1_501))));
    }

    #[test]
    fn anything_but_a_price_is_rejected() {
        assert_eq!(String::from("0.0030".parse::<Price>().expect("a price")), "0.0030");
        for junk in ["", "-1", "1e3", "0,3", "free", "10001", "1_000", "+1"] {
            assert!(junk.parse::<Price>().is_err(), "{junk}");
        }
    }
}
