//! How often a key may ask: an allowance that fills up again evenly (GCRA, ITU-T I.371), one for every key.
//!
//! Every answer to a key says how much of it is left; a request too many is answered 429 and costs nothing further.

use std::num::NonZeroU32;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use jiff::Timestamp;

use super::error::{ApiError, Code};

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// How many requests a key may make in how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// So many at once, after a pause.
    pub requests: NonZeroU32,
    /// In this time the whole allowance is back.
    pub period: Duration,
}

impl RateLimit {
    fn per_request(self) -> Duration {
        self.period / self.requests.get()
    }
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>;

/// What every key has left.
#[derive(Debug)]
pub struct RateLimits {
    limit: RateLimit,
    keys: Vec<Limiter>,
    clock: DefaultClock,
}

/// What one key has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowance {
    limit: RateLimit,
    remaining: u32,
    /// Until all of it is back.
    full_in: Duration,
    /// Until there is one more; zero where there is one.
    wait: Duration,
}

impl RateLimits {
    /// Full allowances for so many keys. More requests than the period has nanoseconds are no limit.
    #[must_use]
    pub fn new(limit: RateLimit, keys: usize) -> Self {
        let quota = Quota::with_period(limit.per_request()).map(|quota| quota.allow_burst(limit.requests));
        let keys = quota.map(|quota| {
            let fresh = || RateLimiter::direct(quota).with_middleware::<StateInformationMiddleware>();
            std::iter::repeat_with(fresh).take(keys).collect()
        });
        Self { limit, keys: keys.unwrap_or_default(), clock: DefaultClock::default() }
    }

    /// Takes one request off the allowance of key `number`; `Err` where there is none.
    ///
    /// # Errors
    /// Nothing is left; the allowance says for how long.
    pub(super) fn take(&self, number: usize) -> Result<Option<Allowance>, Allowance> {
        let Some(limiter) = self.keys.get(number) else { return Ok(None) };
        let limit = self.limit;
        match limiter.check() {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                let full_in = limit.per_request() * limit.requests.get().saturating_sub(remaining);
                Ok(Some(Allowance { limit, remaining, full_in, wait: Duration::ZERO }))
            }
            Err(refused) => {
                let wait = refused.wait_time_from(self.clock.now());
                Err(Allowance { limit, remaining: 0, full_in: limit.period, wait })
            }
        }
    }
}

impl Allowance {
    /// Says so in an answer: `X-RateLimit-Limit`, `-Remaining`, and `-Reset`, the time in Unix seconds at which all is back.
    pub(super) fn tell(self, headers: &mut HeaderMap) {
        let now = Timestamp::now().as_second();
        let reset = now.saturating_add(i64::try_from(whole_seconds(self.full_in)).unwrap_or(i64::MAX));
        headers.insert(LIMIT, HeaderValue::from(self.limit.requests.get()));
        headers.insert(REMAINING, HeaderValue::from(self.remaining));
        headers.insert(RESET, HeaderValue::from(reset));
    }

    /// The answer to one request too many.
    pub(super) fn refusal(self) -> Response {
        let seconds = whole_seconds(self.wait).max(1);
        let RateLimit { requests, period } = self.limit;
        let message = format!("this key may ask {requests} times in {period:?}; ask again in {seconds} s");
        let refusal = ApiError::new(Code::RateLimitExceeded, message).retry_after(Duration::from_secs(seconds));
        let mut response = refusal.into_response();
        self.tell(response.headers_mut());
        response
    }
}

/// Rounded up: whoever waits so long has waited long enough.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(requests: u32, period: u64, keys: usize) -> RateLimits {
        let requests = NonZeroU32::new(requests).expect("more than none");
        RateLimits::new(RateLimit { requests, period: Duration::from_secs(period) }, keys)
    }

    #[test]
    fn an_allowance_is_used_up_and_each_key_has_its_own() {
        let limits = limits(3, 3600, 2);
        let left: Vec<u32> = (0..3).map(|_| limits.take(0).expect("allowed").expect("counted").remaining).collect();
        assert_eq!(left, [2, 1, 0]);
        let refused = limits.take(0).expect_err("used up");
        assert!(refused.wait <= Duration::from_secs(1200) && refused.wait > Duration::from_secs(1000), "{refused:?}");
        assert_eq!(refused.full_in, Duration::from_secs(3600));
        assert_eq!(limits.take(1).expect("the other's").expect("counted").remaining, 2);
    }

    #[test]
    fn it_says_when_all_is_back() {
        let limits = limits(10, 100, 1);
        assert_eq!(limits.take(0).expect("allowed").expect("counted").full_in, Duration::from_secs(10));
        assert_eq!(limits.take(0).expect("allowed").expect("counted").full_in, Duration::from_secs(20));
    }

    #[test]
    fn a_part_of_a_second_is_a_whole_one() {
        assert_eq!(whole_seconds(Duration::from_secs(2)), 2);
        assert_eq!(whole_seconds(Duration::from_millis(1001)), 2);
    }
}
