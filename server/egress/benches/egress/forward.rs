//! Plain HTTP forwarding: small requests on kept connections, at full load and at half load.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::load::{Ask, load};
use crate::net::{Address, ORIGIN};
use crate::origin::PAGE;
use crate::peers::Kind;
use crate::report::{Goal, Report, Table};
use crate::stage::Stage;
use crate::stats::{Sample, Series, median, rounds};

/// Duration of one measurement.
const LONG: Duration = Duration::from_millis(700);

/// Number of measurements at half load in each round, for the contenders that are compared there.
const PAIRS: usize = 3;

pub(crate) fn measure(stage: &mut Stage, count: usize, report: &mut Report) {
    let http = stage.doors.http;
    let ask = |at: Address, host: &str, target: &str| Ask {
        at,
        request: format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench/1\r\nAccept: */*\r\n\r\n"),
        is_right: |body| body == PAGE,
    };
    let address = http.to_string();
    let named = format!("{ORIGIN}:{}", http.port());
    let by_name = |at| ask(at, &named, &format!("http://{named}/v1/things?page=1"));
    let by_address = |at| ask(at, &address, &format!("http://{address}/v1/things?page=1"));
    let contenders = || {
        vec![
            ("direct", Ok(ask(Address::Tcp(http), &address, "/v1/things?page=1"))),
            ("ours", stage.ours().map(by_name)),
            ("squid", stage.peer(Kind::Squid).map(by_address)),
            ("tinyproxy", stage.peer(Kind::Tinyproxy).map(by_address)),
            // nginx looks up hosts with a port, so the upstream has none.
            ("nginx", stage.peer(Kind::Nginx).map(|at| ask(at, ORIGIN, &format!("http://{ORIGIN}/v1/things?page=1")))),
        ]
    };
    let contenders = {
        let mut contenders = contenders;
        contenders()
    };
    let again: Vec<(&'static str, Ask)> =
        contenders.iter().filter_map(|(name, ask)| Some((*name, ask.as_ref().ok()?.clone()))).collect();
    let full = rounds(count, contenders, |_, ask| load(ask, None, LONG));
    if report.wants("forward-half-load") {
        half_load(&full, again, count, report);
    }
    report.add(Table {
        id: "forward",
        title: "Plain HTTP forwarding of small requests, as fast as it goes",
        unit: "requests/s",
        more_is_better: true,
        note:
            "GET of 256 bytes on 32 kept connections (tinyproxy keeps none: it gets a new one for each). Every body is \
               compared. p99 is of one exchange under this load."
                .into(),
        series: full,
        goals: vec![Goal::ratio("squid", 2.0), Goal::ratio("nginx", 1.0)],
    });
}

/// Each contender at half of its own full load, and direct at half of our proxy's.
fn half_load(full: &[Series], contenders: Vec<(&'static str, Ask)>, count: usize, report: &mut Report) {
    let most = |name: &str| -> Result<f64> {
        let series = full.iter().find(|series| series.name == name).context("not measured")?;
        let samples = series.samples.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
        Ok(median(&samples.iter().map(|sample| sample.value).collect::<Vec<_>>()))
    };
    let at_half = |(name, ask): (&'static str, Ask)| {
        (name, most(if name == "direct" { "ours" } else { name }).map(|most| (ask, most / 2.0)))
    };
    // Our proxy is compared with direct, and 99th percentiles vary over time, so these two get more rounds.
    let (judged, others): (Vec<_>, Vec<_>) =
        contenders.into_iter().map(at_half).partition(|(name, _)| ["direct", "ours"].contains(name));
    let p99 = |_: &'static str, (ask, rate): &(Ask, f64)| {
        let sample = load(ask, Some(*rate), LONG)?;
        Ok(Sample { value: sample.p99.context("no p99")?, p99: None })
    };
    let mut series = rounds(PAIRS * count, judged, p99);
    series.extend(rounds(count, others, p99));
    report.add(Table {
        id: "forward-half-load",
        title: "Plain HTTP forwarding at half load: 99th percentile of an exchange",
        unit: "ms",
        more_is_better: false,
        note: format!(
            "Each at half of what it did above, direct at half of what ours did; those two in {PAIRS} times as many rounds. \
             Requests are due at even times; every one of them counts, from then on, however late its turn or its answer came."
        ),
        series,
        goals: vec![Goal::added("direct", 0.5)],
    });
}
