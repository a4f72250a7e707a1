//! Runs: their first event, how fast their events come through, what a reader of them costs.

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

/// Runs in a round, of which the first event is waited for.
const RUNS: usize = 50;
/// Events that are relayed in a round.
const RELAYED: usize = 100_000;
/// Rooms, and readers of the run in each.
const ROOMS: usize = 25;
const READERS: usize = 40;
/// Events that readers wait for, and the pause between two.
const TOLD: usize = 100;
const PAUSE: &str = "0.1";

/// What a round took, in milliseconds: until the first event of all, and until the driver's.
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
                    any.push(millis(events.asked));
                    events.until("init").await?;
                    of_driver.push(millis(events.asked));
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
        title: "A run in a room that is there: 99th percentile until its first events",
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

pub(crate) fn relay(stage: &mut Stage, count: usize, report: &mut Report) {
    let stage = &*stage;
    let set: Result<(&Running, String, std::path::PathBuf)> = stage.running().and_then(|running| {
        stage.runtime.block_on(async {
            let path = running.conversation().await?;
            let agent = running.agent(&path).await?;
            Ok((running, path, agent))
        })
    });
    let contender = |direct: bool| match &set {
        Ok(set) => Ok((direct, set)),
        Err(error) => Err(anyhow::anyhow!("{error:#}")),
    };
    let contenders = vec![("ours", contender(false)), ("agent.sock", contender(true))];
    let series = rounds(count, contenders, |_, (direct, (running, path, agent))| {
        stage.runtime.block_on(async {
            let what = RELAYED.to_string();
            let events = match direct {
                true => Events::of_agent(agent, &json!({"user_input": format!("{what}\n")})).await?,
                false => running.run(path, &what).await?,
            };
            let asked = events.asked;
            let (count, _) = events.count().await?;
            let took = asked.elapsed().as_secs_f64();
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
        title: "100,000 small events, from the asking to the end",
        unit: "events/s",
        more_is_better: true,
        note: "Text of five bytes each. Ours goes through agent, server and journal; beside it the same is read from the room's \
               agent.sock, in the same room, by the same client."
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
            "{ROOMS} runs that tell something every {PAUSE} s, {READERS} readers of each, all connected; every reader must get \
             every event. The largest growth over what the server had when the rooms were there; runs and journals are in it."
        ),
        series,
        goals: vec![Goal::at_most(64.0)],
    });
}

async fn read_by_many(running: &Running, paths: &[String]) -> Result<f64> {
    let before = status(running.pid(), "VmRSS")?;
    let mut streams = Vec::new();
    for path in paths {
        streams.push(running.run(path, &format!("{TOLD} {PAUSE}")).await?);
        for _ in 1..READERS {
            let follow = format!("{path}/stream?after=0");
            streams.push(Events::of_server(running.address, Method::GET, &follow, &Value::Null).await?);
        }
    }
    let all = try_join_all(streams.into_iter().map(|stream| tokio::spawn(stream.count())));
    tokio::pin!(all);
    let mut most = before;
    let mut look = tokio::time::interval(Duration::from_millis(100));
    let ended = loop {
        tokio::select! {
            ended = &mut all => break ended?,
            _ = look.tick() => most = most.max(status(running.pid(), "VmRSS")?),
        }
    };
    for (reader, ended) in ended.into_iter().enumerate() {
        let (count, last) = ended.with_context(|| format!("reader {reader}"))?;
        let seq = last.lines().next().and_then(|id| id.rsplit(':').next()?.parse::<usize>().ok());
        ensure!(
            last.contains("event: done") && seq == Some(count) && count > TOLD,
            "reader {reader}: {count} events, {last}"
        );
    }
    #[allow(clippy::cast_precision_loss, reason = "kibibytes of one process")]
    Ok(most.saturating_sub(before) as f64 / (ROOMS * READERS) as f64)
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
