//! How long turns take until their first text, and a tool until it runs.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use hyper::Method;
use nagaya_driver::Permissions;
use serde_json::json;

use crate::cli::Cli;
use crate::client::ask;
use crate::report::{Goal, Report, Table};
use crate::stage::{PREPARES, Running, Stage};
use crate::stats::{Sample, median, quantile, rounds};

/// Turns of a round in which the driver lives; those that come first do not count.
const TURNS: usize = 20;
const UNCOUNTED: usize = 3;
/// Conversations of a round that begin in a workspace of the pool.
const FIRST_TURNS: usize = 2;
/// Decisions of a round.
const DECISIONS: usize = 6;
/// A turn whose tool prints when it runs, in nanoseconds since 1970.
pub(crate) const ASKS: &str =
    "@tool Bash {\"command\": \"echo ran-at-$(date +%s%N)\", \"description\": \"Print the time\"}\n@say done";

#[derive(Clone, Copy, PartialEq)]
enum Who {
    Ours,
    Cli,
}

fn contenders(stage: &Stage) -> Vec<(&'static str, Result<(Who, &Running)>)> {
    vec![("ours", stage.running().map(|it| (Who::Ours, it))), ("CLI", stage.running().map(|it| (Who::Cli, it)))]
}

fn sample(took: &[f64]) -> Sample {
    Sample { value: median(took), p99: Some(quantile(took, 0.99)) }
}

pub(crate) fn later(stage: &mut Stage, count: usize, report: &mut Report) {
    let stage = &*stage;
    let series = rounds(count, contenders(stage), |_, (who, running)| {
        let mut took = Vec::new();
        match who {
            Who::Ours => stage.runtime.block_on(async {
                let path = running.conversation().await?;
                for _ in 0..UNCOUNTED + TURNS {
                    took.push(running.turn(&path).await?);
                }
                running.delete(&path).await
            })?,
            Who::Cli => {
                let mut cli = Cli::start(running.plain, Permissions::default())?;
                for turn in 0..UNCOUNTED + TURNS {
                    took.push(cli.turn(turn == 0)?);
                }
            }
        }
        Ok(sample(&took[UNCOUNTED..]))
    });
    report.add(Table {
        id: "turn-later",
        title: "A turn whose driver lives: from the request until the first text",
        unit: "ms",
        more_is_better: false,
        note: format!(
            "Median of {TURNS} turns, one after the other, in one conversation. Beside it the same CLI at its own standard input \
             and output, in a container of the same image without a proxy; the last column is the 99th percentile."
        ),
        series,
        goals: vec![Goal::added("CLI", 15.0), Goal::at_most(120.0)],
    });
}

pub(crate) fn first(stage: &mut Stage, count: usize, report: &mut Report) {
    let stage = &*stage;
    let series = rounds(count, contenders(stage), |_, (who, running)| {
        let mut took = Vec::new();
        for _ in 0..FIRST_TURNS {
            took.push(match who {
                Who::Ours => stage.runtime.block_on(async {
                    running.fill_pool(1).await?;
                    let path = running.conversation().await?;
                    let took = running.turn(&path).await?;
                    running.delete(&path).await?;
                    anyhow::Ok(took)
                })?,
                Who::Cli => {
                    let mut cli = Cli::start(running.plain, Permissions::default())?;
                    std::thread::sleep(PREPARES);
                    cli.turn(true)?
                }
            });
        }
        Ok(sample(&took))
    });
    report.add(Table {
        id: "turn-first",
        title: "A first turn in a workspace of the pool with a started driver: until the first text",
        unit: "ms",
        more_is_better: false,
        note: format!(
            "Median of {FIRST_TURNS} conversations. The driver was started {PREPARES:?} before, and so was the CLI beside it, which \
             is told the same. The pool is not refilled meanwhile."
        ),
        series,
        goals: vec![Goal::added("CLI", 25.0)],
    });
}

pub(crate) fn approval(stage: &mut Stage, count: usize, report: &mut Report) {
    let stage = &*stage;
    let permissions = || Permissions { ask: vec!["Bash".into()], ..Permissions::default() };
    let series = rounds(count, contenders(stage), |_, (who, running)| {
        let mut took = Vec::new();
        match who {
            Who::Ours => stage.runtime.block_on(async {
                let path = running.conversation().await?;
                for _ in 0..=DECISIONS {
                    took.push(consent(running, &path).await?);
                }
                running.delete(&path).await
            })?,
            Who::Cli => {
                let mut cli = Cli::start(running.plain, permissions())?;
                for _ in 0..=DECISIONS {
                    took.push(cli.consent()?);
                }
            }
        }
        Ok(sample(&took[1..]))
    });
    report.add(Table {
        id: "approval",
        title: "A tool that needs consent: from the decision until it runs",
        unit: "ms",
        more_is_better: false,
        note: format!(
            "Median of {DECISIONS} decisions in one conversation. The tool is a shell that prints the time, so the start of the \
             shell is included. Beside it the same CLI, answered at its own standard input."
        ),
        series,
        goals: vec![Goal::at_most(30.0), Goal::added("CLI", 30.0)],
    });
}

async fn consent(running: &Running, path: &str) -> Result<f64> {
    let body = json!({"user_input": ASKS, "configuration": {"permissions": {"ask": ["Bash"]}}});
    let mut events = running.run(path, &body).await?;
    events.until("approval_required").await?;
    let listed = ask(running.address, Method::GET, &format!("{path}/approvals"), &serde_json::Value::Null).await?;
    let id = listed["approvals"][0]["request_id"].as_str().with_context(|| format!("nothing waits: {listed}"))?;
    let sent = now();
    ask(running.address, Method::POST, &format!("{path}/approvals/{id}"), &json!({"decision": "allow"})).await?;
    events.until("done").await?;
    ran(&events.text(), sent)
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
}

/// Milliseconds from `sent` until a tool ran, which has printed the time.
pub(crate) fn ran(printed: &str, sent: u128) -> Result<f64> {
    let digits = printed.split("ran-at-").filter_map(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u128>().ok()
    });
    let at = digits.last().with_context(|| format!("the tool has not printed the time: {printed}"))?;
    ensure!(at >= sent, "the tool ran before it was allowed to");
    #[allow(clippy::cast_precision_loss, reason = "some milliseconds")]
    Ok((at - sent) as f64 / 1e6)
}
