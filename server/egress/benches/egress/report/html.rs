//! A self-contained HTML page with a plot of each table.

use std::fmt::Write;

use super::{Measured, Report, Row, digits};

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1d1f24;--soft:#667;--bg:#fdfdfc;--line:#dcdde3;--bar:#b9bfcc;--ours:#2f6f5e;--mark:#1d1f24;--bad:#a2541b}
@media(prefers-color-scheme:dark){:root{--ink:#e6e7eb;--soft:#9aa0ad;--bg:#15171b;--line:#2c3038;--bar:#4a5160;--ours:#58b398;--mark:#e6e7eb;--bad:#e0935a}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:46rem;padding:1.2rem 1rem 3rem;font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--bg)}
h1{font-size:1.5rem;line-height:1.2;margin:.4rem 0}h2{font-size:1.1rem;margin:2.4rem 0 .2rem;line-height:1.3}
p{margin:.3rem 0}.soft{color:var(--soft);font-size:.88rem}
svg{display:block;width:100%;height:auto;margin:.8rem 0 .2rem}
svg text{font:12px system-ui,sans-serif;fill:var(--ink)}svg .soft{fill:var(--soft)}
.bar{fill:var(--bar)}.ours .bar{fill:var(--ours)}.ours text{font-weight:600}
.whisker{stroke:var(--mark);stroke-width:1.2;fill:none}.dot{fill:var(--mark);opacity:.55}
ul{list-style:none;margin:.5rem 0;padding:0}li{padding:.1rem 0}li b{display:inline-block;min-width:1.4rem}
.missed,.warning{color:var(--bad)}
details{margin-top:.4rem}summary{cursor:pointer;color:var(--soft);font-size:.88rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums}
td,th{padding:.15rem .7rem .15rem 0;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
td:first-child,th:first-child{text-align:left}
";

pub(super) fn page(report: &Report) -> String {
    let mut page = String::new();
    // Writing to a string does not fail.
    let _ = write_page(&mut page, report);
    page
}

fn write_page(page: &mut String, report: &Report) -> std::fmt::Result {
    let title = escape(report.subject.title);
    write!(
        page,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style>\
         <h1>{title}</h1>\
         <p>Measured side by side in one run of {} rounds, each contender once per round. Bars are medians, dots the rounds, \
         lines their span.</p><p class=\"soft\">{}<br>{}</p>",
        report.rounds,
        escape(&report.machine.to_string()),
        escape(&report.peers.join(" · ")),
    )?;
    for what in &report.not_measured {
        write!(page, "<p class=\"warning\">Not measured: {}</p>", escape(what))?;
    }
    for table in &report.tables {
        write_table(page, table)?;
    }
    page.write_str("</html>\n")
}

fn write_table(page: &mut String, table: &Measured) -> std::fmt::Result {
    let better = if table.more_is_better { "more is better" } else { "less is better" };
    write!(
        page,
        "<h2 id=\"{}\">{}</h2><p class=\"soft\">{}, {better}. {}</p>",
        table.id,
        escape(table.title),
        table.unit,
        escape(&table.note)
    )?;
    plot(page, &table.rows, table.unit)?;
    page.write_str("<ul>")?;
    for goal in &table.goals {
        let (class, mark) = if goal.met { ("met", "✓") } else { ("missed", "✗") };
        write!(page, "<li class=\"{class}\"><b>{mark}</b>{}: {}</li>", escape(&goal.text), digits(goal.figure))?;
    }
    page.write_str("</ul><details><summary>Figures</summary><div class=\"scroll\"><table><tr><th></th><th>median</th><th>min</th><th>max</th><th>p99, ms</th></tr>")?;
    for row in &table.rows {
        let p99 = row.p99_ms.map(digits).unwrap_or_default();
        let [median, min, max] = [row.median, row.min, row.max].map(digits);
        write!(
            page,
            "<tr><td>{}</td><td>{median}</td><td>{min}</td><td>{max}</td><td>{p99}</td></tr>",
            escape(row.name)
        )?;
    }
    page.write_str("</table></div></details>")
}

/// Bars from zero, one below the other; drawn for the width of a phone.
fn plot(page: &mut String, rows: &[Row], unit: &str) -> std::fmt::Result {
    const WIDTH: f64 = 400.0;
    const STEP: f64 = 36.0;
    let most = rows.iter().map(|row| row.max).fold(f64::MIN_POSITIVE, f64::max);
    let x = |value: f64| value / most * (WIDTH - 8.0) + 2.0;
    #[allow(clippy::cast_precision_loss, reason = "a handful of rows")]
    let height = rows.len() as f64 * STEP;
    write!(page, "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"medians, {unit}\">")?;
    for (index, row) in rows.iter().enumerate() {
        #[allow(clippy::cast_precision_loss, reason = "a handful of rows")]
        let top = index as f64 * STEP;
        let ours = if matches!(row.name, "ours" | "signed") { " class=\"ours\"" } else { "" };
        let (text, middle) = (top + 12.0, top + 23.0);
        let (min, max) = (x(row.min), x(row.max));
        let p99 = row.p99_ms.map(|p99| format!(" · p99 {} ms", digits(p99))).unwrap_or_default();
        write!(
            page,
            "<g{ours}><text x=\"2\" y=\"{text}\">{}</text><text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{} {unit}{p99}</text>\
             <rect class=\"bar\" x=\"2\" y=\"{}\" width=\"{:.1}\" height=\"12\" rx=\"1.5\"/>\
             <path class=\"whisker\" d=\"M{min:.1} {middle}H{max:.1}M{min:.1} {}v8M{max:.1} {}v8\"/>",
            escape(row.name),
            WIDTH - 4.0,
            digits(row.median),
            middle - 6.0,
            x(row.median) - 2.0,
            middle - 4.0,
            middle - 4.0,
        )?;
        for sample in &row.samples {
            write!(page, "<circle class=\"dot\" cx=\"{:.1}\" cy=\"{middle}\" r=\"1.6\"/>", x(*sample))?;
        }
        page.write_str("</g>")?;
    }
    page.write_str("</svg>")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
