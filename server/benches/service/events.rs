//! Runs: time to the first event, throughput of events, and memory per reader.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use hyper::Method;
use serde_json::{Value, json};

use crate::client::Events;
use crate::process::status;
use crate::report::{Goal, Report, Table};
use crate::stage::{Running, Stage};
use crate::stats::{Sample, Series, median, quantile, rounds};

/// Runs per round in the measurement of the first event.
const RUNS: usize = 50;
/// Events relayed per round.
const RELAYED: usize = 100_000;
/// Rooms, and readers of the run in each room.
const ROOMS: usize = 25;
const READERS: usize = 40;
/// Events that each reader waits for, and the pause in seconds between two.
const SLOW_EVENTS: usize = 100;
const PAUSE: &str = "0.1";

/// Times of a round in milliseconds: until the first event, and until the driver's first event.
struct Firsts {
    any: Vec<f64>,
    of_driver: Vec<f64>,
}

pub(crate) fn first(stage: &mut Stage, count: usize, report: &mut Report) {
    let stage = &*stage;
    let measured: Result<Vec<Firsts>> = stage.running().and_then(|running| {
        stage.runtime.block_on(async {
            let path = running.conversation().await?;
            let mut all = Vec::new();
            for _ in 0..count {
                let (mut any, mut of_driver) = (Vec::new(), Vec::new());
                for _ in 0..RUNS {
                    let mut events = running.run(&path, "1").await?;
                    events.until("progress").await?;
                    any.push(millis(events.requested));
                    events.until("init").await?;
                    of_driver.push(millis(events.requested));
                    events.count().await?;
                }
                all.push(Firsts { any, of_driver });
            }
            running.delete(&path).await?;
            Ok(all)
        })
    });
    let series = |name: &'static str, which: fn(&Firsts) -> &Vec<f64>| Series {
        name,
        samples: match &measured {
            Ok(all) => Ok(all
                .iter()
                .map(which)
                .map(|took| Sample { value: quantile(took, 0.99), p99: Some(median(took)) })
                .collect()),
            Err(error) => Err(anyhow::anyhow!("{error:#}")),
        },
    };
    report.add(Table {
        id: "first-event",
        title: "A run in an existing room: 99th percentile until its first events",
        unit: "ms",
        more_is_better: false,
        note: format!(
            "{RUNS} runs, one after the other, in one conversation. `any` is the first event of all; `ours` the first of the \
             driver, a shell that the agent has to start. The last column is the median."
        ),
        series: vec![series("any", |first| &first.any), series("ours", |first| &first.of_driver)],
        goals: vec![Goal::at_most(15.0)],
    });
}

/// From where the relayed events are read.
#[derive(Clone, Copy)]
enum Source {
    /// From the server, through its journal.
    Server,
    /// From the agent's socket.
    Agent,
}

pub(crate) fn relay(stage: &mut Stage, count: usize, report: &mut Report) {
    let stage = &*stage;
    let set: Result<(&Running, String, std::path::PathBuf)> = stage.running().and_then(|running| {
        stage.runtime.block_on(async {
            let path = running.conversation().await?;
            let agent = running.agent(&path).await?;
            Ok((running, path, agent))
        })
    });
    let contender = |source: Source| match &set {
        Ok(set) => Ok((source, set)),
        Err(error) => Err(anyhow::anyhow!("{error:#}")),
    };
    let contenders = vec![("ours", contender(Source::Server)), ("agent.sock", contender(Source::Agent))];
    let series = rounds(count, contenders, |_, (source, (running, path, agent))| {
        stage.runtime.block_on(async {
            let events = match source {
                Source::Agent => {
                    let print = format!("yes 'piece word ' | head -n {RELAYED}");
                    let program = json!({"program": "/bin/sh", "arguments": ["-c", print]});
                    Events::of_agent(agent, &program).await?
                }
                Source::Server => running.run(path, &RELAYED.to_string()).await?,
            };
            let requested = events.requested;
            let (count, _) = events.count().await?;
            let took = requested.elapsed().as_secs_f64();
            ensure!(count > RELAYED, "only {count} events");
            #[allow(clippy::cast_precision_loss, reason = "a hundred thousand")]
            Ok(Sample { value: count as f64 / took, p99: None })
        })
    });
    if let Ok((running, path, _)) = &set
        && let Err(error) = stage.runtime.block_on(running.delete(path))
    {
        eprintln!("{error:#}");
    }
    report.add(Table {
        id: "relay",
        title: "100,000 small events, from the request to the end",
        unit: "events/s",
        more_is_better: true,
        note: "Text of five bytes each. Ours goes through agent, server and journal; beside it the same is read from the same room \
               through agent.sock, where the server passes it on unread, by the same client."
            .into(),
        series,
        goals: vec![Goal::ratio("agent.sock", 0.9)],
    });
}

pub(crate) fn readers(stage: &mut Stage, count: usize, report: &mut Report) {
    let stage = &*stage;
    let series = rounds(count, vec![("ours", stage.running())], |_, running| {
        stage.runtime.block_on(async {
            let paths = try_join_all((0..ROOMS).map(|_| running.conversation())).await?;
            let grown = read_by_many(running, &paths).await;
            try_join_all(paths.iter().map(|path| running.delete(path))).await?;
            Ok(Sample { value: grown?, p99: None })
        })
    });
    report.add(Table {
        id: "memory-reader",
        title: "1,000 readers at once: resident memory of the server, each",
        unit: "KiB",
        more_is_better: false,
        note: format!(
            "{ROOMS} runs with an event every {PAUSE} s, {READERS} connected readers of each; every reader must receive \
             every event. The largest growth since the rooms were built; runs and journals are included."
        ),
        series,
        goals: vec![Goal::at_most(64.0)],
    });
}

async fn read_by_many(running: &Running, paths: &[String]) -> Result<f64> {
    let before = status(running.pid(), "VmRSS")?;
    let mut streams = Vec::new();
    for path in paths {
        streams.push(running.run(path, &format!("{SLOW_EVENTS} {PAUSE}")).await?);
        for _ in 1..READERS {
            let follow = format!("{path}/stream?after=0");
            streams.push(Events::of_server(running.address, Method::GET, &follow, &Value::Null).await?);
        }
    }
    let all = try_join_all(streams.into_iter().map(|stream| tokio::spawn(stream.count())));
    tokio::pin!(all);
    let mut peak = before;
    let mut sample = tokio::time::interval(Duration::from_millis(100));
    let ended = loop {
        tokio::select! {
            ended = &mut all => break ended?,
            _ = sample.tick() => peak = peak.max(status(running.pid(), "VmRSS")?),
        }
    };
    for (reader, ended) in ended.into_iter().enumerate() {
        let (count, last) = ended.with_context(|| format!("reader {reader}"))?;
        let seq = last.lines().next().and_then(|id| id.rsplit(':').next()?.parse::<usize>().ok());
        ensure!(
            last.contains("event: done") && seq == Some(count) && count > SLOW_EVENTS,
            "reader {reader}: {count} events, {last}"
        );
    }
    #[allow(clippy::cast_precision_loss, reason = "kibibytes of one process")]
    Ok(peak.saturating_sub(before) as f64 / (ROOMS * READERS) as f64)
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
