//! One table, as text.

use super::{Measured, digits};

pub(super) fn show(table: &Measured) {
    let p99 = table.rows.iter().any(|row| row.p99_ms.is_some());
    println!("\n{} [{}]", table.title, table.id);
    println!("  {:<12} {:>12} {:>21}{}", table.unit, "median", "min – max", if p99 { "       p99 ms" } else { "" });
    for row in &table.rows {
        let spread = format!("{} – {}", digits(row.min), digits(row.max));
        let p99 = row.p99_ms.map(|p99| format!("{p99:>13.2}")).unwrap_or_default();
        println!("  {:<12} {:>12} {spread:>21}{p99}", row.name, digits(row.median));
    }
    for goal in &table.goals {
        println!("  {} {}: {}", if goal.met { "✓" } else { "✗" }, goal.text, digits(goal.figure));
    }
}
