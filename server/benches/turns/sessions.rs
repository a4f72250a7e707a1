//! Memory of the server per living session.

use anyhow::Result;

use crate::process::status;
use crate::report::{Goal, Report, Table};
use crate::stage::{Running, Stage};
use crate::stats::{Sample, rounds};

/// Sessions before the measurement, so that one-time allocations are not counted, and those that are measured.
const BEFORE: usize = 15;
const SESSIONS: usize = 20;

pub(crate) fn measure(stage: &mut Stage, count: usize, report: &mut Report) {
    let stage = &*stage;
    let round = |running: &Running| {
        stage.runtime.block_on(async {
            let mut paths = Vec::new();
            let grown = grown(running, &mut paths).await;
            for path in &paths {
                running.delete(path).await?;
            }
            Ok(Sample { value: grown?, p99: None })
        })
    };
    // In the first round after the start the allocator still takes memory that it keeps for later ones.
    let warm = stage.running().and_then(|running| round(running).map(|_| running));
    let series = rounds(count, vec![("ours", warm)], |_, running| round(running));
    report.add(Table {
        id: "memory-session",
        title: "A session that lives: resident memory of the server",
        unit: "KiB",
        more_is_better: false,
        note: format!(
            "Growth from {BEFORE} conversations whose driver waits to {}, each after two turns: workspace, proxy listener, record, \
             connections, and whatever a conversation leaves in memory. After one round that does not count.",
            BEFORE + SESSIONS
        ),
        series,
        goals: vec![Goal::at_most(64.0)],
    });
}

async fn grown(running: &Running, paths: &mut Vec<String>) -> Result<f64> {
    let mut before = 0;
    for session in 0..BEFORE + SESSIONS {
        if session == BEFORE {
            before = status(running.pid(), "VmRSS")?;
        }
        let path = running.conversation().await?;
        paths.push(path.clone());
        for _ in 0..2 {
            running.turn(&path).await?;
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "kibibytes of one process")]
    Ok(status(running.pid(), "VmRSS")?.saturating_sub(before) as f64 / SESSIONS as f64)
}
