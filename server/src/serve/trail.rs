//! Passes the egress proxy's records of requests on to the metrics, the audit trail and the log.

use std::sync::Arc;

use nagaya_egress::{Decision, RequestRecord, Trail};
use nagaya_telemetry::audit::{Audit, Event, Subject};
use nagaya_telemetry::metrics::Metrics;

/// Passes the egress proxy's records on.
#[derive(Debug)]
pub(super) struct EgressTrail {
    pub(super) metrics: Arc<Metrics>,
    pub(super) audit: Arc<Audit>,
}

impl Trail for EgressTrail {
    fn request(&self, record: &RequestRecord) {
        let reason = record.decision.reason();
        let denied = matches!(record.decision, Decision::Denied(_));
        self.audit.record(&event(record));
        // Refusals beyond a listener's rate come as one record.
        let each = record.duration / u32::try_from(record.count.max(1)).unwrap_or(u32::MAX);
        (0..record.count).for_each(|_| self.metrics.proxied(&record.method, each, reason.filter(|_| denied)));
        tracing::info!(
            workspace = record.identity.workspace,
            conversation = record.identity.conversation,
            tenant = record.identity.tenant,
            method = record.method,
            host = record.host,
            port = record.port,
            rule = record.rule,
            layer = record.layer.as_deref(),
            policy = record.policy.as_deref(),
            credential = record.credential.as_deref(),
            operation = record.operation.as_deref(),
            status = record.status,
            reason,
            bytes_up = record.bytes_up,
            bytes_down = record.bytes_down,
            took_ms = record.duration.as_millis(),
            count = record.count,
            "egress"
        );
    }
}

/// The audit trail's event of a request or tunnel.
fn event(record: &RequestRecord) -> Event<'_> {
    let decision = match record.decision {
        Decision::Allowed => "allowed",
        Decision::Denied(_) => "denied",
        Decision::Failed(_) => "failed",
    };
    Event::Egress {
        subject: Subject {
            workspace: Some(&record.identity.workspace),
            conversation: record.identity.conversation.as_deref(),
            tenant: record.identity.tenant.as_deref(),
        },
        method: &record.method,
        host: &record.host,
        port: record.port,
        decision,
        reason: record.decision.reason(),
        rule: record.rule.as_deref(),
        layer: record.layer.as_deref(),
        policy: record.policy.as_deref(),
        operation: record.operation.as_deref(),
        credential: record.credential.as_deref(),
        status: record.status,
        bytes_up: record.bytes_up,
        bytes_down: record.bytes_down,
        duration_ms: u64::try_from(record.duration.as_millis()).unwrap_or(u64::MAX),
        count: record.count,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nagaya_egress::Identity;
    use nagaya_telemetry::metrics::Counts;

    use super::*;

    #[test]
    fn a_denied_request_is_counted_and_written_to_the_audit_trail() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("audit.jsonl");
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let audit = Arc::new(Audit::open(&path, metrics.clone()).expect("opens"));
        let trail = EgressTrail { metrics: metrics.clone(), audit: audit.clone() };
        trail.request(&RequestRecord {
            identity: Identity { workspace: "w".into(), conversation: None, tenant: None },
            method: "GET".into(),
            host: "evil.example".into(),
            port: 80,
            decision: Decision::Denied("not_allowed"),
            rule: None,
            layer: Some("tenant".into()),
            policy: Some("acme".into()),
            credential: None,
            operation: None,
            status: 403,
            bytes_up: 0,
            bytes_down: 0,
            duration: Duration::ZERO,
            count: 3,
        });
        audit.close();
        let kept = std::fs::read_to_string(&path).expect("reads");
        assert!(kept.contains(r#""host":"evil.example""#) && kept.contains(r#""count":3"#), "{kept}");
        assert!(kept.contains(r#""layer":"tenant","policy":"acme""#), "{kept}");
        assert_eq!(kept.lines().count(), 1, "{kept}");
        let scraped = metrics.render(Counts::default(), &[]).expect("metrics");
        let scraped = String::from_utf8(scraped).expect("text");
        assert!(scraped.contains(r#"workspace_proxy_blocked_total{reason="not_allowed"} 3"#), "{scraped}");
    }
}
