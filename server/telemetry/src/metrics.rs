//! The metrics, as docs/alerts.md and the dashboard read them. Labels come from closed sets, so each is a type here; no id is
//! ever a label.

use std::time::Duration;

use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use strum::VariantArray;

use crate::host::{Host, Load};
pub use crate::labels::{RunOutcome, StartSource, SyncDirection, UnknownFrame};

/// Buckets, in seconds, for what ought to take milliseconds: docs/performance.md aims at 5 ms for a warm room and at 15 ms for
/// a first event, so these are edges.
const FAST: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];
/// Buckets, in seconds, for getting a workspace: a warm one takes milliseconds, a cold one about 0.36 s on an idle host.
const STARTUP: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0];
/// Buckets, in seconds, for requests that may stream for minutes; the proxy adds half a millisecond at most.
const REQUEST: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0];

/// What was counted for one scrape. Gauges are set from these counts and from nothing else, so they cannot drift.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Running containers of this deployment, by Docker's list.
    pub active_containers: usize,
    /// Workspaces waiting in the warm pool.
    pub warm_pool_size: usize,
    /// Open egress listeners.
    pub proxies: usize,
    /// Limit on workspaces (`CONTAINER_MAX`); 0 means no limit.
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
    unknown_frames: IntCounterVec,
    untested_drivers: IntCounter,
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
    /// Registers every metric.
    ///
    /// # Errors
    /// Two metrics have the same name, which is a bug.
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
            HistogramOpts::new("workspace_warm_pool_acquire_seconds", "Time to take a workspace from the warm pool.")
                .buckets(FAST.to_vec()),
        )?;
        registry.register(Box::new(acquire.clone()))?;
        let components = IntGaugeVec::new(
            Opts::new(
                "workspace_component_healthy",
                "Whether a component that the service needs is healthy (1) or not (0).",
            ),
            &["component"],
        )?;
        registry.register(Box::new(components.clone()))?;
        let metrics = Self {
            active_containers: gauge("workspace_active_containers", "Running containers of this deployment.")?,
            warm_pool_size: gauge("workspace_warm_pool_size", "Workspaces waiting in the warm pool.")?,
            proxies: gauge("workspace_proxies", "Open egress listeners, one for each workspace.")?,
            limit: gauge("workspace_containers_limit", "Limit on workspaces (CONTAINER_MAX); 0 means no limit.")?,
            host_cpu: percent("workspace_host_cpu_percent", "CPU use of the host since the last scrape, in percent.")?,
            host_memory: percent("workspace_host_memory_percent", "Memory of the host that is in use, in percent.")?,
            components,
            startup: histograms(
                "workspace_container_startup_seconds",
                "Time until a conversation had a workspace ready for a run.",
                STARTUP,
                &["source"],
            )?,
            acquire,
            proxy_request: histograms(
                "workspace_proxy_request_duration_seconds",
                "Duration of egress requests and tunnels, from the request head to the last byte.",
                REQUEST,
                &["method"],
            )?,
            http_request: histograms(
                "http_request_duration_seconds",
                "Duration of API requests until the response head.",
                FAST,
                &["method", "route", "status"],
            )?,
            requests: counters("workspace_requests_total", "Finished runs by outcome.", "status")?,
            crashes: counter("workspace_container_crashes_total", "Workspaces lost during a run.")?,
            unknown_frames: counters(
                "driver_unknown_frames_total",
                "Lines of drivers that have no meaning here.",
                "kind",
            )?,
            untested_drivers: counter(
                "driver_untested_turns_total",
                "Turns of drivers of a version that this server was not tested with.",
            )?,
            proxy_blocked: counters("workspace_proxy_blocked_total", "Denied egress requests by reason.", "reason")?,
            sync: histograms(
                "workspace_s3_sync_duration_seconds",
                "Duration of file syncs between workspaces and object storage.",
                REQUEST,
                &["direction"],
            )?,
            sync_errors: counters(
                "workspace_s3_sync_errors_total",
                "File syncs that failed or left files out.",
                "direction",
            )?,
            pool_exhausted: counter(
                "workspace_warm_pool_exhausted_total",
                "Conversations that found the warm pool empty and started cold.",
            )?,
            refill_failures: counter(
                "workspace_warm_pool_refill_failures_total",
                "Workspaces that could not be created for the warm pool.",
            )?,
            gc_cycles: counters("workspace_gc_cycles_total", "Garbage-collection cycles.", "result")?,
            gc_reclaimed: counters(
                "workspace_gc_reclaimed_total",
                "Workspaces removed by garbage collection, by reason.",
                "reason",
            )?,
            audit_lost: counter("workspace_audit_lines_lost_total", "Audit trail lines that could not be written.")?,
            host: Host::new(),
            registry,
        };
        metrics.show_closed_sets();
        Ok(metrics)
    }

    /// Exports every counter as 0 from the start, so that `rate()` sees its first increment.
    fn show_closed_sets(&self) {
        for outcome in RunOutcome::VARIANTS {
            let _ = self.requests.with_label_values(&[<&str>::from(outcome)]);
        }
        for result in ["success", "error"] {
            let _ = self.gc_cycles.with_label_values(&[result]);
        }
        for direction in SyncDirection::VARIANTS.iter().map(<&str>::from) {
            let _ = self.sync.with_label_values(&[direction]);
            let _ = self.sync_errors.with_label_values(&[direction]);
        }
        for kind in UnknownFrame::VARIANTS.iter().map(<&str>::from) {
            let _ = self.unknown_frames.with_label_values(&[kind]);
        }
        for source in StartSource::VARIANTS.iter().map(<&str>::from) {
            let _ = self.startup.with_label_values(&[source]);
        }
    }

    /// Initialises the counters whose label values other parts define: reasons of garbage collection, HTTP methods of the
    /// egress proxy, and reasons for which its policy denies.
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

    /// Counts lost lines of the audit trail.
    pub fn audit_lost(&self, lines: u64) {
        self.audit_lost.inc_by(lines);
    }

    /// Records how long a conversation waited for its workspace.
    pub fn started(&self, source: StartSource, took: Duration) {
        self.startup.with_label_values(&[<&str>::from(source)]).observe(took.as_secs_f64());
        if source == StartSource::Warm {
            self.acquire.observe(took.as_secs_f64());
        }
    }

    /// Records a finished file sync; `well` is false where it failed or left files out.
    pub fn synced(&self, direction: SyncDirection, took: Duration, well: bool) {
        self.sync.with_label_values(&[<&str>::from(direction)]).observe(took.as_secs_f64());
        if !well {
            self.sync_errors.with_label_values(&[<&str>::from(direction)]).inc();
        }
    }

    /// Counts a conversation that found the warm pool empty.
    pub fn pool_exhausted(&self) {
        self.pool_exhausted.inc();
    }

    /// Counts a workspace that could not be created for the warm pool.
    pub fn refill_failed(&self) {
        self.refill_failures.inc();
    }

    /// Counts a finished run.
    pub fn run_ended(&self, outcome: RunOutcome) {
        self.requests.with_label_values(&[<&str>::from(outcome)]).inc();
    }

    /// Counts a workspace that was lost during a run.
    pub fn crashed(&self) {
        self.crashes.inc();
    }

    /// Counts a line of a driver's that has no meaning here.
    pub fn unknown_frame(&self, kind: UnknownFrame) {
        self.unknown_frames.with_label_values(&[<&str>::from(kind)]).inc();
    }

    /// Counts a turn of a driver of a version that this server was not tested with; returns how many there were.
    pub fn untested_driver(&self) -> u64 {
        self.untested_drivers.inc();
        self.untested_drivers.get()
    }

    /// Records a finished egress request or tunnel; `blocked` is the reason of a denial. Both labels come from closed sets of
    /// the proxy.
    pub fn proxied(&self, method: &str, took: Duration, blocked: Option<&'static str>) {
        self.proxy_request.with_label_values(&[method]).observe(took.as_secs_f64());
        if let Some(reason) = blocked {
            self.proxy_blocked.with_label_values(&[reason]).inc();
        }
    }

    /// Records an answered API request; `route` is the route template, never the path.
    pub fn answered(&self, method: &str, route: &str, status: u16, took: Duration) {
        self.http_request.with_label_values(&[method, route, &status.to_string()]).observe(took.as_secs_f64());
    }

    /// Counts a garbage-collection cycle.
    pub fn gc_cycle(&self, clean: bool) {
        self.gc_cycles.with_label_values(&[if clean { "success" } else { "error" }]).inc();
    }

    /// Counts a workspace that garbage collection removed.
    pub fn gc_reclaimed(&self, reason: &'static str) {
        self.gc_reclaimed.with_label_values(&[reason]).inc();
    }

    /// All metrics in the Prometheus text format (version 0.0.4). `components` are the names of what the service needs, each
    /// with whether it is healthy.
    ///
    /// # Errors
    /// A metric is malformed, which is a bug.
    pub fn render(&self, counts: Counts, components: &[(&str, bool)]) -> Result<Vec<u8>, prometheus::Error> {
        let set = |gauge: &IntGauge, value: usize| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.active_containers, counts.active_containers);
        set(&self.warm_pool_size, counts.warm_pool_size);
        set(&self.proxies, counts.proxies);
        set(&self.limit, counts.limit);
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
    fn gauges_show_what_was_counted() {
        let metrics = Metrics::new().expect("registers");
        metrics.gc_cycle(true);
        let counts = Counts { active_containers: 3, warm_pool_size: 1, proxies: 3, limit: 0 };
        let page = metrics.render(counts, &[("docker", false), ("pool", true)]).expect("renders");
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
    /// The samples of a page by name and labels, without buckets.
    fn samples(metrics: &Metrics) -> std::collections::BTreeMap<String, f64> {
        let page = metrics.render(Counts::default(), &[]).expect("renders");
        let text = String::from_utf8(page).expect("text");
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.contains("_bucket{"));
        let lines = lines.filter(|line| !line.starts_with("workspace_host_"));
        lines
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(name, value)| (name.into(), value.parse().expect("a number")))
            .collect()
    }

    #[test]
    fn each_thing_that_happens_changes_its_own_samples_and_no_other() {
        let metrics = Metrics::new().expect("registers");
        let two = Duration::from_secs(2);
        type Changes<'c> = &'c [(&'c str, f64)];
        let acts: [(&dyn Fn(), Changes<'_>); 24] = [
            (
                &|| metrics.started(StartSource::Cold, two),
                &[
                    ("workspace_container_startup_seconds_count{source=\"cold\"}", 1.0),
                    ("workspace_container_startup_seconds_sum{source=\"cold\"}", 2.0),
                ],
            ),
            (
                &|| metrics.started(StartSource::Warm, two),
                &[
                    ("workspace_container_startup_seconds_count{source=\"warm\"}", 1.0),
                    ("workspace_container_startup_seconds_sum{source=\"warm\"}", 2.0),
                    ("workspace_warm_pool_acquire_seconds_count", 1.0),
                    ("workspace_warm_pool_acquire_seconds_sum", 2.0),
                ],
            ),
            (
                &|| metrics.synced(SyncDirection::In, two, true),
                &[
                    ("workspace_s3_sync_duration_seconds_count{direction=\"in\"}", 1.0),
                    ("workspace_s3_sync_duration_seconds_sum{direction=\"in\"}", 2.0),
                ],
            ),
            (
                &|| metrics.synced(SyncDirection::Out, two, false),
                &[
                    ("workspace_s3_sync_duration_seconds_count{direction=\"out\"}", 1.0),
                    ("workspace_s3_sync_duration_seconds_sum{direction=\"out\"}", 2.0),
                    ("workspace_s3_sync_errors_total{direction=\"out\"}", 1.0),
                ],
            ),
            (&|| metrics.pool_exhausted(), &[("workspace_warm_pool_exhausted_total", 1.0)]),
            (&|| metrics.refill_failed(), &[("workspace_warm_pool_refill_failures_total", 1.0)]),
            (&|| metrics.run_ended(RunOutcome::Success), &[("workspace_requests_total{status=\"success\"}", 1.0)]),
            (&|| metrics.run_ended(RunOutcome::Error), &[("workspace_requests_total{status=\"error\"}", 1.0)]),
            (&|| metrics.run_ended(RunOutcome::Timeout), &[("workspace_requests_total{status=\"timeout\"}", 1.0)]),
            (&|| metrics.run_ended(RunOutcome::Cancelled), &[("workspace_requests_total{status=\"cancelled\"}", 1.0)]),
            (&|| metrics.crashed(), &[("workspace_container_crashes_total", 1.0)]),
            (
                &|| metrics.unknown_frame(UnknownFrame::Request),
                &[("driver_unknown_frames_total{kind=\"request\"}", 1.0)],
            ),
            (
                &|| metrics.unknown_frame(UnknownFrame::Malformed),
                &[("driver_unknown_frames_total{kind=\"malformed\"}", 1.0)],
            ),
            (&|| metrics.unknown_frame(UnknownFrame::Other), &[("driver_unknown_frames_total{kind=\"other\"}", 1.0)]),
            (&|| assert_eq!(metrics.untested_driver(), 1), &[("driver_untested_turns_total", 1.0)]),
            (&|| assert_eq!(metrics.untested_driver(), 2), &[("driver_untested_turns_total", 1.0)]),
            (
                &|| metrics.proxied("GET", two, None),
                &[
                    ("workspace_proxy_request_duration_seconds_count{method=\"GET\"}", 1.0),
                    ("workspace_proxy_request_duration_seconds_sum{method=\"GET\"}", 2.0),
                ],
            ),
            (
                &|| metrics.proxied("PUT", two, Some("not_allowed")),
                &[
                    ("workspace_proxy_request_duration_seconds_count{method=\"PUT\"}", 1.0),
                    ("workspace_proxy_request_duration_seconds_sum{method=\"PUT\"}", 2.0),
                    ("workspace_proxy_blocked_total{reason=\"not_allowed\"}", 1.0),
                ],
            ),
            (
                &|| metrics.answered("GET", "/a/{b}", 404, two),
                &[
                    ("http_request_duration_seconds_count{method=\"GET\",route=\"/a/{b}\",status=\"404\"}", 1.0),
                    ("http_request_duration_seconds_sum{method=\"GET\",route=\"/a/{b}\",status=\"404\"}", 2.0),
                ],
            ),
            (&|| metrics.gc_cycle(true), &[("workspace_gc_cycles_total{result=\"success\"}", 1.0)]),
            (&|| metrics.gc_cycle(false), &[("workspace_gc_cycles_total{result=\"error\"}", 1.0)]),
            (&|| metrics.gc_reclaimed("idle"), &[("workspace_gc_reclaimed_total{reason=\"idle\"}", 1.0)]),
            (&|| metrics.audit_lost(3), &[("workspace_audit_lines_lost_total", 3.0)]),
            (
                &|| metrics.show_reasons(&["dead"], &["HEAD"], &["closed"]),
                &[
                    ("workspace_gc_reclaimed_total{reason=\"dead\"}", 0.0),
                    ("workspace_proxy_request_duration_seconds_count{method=\"HEAD\"}", 0.0),
                    ("workspace_proxy_request_duration_seconds_sum{method=\"HEAD\"}", 0.0),
                    ("workspace_proxy_blocked_total{reason=\"closed\"}", 0.0),
                ],
            ),
        ];
        for (number, (act, expected)) in acts.into_iter().enumerate() {
            let before = samples(&metrics);
            act();
            let changed = samples(&metrics).into_iter().filter(|(name, value)| before.get(name) != Some(value));
            let changed: Vec<(String, f64)> = changed
                .map(|(name, value)| {
                    let from = before.get(&name).copied().unwrap_or(0.0);
                    (name, value - from)
                })
                .collect();
            let mut expected: Vec<(String, f64)> =
                expected.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
            expected.sort_by(|(one, _), (other, _)| one.cmp(other));
            assert_eq!(changed, expected, "{number}");
        }
        let page =
            metrics.render(Counts { active_containers: 1, warm_pool_size: 2, proxies: 3, limit: 4 }, &[("a", true)]);
        let text = String::from_utf8(page.expect("renders")).expect("text");
        for line in [
            "workspace_active_containers 1",
            "workspace_warm_pool_size 2",
            "workspace_proxies 3",
            "workspace_containers_limit 4",
            "workspace_component_healthy{component=\"a\"} 1",
            "workspace_warm_pool_acquire_seconds_bucket{le=\"1\"} 0",
            "workspace_warm_pool_acquire_seconds_bucket{le=\"5\"} 1",
            "workspace_container_startup_seconds_bucket{source=\"cold\",le=\"1.5\"} 0",
            "workspace_container_startup_seconds_bucket{source=\"cold\",le=\"2.5\"} 1",
            "workspace_proxy_request_duration_seconds_bucket{method=\"GET\",le=\"600\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
