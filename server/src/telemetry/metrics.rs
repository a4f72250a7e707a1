//! The metrics of CONTRACT §5. Labels come from closed sets, so each is a type here; no id is ever a label.

use std::time::Duration;

use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use super::host::{Host, Load};
pub use super::labels::{RunOutcome, StartSource, SyncDirection};

/// Buckets, in seconds, for what ought to take milliseconds: docs/performance.md aims at 5 ms for a warm room and at 15 ms for
/// a first event, so these are edges.
const FAST: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];
/// Buckets, in seconds, for having a room: a warm one takes milliseconds, a cold one some 0.36 s on an idle host.
const STARTUP: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0];
/// Buckets, in seconds, for requests that may stream for minutes; the proxy adds half a millisecond at most.
const REQUEST: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0];

/// What is reality at the moment of a scrape; gauges are set from it and from nothing else.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reality {
    /// Running containers of this deployment.
    pub active_containers: usize,
    /// Rooms that wait in the pool.
    pub warm_pool_size: usize,
    /// Egress listeners that are open.
    pub proxies: usize,
    /// Rooms there may be at once; 0 where nothing limits them.
    pub limit: usize,
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    host: Host,
    active_containers: IntGauge,
    warm_pool_size: IntGauge,
    proxies: IntGauge,
    limit: IntGauge,
    host_cpu: Gauge,
    host_memory: Gauge,
    components: IntGaugeVec,
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
    audit_lost: IntCounter,
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
        let percent = |name, help| {
            let gauge = Gauge::new(name, help)?;
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
        let components = IntGaugeVec::new(
            Opts::new("workspace_component_healthy", "Whether what the service needs is healthy: 1, or 0."),
            &["component"],
        )?;
        registry.register(Box::new(components.clone()))?;
        let metrics = Self {
            active_containers: gauge("workspace_active_containers", "Running containers of this deployment.")?,
            warm_pool_size: gauge("workspace_warm_pool_size", "Rooms that wait in the pool.")?,
            proxies: gauge("workspace_proxies", "Egress listeners that are open.")?,
            limit: gauge("workspace_containers_limit", "Rooms there may be at once; 0: no limit.")?,
            host_cpu: percent("workspace_host_cpu_percent", "Busy processors of the host since the last scrape.")?,
            host_memory: percent("workspace_host_memory_percent", "Memory of the host that is not available.")?,
            components,
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
            audit_lost: counter("workspace_audit_lines_lost_total", "Lines that the audit trail could not keep.")?,
            host: Host::new(),
            registry,
        };
        metrics.show_closed_sets();
        Ok(metrics)
    }

    /// A counter that has not moved yet is shown as 0, so that a rate over it exists from the start.
    fn show_closed_sets(&self) {
        for outcome in RunOutcome::ALL {
            let _ = self.requests.with_label_values(&[outcome.label()]);
        }
        for result in ["success", "error"] {
            let _ = self.gc_cycles.with_label_values(&[result]);
        }
        for direction in SyncDirection::ALL.map(SyncDirection::label) {
            let _ = self.sync.with_label_values(&[direction]);
            let _ = self.sync_errors.with_label_values(&[direction]);
        }
        for source in StartSource::ALL.map(StartSource::label) {
            let _ = self.startup.with_label_values(&[source]);
        }
    }

    /// The closed sets that others know: why garbage collection takes rooms down, which methods the egress proxy tells
    /// apart, and why its policy denies.
    pub fn show_reasons(&self, reclaimed: &[&str], methods: &[&str], denied: &[&str]) {
        for reason in reclaimed {
            let _ = self.gc_reclaimed.with_label_values(&[reason]);
        }
        for method in methods {
            let _ = self.proxy_request.with_label_values(&[method]);
        }
        for reason in denied {
            let _ = self.proxy_blocked.with_label_values(&[reason]);
        }
    }

    /// Lines of the audit trail were lost.
    pub fn audit_lost(&self, lines: u64) {
        self.audit_lost.inc_by(lines);
    }

    /// A room took this long to be ready for a conversation.
    pub fn started(&self, source: StartSource, took: Duration) {
        self.startup.with_label_values(&[source.label()]).observe(took.as_secs_f64());
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
        self.requests.with_label_values(&[outcome.label()]).inc();
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

    /// The whole set in the Prometheus text format (version 0.0.4); `components` says of what the service needs whether it
    /// is healthy.
    ///
    /// # Errors
    /// Only where a metric is malformed: a bug.
    pub fn render(&self, reality: Reality, components: &[(&str, bool)]) -> Result<Vec<u8>, prometheus::Error> {
        let set = |gauge: &IntGauge, value: usize| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.active_containers, reality.active_containers);
        set(&self.warm_pool_size, reality.warm_pool_size);
        set(&self.proxies, reality.proxies);
        set(&self.limit, reality.limit);
        for (component, healthy) in components {
            self.components.with_label_values(&[*component]).set((*healthy).into());
        }
        let Load { cpu_percent, memory_percent } = self.host.load();
        self.host_cpu.set(cpu_percent);
        self.host_memory.set(memory_percent);
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_are_what_the_scrape_was_told() {
        let metrics = Metrics::new().expect("registers");
        metrics.gc_cycle(true);
        let reality = Reality { active_containers: 3, warm_pool_size: 1, proxies: 3, limit: 0 };
        let page = metrics.render(reality, &[("docker", false), ("pool", true)]).expect("renders");
        let text = String::from_utf8(page).expect("text");
        for line in [
            "workspace_active_containers 3",
            "workspace_warm_pool_size 1",
            "workspace_proxies 3",
            "workspace_containers_limit 0",
            "workspace_component_healthy{component=\"docker\"} 0",
            "workspace_component_healthy{component=\"pool\"} 1",
            "workspace_container_startup_seconds_count{source=\"cold\"} 0",
            "workspace_gc_cycles_total{result=\"success\"} 1",
            "workspace_requests_total{status=\"timeout\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
