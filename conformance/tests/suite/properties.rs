//! Properties for any input: filter expressions, event streams, metrics pages.

use std::sync::LazyLock;

use nagaya_conformance::client::metrics::Metrics;
use nagaya_conformance::client::sse::{SseEvent, SseReader};
use nagaya_conformance::filter::Filter;
use nagaya_conformance::harness::scenario::Scenario;
use nagaya_conformance::scenarios;
use proptest::prelude::*;

/// Every scenario; computed once, because each step uses it.
static ALL: LazyLock<Vec<&'static Scenario>> = LazyLock::new(scenarios::all);

/// A filter expression, and the scenarios that it matches.
#[derive(Debug, Clone)]
enum Expression {
    Id(usize),
    Family(usize),
    Not(Box<Expression>),
    And(Box<Expression>, Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
}

impl Expression {
    /// The expression as text, with parentheses only where precedence requires them, so that the parser's precedence is tested.
    fn written(&self) -> String {
        let inside = |one: &Self, binds_less: fn(&Self) -> bool| {
            if binds_less(one) { format!("({})", one.written()) } else { one.written() }
        };
        match self {
            Self::Id(at) => format!("id(={})", ALL[at % ALL.len()].id),
            Self::Family(at) => format!("family({})", scenarios::FAMILIES[at % scenarios::FAMILIES.len()].name),
            Self::Not(one) => format!("not {}", inside(one, |one| matches!(one, Self::And(..) | Self::Or(..)))),
            Self::And(one, other) => {
                let less = |one: &Self| matches!(one, Self::Or(..));
                format!("{} and {}", inside(one, less), inside(other, less))
            }
            Self::Or(one, other) => format!("{} or {}", one.written(), other.written()),
        }
    }

    fn holds(&self, scenario: &Scenario) -> bool {
        match self {
            Self::Id(at) => scenario.id == ALL[at % ALL.len()].id,
            Self::Family(at) => scenario.family() == scenarios::FAMILIES[at % scenarios::FAMILIES.len()].name,
            Self::Not(one) => !one.holds(scenario),
            Self::And(one, other) => one.holds(scenario) && other.holds(scenario),
            Self::Or(one, other) => one.holds(scenario) || other.holds(scenario),
        }
    }
}

fn expression() -> impl Strategy<Value = Expression> {
    let leaf = prop_oneof![any::<usize>().prop_map(Expression::Id), any::<usize>().prop_map(Expression::Family)];
    leaf.prop_recursive(4, 24, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|one| Expression::Not(Box::new(one))),
            (inner.clone(), inner.clone()).prop_map(|(one, other)| Expression::And(Box::new(one), Box::new(other))),
            (inner.clone(), inner).prop_map(|(one, other)| Expression::Or(Box::new(one), Box::new(other))),
        ]
    })
}

/// Parses a stream in pieces of these sizes, repeated; returns its events, and whether it ended inside one.
fn read(stream: &[u8], sizes: &[usize]) -> (Vec<SseEvent>, bool) {
    let (mut reader, mut events, mut rest) = (SseReader::default(), Vec::new(), stream);
    for size in sizes.iter().cycle() {
        let (piece, after) = rest.split_at((*size).min(rest.len()));
        events.extend(reader.push(piece));
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    (events, reader.is_inside_event())
}

proptest! {
    #[test]
    fn an_expression_means_what_is_written(expression in expression()) {
        let filter = Filter::parse(&expression.written()).unwrap_or_else(|error| panic!("{}: {error}", expression.written()));
        for scenario in ALL.iter() {
            prop_assert_eq!(filter.matches(scenario), expression.holds(scenario), "{} of {}", scenario.id, expression.written());
        }
    }

    #[test]
    fn no_text_breaks_the_reader_of_expressions(text in "(id|family|severity|not|and|or|[()=~ /a-z*-]|\\PC){0,24}") {
        if let Err(error) = Filter::parse(&text) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn a_stream_is_the_same_however_it_is_cut(
        stream in prop::collection::vec(prop_oneof![
            Just(b"data: ".to_vec()), Just(b"event: x".to_vec()), Just(b"id: 1".to_vec()), Just(b"\n".to_vec()),
            Just(b"\r\n".to_vec()), Just(b"\r".to_vec()), Just(b"\n\n".to_vec()), Just("\u{feff}".as_bytes().to_vec()),
            Just("\u{9577}".as_bytes().to_vec()), prop::collection::vec(any::<u8>(), 1..4),
        ], 0..24).prop_map(|pieces| pieces.concat()),
        sizes in prop::collection::vec(1_usize..7, 1..5),
    ) {
        prop_assert_eq!(read(&stream, &sizes), read(&stream, &[stream.len().max(1)]));
    }

    #[test]
    fn a_metric_is_read_as_it_was_written(
        name in "[a-z_:][a-z0-9_:]{0,12}", label in "[a-z_][a-z0-9_]{0,8}", value in "[^\\\\\"\n]{0,12}", number in -1e9_f64..1e9,
    ) {
        let page = format!("# TYPE {name} gauge\n{name}{{{label}=\"{value}\"}} {number}\n");
        let metrics = Metrics::parse(&page).unwrap_or_else(|error| panic!("{error}: {page}"));
        prop_assert_eq!(metrics.get(&name, &[(label.as_str(), value.as_str())]), Some(number));
    }

    #[test]
    fn no_page_breaks_the_reader_of_metrics(page in "([a-z#{}=\",\\\\ 0-9.+-]|\n|\\PC){0,40}") {
        if let Err(error) = Metrics::parse(&page) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
