//! The record of a request in progress. It is written when it is dropped, so there is one however a request ends.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};

use crate::answer::Refusal;
use crate::denials::Denials;
use crate::meter::Meter;
use crate::policy::Decided;
use crate::target::Target;
use crate::trail::{Decision, Identity, METHODS, RequestRecord, Trail};

/// A record in progress.
pub(crate) struct Entry {
    trail: Arc<dyn Trail>,
    /// Set if the record is merged with others.
    together: Option<Arc<Denials>>,
    record: RequestRecord,
    /// Counts the bytes of the request.
    pub(crate) meter: Meter,
}

impl Entry {
    /// Begins as the record of a request that was cut off. It stays so only if the listener ends during the request.
    pub(crate) fn new(trail: &Arc<dyn Trail>, identity: Identity, method: Option<&Method>) -> Self {
        let method = method.map(Method::as_str).filter(|method| METHODS.contains(method)).unwrap_or("OTHER");
        let record = RequestRecord {
            identity,
            method: method.to_owned(),
            host: String::new(),
            port: 0,
            decision: Decision::Failed("stopped"),
            rule: None,
            layer: None,
            policy: None,
            credential: None,
            operation: None,
            status: 0,
            bytes_up: 0,
            bytes_down: 0,
            duration: Duration::ZERO,
            count: 1,
        };
        Self { trail: trail.clone(), together: None, record, meter: Meter::new() }
    }

    pub(crate) fn aimed_at(&mut self, target: &Target) {
        self.record.host = target.host.to_string();
        self.record.port = target.port;
    }

    /// What the decision about the request rests on.
    pub(crate) fn ruled_by(&mut self, decided: &Decided<'_>, policy: &Arc<str>) {
        self.record.rule = decided.rule.map(str::to_owned);
        self.record.layer = decided.layer.cloned();
        self.record.policy = Some(policy.clone());
        self.record.credential = decided.credential.map(|credential| credential.name.clone());
        self.record.operation = decided.operation.map(|operation| operation.name.clone());
    }

    /// The status of the answer, once it is known.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.record.status = status.as_u16();
    }

    pub(crate) fn refused(&mut self, refusal: &Refusal) {
        self.answered(refusal.status);
        self.record.decision = refusal.decision;
    }

    /// Lets the record be merged with others of its kind.
    pub(crate) fn recorded_together(&mut self, denials: &Arc<Denials>) {
        self.together = Some(denials.clone());
    }

    /// Sets how the request ended.
    pub(crate) fn ended(&mut self, decision: Decision) {
        self.record.decision = decision;
    }

    /// The requested host; empty if none could be parsed.
    pub(crate) fn host(&self) -> &str {
        &self.record.host
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.record.bytes_up = self.meter.up();
        self.record.bytes_down = self.meter.down();
        self.record.duration = self.meter.elapsed();
        match &self.together {
            Some(denials) => denials.add(&self.record),
            None => self.trail.request(&self.record),
        }
    }
}
