//! Rates: how many requests and bytes per second a listener may use.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Smallest burst of bytes: less than one read of a body would only add waits.
const LEAST_BURST: u64 = 64 * 1024;

/// Rates of a listener; `None` for no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    /// Requests and tunnels per second; as many at once. Those beyond it are refused with 429.
    pub requests_per_second: Option<u32>,
    /// Bytes of bodies and tunnels per second, both directions together. What is beyond it waits.
    pub bytes_per_second: Option<u64>,
}

/// Tokens that come at a rate and are kept up to a burst. May be in debt.
#[derive(Debug)]
struct Bucket {
    per_second: f64,
    burst: f64,
    left: f64,
    at: Instant,
}

impl Bucket {
    fn new(per_second: u64, least_burst: u64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 53 bits")]
        let (per_second, burst) = (per_second.max(1) as f64, per_second.max(least_burst).max(1) as f64);
        Self { per_second, burst, left: burst, at: Instant::now() }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * self.per_second).min(self.burst);
        self.at = self.at.max(now);
    }

    fn take_one(&mut self, now: Instant) -> bool {
        self.refill(now);
        let enough = self.left >= 1.0;
        if enough {
            self.left -= 1.0;
        }
        enough
    }

    /// Takes tokens on credit; returns how long it takes until the debt is paid.
    fn owe(&mut self, tokens: u64, now: Instant) -> Duration {
        self.refill(now);
        #[expect(clippy::cast_precision_loss, reason = "as above")]
        let tokens = tokens as f64;
        self.left -= tokens;
        Duration::try_from_secs_f64((-self.left).max(0.0) / self.per_second).unwrap_or(Duration::MAX)
    }
}

/// How much of its rates a listener has used.
#[derive(Debug)]
pub(crate) struct Used {
    limits: Box<[Rates]>,
    requests: Mutex<Vec<Bucket>>,
    bytes: Mutex<Vec<Bucket>>,
    has_bytes: bool,
}

impl Used {
    /// `None` if there is no limit.
    pub(crate) fn new(limits: &[Rates]) -> Option<Arc<Self>> {
        let requests: Vec<Bucket> =
            limits.iter().filter_map(|rates| Some(Bucket::new(rates.requests_per_second?.into(), 1))).collect();
        let bytes: Vec<Bucket> =
            limits.iter().filter_map(|rates| Some(Bucket::new(rates.bytes_per_second?, LEAST_BURST))).collect();
        if requests.is_empty() && bytes.is_empty() {
            return None;
        }
        let has_bytes = !bytes.is_empty();
        Some(Arc::new(Self {
            limits: limits.into(),
            requests: Mutex::new(requests),
            bytes: Mutex::new(bytes),
            has_bytes,
        }))
    }

    /// Whether these are the limits that are counted.
    pub(crate) fn counts(&self, limits: &[Rates]) -> bool {
        *self.limits == *limits
    }

    /// Takes a request from every layer's rate; false if one has none left.
    pub(crate) fn request(&self) -> bool {
        let now = Instant::now();
        self.requests.lock().iter_mut().all(|bucket| bucket.take_one(now))
    }

    /// Counts bytes that have moved; returns how long to wait before more may.
    pub(crate) fn moved(&self, bytes: usize) -> Duration {
        if !self.has_bytes {
            return Duration::ZERO;
        }
        let now = Instant::now();
        self.bytes.lock().iter_mut().map(|bucket| bucket.owe(bytes as u64, now)).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_beyond_the_rate_are_refused_until_time_passes() {
        let mut bucket = Bucket::new(5, 1);
        let now = bucket.at;
        assert_eq!((0..7).filter(|_| bucket.take_one(now)).count(), 5);
        assert!(!bucket.take_one(now + Duration::from_millis(190)));
        assert!(bucket.take_one(now + Duration::from_millis(210)));
        assert_eq!(
            (0..9).filter(|_| bucket.take_one(now + Duration::from_secs(60))).count(),
            5,
            "a burst is a second's"
        );
    }

    #[test]
    fn bytes_beyond_the_rate_wait() {
        let mut bucket = Bucket::new(100_000, LEAST_BURST);
        let now = bucket.at;
        assert_eq!(bucket.owe(100_000, now), Duration::ZERO);
        assert_eq!(bucket.owe(50_000, now), Duration::from_millis(500));
        assert_eq!(bucket.owe(0, now + Duration::from_millis(500)), Duration::ZERO);
    }

    #[test]
    fn the_strictest_layer_counts() {
        let rates = |requests, bytes| Rates { requests_per_second: requests, bytes_per_second: bytes };
        assert!(Used::new(&[Rates::default()]).is_none());
        let limits = [rates(Some(100), None), rates(Some(2), Some(1_000_000))];
        let used = Used::new(&limits).expect("limits");
        assert_eq!((0..5).filter(|_| used.request()).count(), 2);
        assert!(used.moved(3_000_000) > Duration::from_secs(1));
        assert!(used.counts(&limits) && !used.counts(&limits[..1]));
    }
}
