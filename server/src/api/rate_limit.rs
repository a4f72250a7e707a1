//! Rate limiting per key with the generic cell rate algorithm (GCRA, ITU-T I.371): a burst of the whole limit is allowed, and
//! the limit is replenished evenly over its period.
//!
//! Every response to a key states what remains of its limit. A request over the limit is answered 429 before anything else is done.

use std::num::NonZeroU32;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use jiff::Timestamp;

use super::auth::Credential;
use super::error::{ApiError, Code};

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// The number of requests that a key may send in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests per period, all of which may be sent at once.
    pub requests: NonZeroU32,
    /// Time in which a used-up limit is fully replenished.
    pub period: Duration,
}

impl RateLimit {
    fn per_request(self) -> Duration {
        self.period / self.requests.get()
    }
}

type Limiter = RateLimiter<Credential, HashMapStateStore<Credential>, DefaultClock, StateInformationMiddleware>;

/// Number of keys of which some are forgotten whose limit is fully replenished.
const MANY: usize = 10_000;

/// The rate limiters of all keys.
#[derive(Debug)]
pub struct RateLimits {
    limit: RateLimit,
    /// `None` if the limit cannot be represented.
    limiter: Option<Limiter>,
    clock: DefaultClock,
}

/// What remains of one key's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowance {
    limit: RateLimit,
    remaining: u32,
    /// Time until the limit is fully replenished.
    full_in: Duration,
    /// Time until the next request is allowed; zero if one is allowed now.
    wait: Duration,
}

impl RateLimits {
    /// Unused limits. A limit of more requests than its period has nanoseconds cannot be represented and is not applied.
    #[must_use]
    pub fn new(limit: RateLimit) -> Self {
        let quota = Quota::with_period(limit.per_request()).map(|quota| quota.allow_burst(limit.requests));
        let limiter = quota.map(|quota| RateLimiter::hashmap(quota).with_middleware::<StateInformationMiddleware>());
        Self { limit, limiter, clock: DefaultClock::default() }
    }

    /// Counts one request of a key; `None` if no limit applies.
    ///
    /// # Errors
    /// The limit is used up; the allowance has the time until the next request is allowed.
    pub(super) fn take(&self, key: &Credential) -> Result<Option<Allowance>, Allowance> {
        let Some(limiter) = &self.limiter else { return Ok(None) };
        if limiter.len() > MANY {
            limiter.retain_recent();
        }
        let limit = self.limit;
        match limiter.check_key(key) {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                let full_in = limit.per_request() * limit.requests.get().saturating_sub(remaining);
                Ok(Some(Allowance { limit, remaining, full_in, wait: Duration::ZERO }))
            }
            Err(exceeded) => {
                let wait = exceeded.wait_time_from(self.clock.now());
                Err(Allowance { limit, remaining: 0, full_in: limit.period, wait })
            }
        }
    }
}

impl Allowance {
    /// Sets `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`, the Unix time in seconds at which the limit is
    /// fully replenished.
    pub(super) fn write_headers(self, headers: &mut HeaderMap) {
        let now = Timestamp::now().as_second();
        let reset = now.saturating_add(i64::try_from(whole_seconds(self.full_in)).unwrap_or(i64::MAX));
        headers.insert(LIMIT, HeaderValue::from(self.limit.requests.get()));
        headers.insert(REMAINING, HeaderValue::from(self.remaining));
        headers.insert(RESET, HeaderValue::from(reset));
    }

    /// The 429 response to a request over the limit.
    pub(super) fn response(self) -> Response {
        let seconds = whole_seconds(self.wait).max(1);
        let RateLimit { requests, period } = self.limit;
        let message = format!("this key may send {requests} requests in {period:?}; retry in {seconds} s");
        let error = ApiError::new(Code::RateLimitExceeded, message).retry_after(Duration::from_secs(seconds));
        let mut response = error.into_response();
        self.write_headers(response.headers_mut());
        response
    }
}

/// The time in whole seconds, rounded up so that a client that waits this long does not retry too early.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Credential = Credential::Configured(1);

    fn limits(requests: u32, period: u64) -> RateLimits {
        let requests = NonZeroU32::new(requests).expect("not zero");
        RateLimits::new(RateLimit { requests, period: Duration::from_secs(period) })
    }

    #[test]
    fn a_limit_is_used_up_by_its_own_key_only() {
        let limits = limits(3, 3600);
        let left: Vec<u32> = (0..3).map(|_| limits.take(&ONE).expect("allowed").expect("counted").remaining).collect();
        assert_eq!(left, [2, 1, 0]);
        let exceeded = limits.take(&ONE).expect_err("used up");
        assert!(
            exceeded.wait <= Duration::from_secs(1200) && exceeded.wait > Duration::from_secs(1000),
            "{exceeded:?}"
        );
        assert_eq!(exceeded.full_in, Duration::from_secs(3600));
        assert_eq!(limits.take(&Credential::Key("other".into())).expect("allowed").expect("counted").remaining, 2);
    }

    #[test]
    fn every_request_delays_the_time_of_full_replenishment() {
        let limits = limits(10, 100);
        assert_eq!(limits.take(&ONE).expect("allowed").expect("counted").full_in, Duration::from_secs(10));
        assert_eq!(limits.take(&ONE).expect("allowed").expect("counted").full_in, Duration::from_secs(20));
    }

    #[test]
    fn seconds_are_rounded_up() {
        assert_eq!(whole_seconds(Duration::from_secs(2)), 2);
        assert_eq!(whole_seconds(Duration::from_millis(1001)), 2);
    }
}
