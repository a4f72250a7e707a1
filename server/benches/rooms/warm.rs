//! Warm starts: the time until a room of the pool can be used.

use std::cell::RefCell;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nagaya_workspace::{Lease, Origin};

use crate::agent::{round_trip, socket};
use crate::deployment::{Deployment, pooled};
use crate::report::{Goal, Report, Table};
use crate::stage::Stage;
use crate::stats::{Sample, Series, median, quantile};

/// Rooms leased in a round. As many again are only sent a health request.
const ROOMS: usize = 12;

/// The results of a round: times in milliseconds, and the number of calls to the engine meanwhile.
struct Round {
    acquired: Vec<f64>,
    queried: Vec<f64>,
    engine_calls: u32,
}

pub(crate) fn measure(stage: &mut Stage, count: usize, report: &mut Report) {
    let stage = &*stage;
    let measured: Result<Vec<Round>> =
        stage.deployment().and_then(|deployment| (0..count).map(|_| round(stage, deployment)).collect());
    let series = |name: &'static str, sample: &dyn Fn(&Round) -> Sample| Series {
        name,
        samples: match &measured {
            Ok(rounds) => Ok(rounds.iter().map(sample).collect()),
            Err(error) => Err(anyhow::anyhow!("{error:#}")),
        },
    };
    let middle = |took: &[f64]| Sample { value: median(took), p99: Some(quantile(took, 0.99)) };
    let slowest = |took: &[f64]| Sample { value: quantile(took, 0.99), p99: None };
    let note = format!(
        "{ROOMS} rooms of the pool, one after the other; a room's agent has answered and its record is written before a run gets \
         it. Beside each, one bare GET /health on the agent's socket of another room in the pool: neither agent has \
         received a request since it was ready."
    );
    if report.wants("warm") {
        report.add(Table {
            id: "warm",
            title: "A warm room: from the request until it can execute something",
            unit: "ms",
            more_is_better: false,
            note: note.clone(),
            series: vec![
                series("ours", &|round| middle(&round.acquired)),
                series("round trip", &|round| middle(&round.queried)),
            ],
            goals: vec![],
        });
    }
    if report.wants("warm-p99") {
        report.add(Table {
            id: "warm-p99",
            title: "A warm room: 99th percentile of the same",
            unit: "ms",
            more_is_better: false,
            note,
            series: vec![
                series("ours", &|round| slowest(&round.acquired)),
                series("round trip", &|round| slowest(&round.queried)),
            ],
            goals: vec![Goal::added("round trip", 5.0)],
        });
    }
    if report.wants("warm-engine-calls") {
        report.add(Table {
            id: "warm-engine-calls",
            title: "Warm rooms: calls to the engine until they can be used",
            unit: "calls",
            more_is_better: false,
            note: format!("Counted while {ROOMS} rooms are taken; the pool is not refilled meanwhile."),
            series: vec![series("ours", &|round| Sample { value: f64::from(round.engine_calls), p99: None })],
            goals: vec![Goal::at_most(0.0)],
        });
    }
}

fn round(stage: &Stage, deployment: &Deployment) -> Result<Round> {
    stage.fill_pool(deployment, 2 * ROOMS)?;
    let leases = RefCell::new(Vec::new());
    let taken = take(stage, deployment, &leases);
    let taken_by = leases.take().len();
    for n in 0..taken_by {
        stage.release(deployment, &conversation(n))?;
    }
    stage.empty_pool(deployment)?;
    taken
}

fn take(stage: &Stage, deployment: &Deployment, leases: &RefCell<Vec<Lease>>) -> Result<Round> {
    let before = deployment.engine.calls();
    // The pool hands rooms out in the order in which they were built: the first half is leased, the other half only queried.
    let mut rooms = pooled(&deployment.workspaces);
    rooms.sort_by_key(|entry| entry.last_used);
    let mut round = Round { acquired: Vec::new(), queried: Vec::new(), engine_calls: 0 };
    let mut others = rooms.iter().skip(ROOMS).map(|entry| entry.room.id.as_str());
    for n in 0..ROOMS {
        let other = others.next().context("too few rooms in the pool")?;
        let began = Instant::now();
        let lease = stage.acquire(deployment, &conversation(n))?;
        round.acquired.push(began.elapsed().as_secs_f64() * 1e3);
        ensure!(lease.origin() == Origin::Warm, "the room does not come from the pool");
        ensure!(lease.workspace_id() != other, "a room that was only to be queried was leased");
        leases.borrow_mut().push(lease);
        let other = socket(&deployment.dir(other));
        let began = Instant::now();
        round_trip(&other)?;
        round.queried.push(began.elapsed().as_secs_f64() * 1e3);
    }
    round.engine_calls = deployment.engine.calls() - before;
    Ok(round)
}

fn conversation(n: usize) -> String {
    format!("warm-{n}")
}
