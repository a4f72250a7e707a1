//! The metrics of CONTRACT §5. Labels come from closed sets, so each is a type here; no id is ever a label.

use std::time::Duration;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

/// Buckets, in seconds, for what ought to take milliseconds.
const FAST: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];
/// Buckets, in seconds, for starting a container.
const STARTUP: &[f64] = &[0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0];
/// Buckets, in seconds, for requests that may stream for minutes.
const REQUEST: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0];

/// Where a conversation's room came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartSource {
    /// From the pool.
    Warm,
    /// Made for it.
    Cold,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    /// By the driver's own word, well.
    Success,
    /// Otherwise.
    Error,
    /// Its time was up.
    Timeout,
    /// Somebody wanted it.
    Cancelled,
}

/// Which way files go between a room and object storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncDirection {
    /// Into the room.
    In,
    /// Out of it.
    Out,
}

impl SyncDirection {
    fn label(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

/// What is reality at the moment of a scrape; gauges are set from it and from nothing else.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reality {
    /// Running containers of this deployment.
    pub active_containers: usize,
    /// Rooms that wait in the pool.
    pub warm_pool_size: usize,
    /// Egress listeners that are open.
    pub proxies: usize,
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    active_containers: IntGauge,
    warm_pool_size: IntGauge,
    proxies: IntGauge,
    startup: HistogramVec,
    acquire: Histogram,
    proxy_request: HistogramVec,
    http_request: HistogramVec,
    requests: IntCounterVec,
    crashes: IntCounter,
    proxy_blocked: IntCounterVec,
    sync: HistogramVec,
    sync_errors: IntCounterVec,
    pool_exhausted: IntCounter,
    refill_failures: IntCounter,
    gc_cycles: IntCounterVec,
    gc_reclaimed: IntCounterVec,
}

impl Metrics {
    /// A fresh set.
    ///
    /// # Errors
    /// Only where two metrics were given one name: a bug.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let gauge = |name, help| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let counter = |name, help| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let counters = |name, help, label| {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let histograms = |name, help, buckets: &[f64], labels: &[&str]| {
            let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            let histograms = HistogramVec::new(opts, labels)?;
            registry.register(Box::new(histograms.clone()))?;
            Ok::<_, prometheus::Error>(histograms)
        };
        let acquire = Histogram::with_opts(
            HistogramOpts::new("workspace_warm_pool_acquire_seconds", "Time to take a room from the pool.")
                .buckets(FAST.to_vec()),
        )?;
        registry.register(Box::new(acquire.clone()))?;
        let metrics = Self {
            active_containers: gauge("workspace_active_containers", "Running containers of this deployment.")?,
            warm_pool_size: gauge("workspace_warm_pool_size", "Rooms that wait in the pool.")?,
            proxies: gauge("workspace_proxies", "Egress listeners that are open.")?,
            startup: histograms(
                "workspace_container_startup_seconds",
                "Time until a conversation's room could take an execution.",
                STARTUP,
                &["source"],
            )?,
            acquire,
            proxy_request: histograms(
                "workspace_proxy_request_duration_seconds",
                "Egress requests and tunnels, from head to last byte.",
                REQUEST,
                &["method"],
            )?,
            http_request: histograms(
                "http_request_duration_seconds",
                "API requests, until the head of the answer.",
                FAST,
                &["method", "route", "status"],
            )?,
            requests: counters("workspace_requests_total", "Runs, by how they ended.", "status")?,
            crashes: counter("workspace_container_crashes_total", "Rooms lost while a run was in them.")?,
            proxy_blocked: counters("workspace_proxy_blocked_total", "Egress requests denied.", "reason")?,
            sync: histograms(
                "workspace_s3_sync_duration_seconds",
                "Syncs of rooms' files with object storage.",
                REQUEST,
                &["direction"],
            )?,
            sync_errors: counters(
                "workspace_s3_sync_errors_total",
                "Syncs of rooms' files that did not do all they should.",
                "direction",
            )?,
            pool_exhausted: counter(
                "workspace_warm_pool_exhausted_total",
                "Conversations that found the pool empty and started cold.",
            )?,
            refill_failures: counter(
                "workspace_warm_pool_refill_failures_total",
                "Rooms that could not be made for the pool.",
            )?,
            gc_cycles: counters("workspace_gc_cycles_total", "Garbage-collection cycles.", "result")?,
            gc_reclaimed: counters("workspace_gc_reclaimed_total", "What garbage collection took down.", "reason")?,
            registry,
        };
        metrics.show_closed_sets();
        Ok(metrics)
    }

    /// A counter that has not moved yet is shown as 0, so that a rate over it exists from the start.
    fn show_closed_sets(&self) {
        for outcome in [RunOutcome::Success, RunOutcome::Error, RunOutcome::Timeout, RunOutcome::Cancelled] {
            let _ = self.requests.with_label_values(&[outcome_label(outcome)]);
        }
        for direction in [SyncDirection::In, SyncDirection::Out].map(SyncDirection::label) {
            let _ = self.sync.with_label_values(&[direction]);
            let _ = self.sync_errors.with_label_values(&[direction]);
        }
        for result in ["success", "error"] {
            let _ = self.gc_cycles.with_label_values(&[result]);
        }
    }

    /// A room took this long to be ready for a conversation.
    pub fn started(&self, source: StartSource, took: Duration) {
        let label = match source {
            StartSource::Warm => "warm",
            StartSource::Cold => "cold",
        };
        self.startup.with_label_values(&[label]).observe(took.as_secs_f64());
        if source == StartSource::Warm {
            self.acquire.observe(took.as_secs_f64());
        }
    }

    /// A sync of a room's files ended, well or not.
    pub fn synced(&self, direction: SyncDirection, took: Duration, well: bool) {
        self.sync.with_label_values(&[direction.label()]).observe(took.as_secs_f64());
        if !well {
            self.sync_errors.with_label_values(&[direction.label()]).inc();
        }
    }

    /// A conversation found the pool empty.
    pub fn pool_exhausted(&self) {
        self.pool_exhausted.inc();
    }

    /// A room could not be made for the pool.
    pub fn refill_failed(&self) {
        self.refill_failures.inc();
    }

    /// A run ended.
    pub fn run_ended(&self, outcome: RunOutcome) {
        self.requests.with_label_values(&[outcome_label(outcome)]).inc();
    }

    /// A room was lost while a run was in it.
    pub fn crashed(&self) {
        self.crashes.inc();
    }

    /// An egress request or tunnel ended; `blocked` is why it was denied. Both labels come from the proxy's closed sets.
    pub fn proxied(&self, method: &str, took: Duration, blocked: Option<&'static str>) {
        self.proxy_request.with_label_values(&[method]).observe(took.as_secs_f64());
        if let Some(reason) = blocked {
            self.proxy_blocked.with_label_values(&[reason]).inc();
        }
    }

    /// An API request was answered; `route` is the template, never the path.
    pub fn answered(&self, method: &str, route: &str, status: u16, took: Duration) {
        self.http_request.with_label_values(&[method, route, &status.to_string()]).observe(took.as_secs_f64());
    }

    /// A garbage-collection cycle ended.
    pub fn gc_cycle(&self, clean: bool) {
        self.gc_cycles.with_label_values(&[if clean { "success" } else { "error" }]).inc();
    }

    /// Garbage collection took something down.
    pub fn gc_reclaimed(&self, reason: &'static str) {
        self.gc_reclaimed.with_label_values(&[reason]).inc();
    }

    /// The whole set in the Prometheus text format (version 0.0.4).
    ///
    /// # Errors
    /// Only where a metric is malformed: a bug.
    pub fn render(&self, reality: Reality) -> Result<Vec<u8>, prometheus::Error> {
        let set = |gauge: &IntGauge, value: usize| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.active_containers, reality.active_containers);
        set(&self.warm_pool_size, reality.warm_pool_size);
        set(&self.proxies, reality.proxies);
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        Ok(out)
    }
}

fn outcome_label(outcome: RunOutcome) -> &'static str {
    match outcome {
        RunOutcome::Success => "success",
        RunOutcome::Error => "error",
        RunOutcome::Timeout => "timeout",
        RunOutcome::Cancelled => "cancelled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_are_what_the_scrape_was_told() {
        let metrics = Metrics::new().expect("registers");
        metrics.gc_cycle(true);
        let reality = Reality { active_containers: 3, warm_pool_size: 1, proxies: 3 };
        let text = String::from_utf8(metrics.render(reality).expect("renders")).expect("text");
        for line in [
            "workspace_active_containers 3",
            "workspace_warm_pool_size 1",
            "workspace_proxies 3",
            "workspace_gc_cycles_total{result=\"success\"} 1",
            "workspace_requests_total{status=\"timeout\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
