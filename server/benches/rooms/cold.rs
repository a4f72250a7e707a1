//! Cold starts: the time to build a room, compared with the time the engine needs for the container alone.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nagaya_protocol::AGENT_SOCKET;
use nagaya_workspace::engine::Engine;
use nagaya_workspace::id::RoomId;
use nagaya_workspace::{Origin, Variant};

use crate::deployment::Deployment;
use crate::report::{Goal, Report, Table};
use crate::stage::{PATIENCE, Stage};
use crate::stats::{Sample, median, rounds};

/// Rooms built by each contender in a round.
const ROOMS: usize = 4;
/// User of a container that is started without a server.
const UID: u32 = 49_999;

pub(crate) fn measure(stage: &mut Stage, count: usize, report: &mut Report) {
    let stage = &*stage;
    // A first start that is not counted: it loads the image's pages and opens the client's connection for both contenders.
    let warmed = stage.deployment().and_then(|deployment| {
        ours(stage, deployment)?;
        Ok(deployment)
    });
    let contenders = match warmed {
        Ok(deployment) => vec![("ours", Ok(deployment)), ("engine", Ok(deployment))],
        Err(error) => vec![("ours", Err(error)), ("engine", stage.deployment())],
    };
    // The contenders alternate within a round as well; the engine's result is stored here until its turn.
    let engines = Cell::new(None);
    let series = rounds(count, contenders, |name, deployment| {
        if name == "engine"
            && let Some(took) = engines.take()
        {
            return Ok(Sample { value: took, p99: None });
        }
        let (mut of_ours, mut of_engine) = (Vec::new(), Vec::new());
        for n in 0..ROOMS {
            if n % 2 == 0 {
                of_ours.push(ours(stage, deployment)?);
                of_engine.push(engine(stage, deployment)?);
            } else {
                of_engine.push(engine(stage, deployment)?);
                of_ours.push(ours(stage, deployment)?);
            }
        }
        engines.set(Some(median(&of_engine)));
        Ok(Sample { value: median(&of_ours), p99: None })
    });
    report.add(Table {
        id: "cold",
        title: "A cold room: from the request until its agent answers",
        unit: "ms",
        more_is_better: false,
        note: format!(
            "Median of {ROOMS} rooms a round. Ours: with directory, proxy and record. Beside it, container for container, the \
             engine's own create and start of the same specification through the same API, until its agent answers GET /health, \
             which is tried every millisecond; the directory is there beforehand."
        ),
        series,
        goals: vec![Goal::ratio("engine", 1.10)],
    });
}

/// Time in milliseconds that a conversation waits for a new room.
fn ours(stage: &Stage, deployment: &Deployment) -> Result<f64> {
    let began = Instant::now();
    let lease = stage.acquire(deployment, "cold")?;
    let took = began.elapsed().as_secs_f64() * 1e3;
    ensure!(lease.origin() == Origin::Cold, "the room was not newly built");
    drop(lease);
    stage.release(deployment, "cold")?;
    Ok(took)
}

/// Time in milliseconds that the container alone takes.
fn engine(stage: &Stage, deployment: &Deployment) -> Result<f64> {
    let id = RoomId::generate(&stage.names[0]);
    let dir = deployment.sockets.create(&id, UID)?;
    let spec = deployment.template.room(&id, UID, deployment.sockets.host_path(&id), &Variant::default());
    let began = Instant::now();
    let ran = stage.within(PATIENCE, "a container", async {
        let socket = dir.bind(AGENT_SOCKET)?;
        deployment.engine.run(spec).await?;
        // The agent dials as soon as it is ready.
        socket.accept().await?;
        anyhow::Ok(())
    });
    let took = began.elapsed().as_secs_f64() * 1e3;
    stage.within(PATIENCE, "a removal", deployment.engine.remove(&id.container(), Duration::from_secs(30)))??;
    drop(dir);
    deployment.sockets.remove(&id)?;
    ran??;
    Ok(took)
}
