//! Metrics in the Prometheus text format (version 0.0.4), parsed strictly enough to notice a malformed page.

use std::collections::BTreeMap;
use std::fmt;

/// One sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The metric's name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// A page of metrics.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    /// All samples, in the page's order.
    pub samples: Vec<Sample>,
    /// The `# TYPE` of each metric.
    pub types: BTreeMap<String, String>,
}

/// A line that is not in the format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsError {
    /// Its number, starting at 1.
    pub line: usize,
    /// What is wrong.
    pub message: &'static str,
}

impl fmt::Display for MetricsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "metrics, line {}: {}", self.line, self.message)
    }
}

impl Metrics {
    /// Parses a page.
    ///
    /// # Errors
    /// The first line that is not in the format.
    pub fn parse(text: &str) -> Result<Self, MetricsError> {
        let mut page = Self::default();
        for (index, line) in text.lines().enumerate() {
            let fault = |message| MetricsError { line: index + 1, message };
            let line = line.trim();
            if let Some(comment) = line.strip_prefix('#') {
                let mut words = comment.split_ascii_whitespace();
                if words.next() == Some("TYPE") {
                    let (Some(name), Some(kind)) = (words.next(), words.next()) else {
                        return Err(fault("TYPE without a name and a type"));
                    };
                    if page.types.insert(name.to_owned(), kind.to_owned()).is_some() {
                        return Err(fault("a second TYPE for the same metric"));
                    }
                }
            } else if !line.is_empty() {
                page.samples.push(sample(line).map_err(fault)?);
            }
        }
        Ok(page)
    }

    /// The sample with exactly these labels.
    #[must_use]
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self.named(name).filter(|sample| {
            sample.labels.len() == labels.len()
                && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|have| have == value))
        });
        found.next().map(|sample| sample.value)
    }

    /// The sum over all labels; `None` if there is no such metric.
    #[must_use]
    pub fn sum(&self, name: &str) -> Option<f64> {
        self.named(name).map(|sample| sample.value).reduce(|a, b| a + b)
    }

    /// All samples of one name.
    pub fn named<'m>(&'m self, name: &'m str) -> impl Iterator<Item = &'m Sample> {
        self.samples.iter().filter(move |sample| sample.name == name)
    }
}

fn sample(line: &str) -> Result<Sample, &'static str> {
    let name_end = line.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).ok_or("no value")?;
    let (name, mut rest) = line.split_at(name_end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err("not a metric's name");
    }
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = label_set(inner, &mut labels)?;
    }
    let mut words = rest.split_ascii_whitespace();
    let value = match words.next().ok_or("no value")? {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        number => number.parse().map_err(|_| "the value is not a number")?,
    };
    if words.next().is_some_and(|stamp| stamp.parse::<i64>().is_err()) || words.next().is_some() {
        return Err("something other than a time stamp after the value");
    }
    Ok(Sample { name: name.to_owned(), labels, value })
}

/// Parses `key="value",…}` and returns the rest.
fn label_set<'l>(mut rest: &'l str, labels: &mut BTreeMap<String, String>) -> Result<&'l str, &'static str> {
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix('}') {
            return Ok(after);
        }
        let (key, after) = rest.split_once('=').ok_or("a label without a value")?;
        let mut chars = after.trim_start().strip_prefix('"').ok_or("a label's value is not quoted")?.char_indices();
        let start = after.trim_start();
        let mut value = String::new();
        let end = loop {
            match chars.next().ok_or("a label's value is not closed")? {
                (at, '"') => break at + 2,
                (_, '\\') => match chars.next().ok_or("a label's value is not closed")?.1 {
                    'n' => value.push('\n'),
                    escaped @ ('\\' | '"') => value.push(escaped),
                    _ => return Err("an unknown escape in a label's value"),
                },
                (_, other) => value.push(other),
            }
        };
        if labels.insert(key.trim().to_owned(), value).is_some() {
            return Err("a label is there twice");
        }
        rest = start[end..].trim_start();
        rest = match rest.strip_prefix(',') {
            Some(after) => after,
            None if rest.starts_with('}') => rest,
            None => return Err("neither `,` nor `}` after a label"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page() {
        let page = Metrics::parse(
            "# HELP up Is it\n# TYPE up gauge\nup 1\n# TYPE t counter\nt{status=\"ok\",why=\"a \\\"b\\\\\\n}\"} 2 1700000000\n\
             t{ status = \"bad\" , } 3.5\n\nh_bucket{le=\"+Inf\"} +Inf\nnan NaN\n# a remark\n",
        )
        .expect("valid");
        assert_eq!(page.get("up", &[]), Some(1.0));
        assert_eq!(page.sum("t"), Some(5.5));
        assert_eq!(page.get("t", &[("why", "a \"b\\\n}"), ("status", "ok")]), Some(2.0));
        assert_eq!(page.get("t", &[("status", "ok")]), None, "all labels count");
        assert_eq!(page.get("h_bucket", &[("le", "+Inf")]), Some(f64::INFINITY));
        assert!(page.get("nan", &[]).is_some_and(f64::is_nan));
        assert_eq!(page.sum("absent"), None);
        assert_eq!(page.types["t"], "counter");
    }

    #[test]
    fn malformed_lines_are_noticed() {
        for bad in [
            "a",
            "a b",
            "1a 1",
            "a{x=\"1\" 1",
            "a{x=1} 1",
            "a{x=\"1\"y=\"2\"} 1",
            "a{x=\"\\q\"} 1",
            "a 1 soon",
            "a{x=\"1\",x=\"2\"} 1",
            "# TYPE a",
            "# TYPE a gauge\n# TYPE a gauge",
            "a{x=\"1\"}",
            "{} 1",
        ] {
            assert!(Metrics::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Metrics::parse("a 1\nb").expect_err("no value").line, 2);
    }
}
