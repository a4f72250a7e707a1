//! Rounds of measurements, and statistics of their results.

use anyhow::Result;

/// Result of one contender in one round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) value: f64,
    /// 99th percentile of the duration of an exchange, in milliseconds.
    pub(crate) p99: Option<f64>,
}

/// Results of one contender in all rounds, or why it could not be measured.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) name: &'static str,
    pub(crate) samples: Result<Vec<Sample>>,
}

/// Measures each contender once per round: a, b, c, a, b, c, …
pub(crate) fn rounds<C>(
    count: usize,
    contenders: Vec<(&'static str, Result<C>)>,
    mut measure: impl FnMut(&'static str, &C) -> Result<Sample>,
) -> Vec<Series> {
    let (names, contenders): (Vec<_>, Vec<_>) = contenders.into_iter().unzip();
    let mut samples: Vec<Result<Vec<Sample>>> = Vec::new();
    let contenders: Vec<Option<C>> = contenders
        .into_iter()
        .map(|contender| {
            let (contender, begun) = match contender {
                Ok(contender) => (Some(contender), Ok(Vec::new())),
                Err(error) => (None, Err(error)),
            };
            samples.push(begun);
            contender
        })
        .collect();
    for round in 0..count {
        for ((name, contender), samples) in names.iter().zip(&contenders).zip(&mut samples) {
            let (Some(contender), Ok(so_far)) = (contender, samples.as_mut()) else { continue };
            match measure(name, contender) {
                Ok(sample) => so_far.push(sample),
                Err(error) => *samples = Err(error.context(format!("in round {}", round + 1))),
            }
        }
    }
    names.into_iter().zip(samples).map(|(name, samples)| Series { name, samples }).collect()
}

/// The quantile of the values at `share` (0 to 1); the values need not be sorted.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    let at = share * last as f64;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the last index")]
    let (below, above) = (at.floor() as usize, at.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * (at - at.floor())
}

pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}
