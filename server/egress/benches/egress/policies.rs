//! What a policy costs: two layers of 50 rules and 20 credentials, against none.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::load::{Ask, load};
use crate::net::{Address, ORIGIN};
use crate::origin::PAGE;
use crate::report::{Goal, Report, Table};
use crate::stage::Stage;
use crate::stats::{Sample, Series, median, rounds};

/// Duration of one measurement.
const LONG: Duration = Duration::from_millis(700);
/// Names of the contenders.
const NONE: &str = "none";
const GOVERNED: &str = "governed";

pub(crate) fn measure(stage: &mut Stage, count: usize, report: &mut Report) {
    let host = format!("{ORIGIN}:{}", stage.doors.http.port());
    let ask = |at: Address| Ask {
        at,
        request: format!(
            "GET http://{host}/v1/things?page=1 HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench/1\r\nAccept: */*\r\n\r\n"
        ),
        is_right: |body| body == PAGE,
    };
    let contenders = vec![(NONE, stage.ours().map(ask)), (GOVERNED, stage.governed().map(ask))];
    let again: Vec<(&'static str, Ask)> =
        contenders.iter().filter_map(|(name, ask)| Some((*name, ask.as_ref().ok()?.clone()))).collect();
    let full = rounds(2 * count, contenders, |_, ask| load(ask, None, LONG));
    if report.wants("policies-p99") {
        let half = most(&full).map(|most| most / 2.0);
        let contenders = again.into_iter().map(|(name, ask)| match &half {
            Ok(half) => (name, Ok((ask, *half))),
            Err(error) => (name, Err(anyhow::anyhow!("{error:#}"))),
        });
        let series = rounds(2 * count, contenders.collect(), |_, (ask, rate)| {
            Ok(Sample { value: load(ask, Some(*rate), LONG)?.p99.context("no p99")?, p99: None })
        });
        report.add(Table {
            id: "policies-p99",
            title: "Two layers of 50 rules and 20 credentials at half load: 99th percentile of an exchange",
            unit: "ms",
            more_is_better: false,
            note: "Both at half of what the one without a policy did at full load.".into(),
            series,
            goals: vec![Goal::added(NONE, 0.2).of(GOVERNED)],
        });
    }
    report.add(Table {
        id: "policies",
        title: "Plain HTTP forwarding under a policy of two layers of 50 rules and 20 credentials",
        unit: "requests/s",
        more_is_better: true,
        note: "The same requests as in the table of plain HTTP forwarding; none has no policy but the operator's settings.".into(),
        series: full,
        goals: vec![Goal::ratio(NONE, 0.97).of(GOVERNED)],
    });
}

fn most(full: &[Series]) -> Result<f64> {
    let series = full.iter().find(|series| series.name == NONE).context("not measured")?;
    let samples = series.samples.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
    Ok(median(&samples.iter().map(|sample| sample.value).collect::<Vec<_>>()))
}
