//! A badge: the verdict of a report as a small picture for a page.

use super::compare::Summary;
use crate::harness::outcome::Verdict;

/// Height in pixels.
const HEIGHT: usize = 20;
/// Space beside a text, in pixels.
const MARGIN: usize = 6;
/// Width of a character in tenths of a pixel, on average, at 11 pixels in Verdana and the fonts that take its place.
const CHARACTER: usize = 68;

/// An SVG document (1.1) that needs nothing but itself.
#[must_use]
pub fn document(report: &Summary) -> String {
    let colour = match report.verdict.as_str() {
        verdict if verdict == <&str>::from(Verdict::Conformant) => "#2e7d32",
        verdict if verdict == <&str>::from(Verdict::NonConformant) => "#c62828",
        _ => "#9a6700",
    };
    let label = "conformance";
    let verdict = match &report.profile {
        Some(profile) => format!("{profile}: {}", report.verdict),
        None => report.verdict.clone(),
    };
    let [left, right] = [label, verdict.as_str()].map(|text| 2 * MARGIN + text.chars().count() * CHARACTER / 10);
    let width = left + right;
    maud::html! {
        svg xmlns="http://www.w3.org/2000/svg" width=(width) height=(HEIGHT) role="img" aria-label={ (label) ": " (verdict) } {
            title { (label) ": " (verdict) }
            clipPath id="corners" { rect width=(width) height=(HEIGHT) rx="3" {} }
            g clip-path="url(#corners)" {
                rect width=(left) height=(HEIGHT) fill="#444" {}
                rect x=(left) width=(right) height=(HEIGHT) fill=(colour) {}
            }
            g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,Geneva,sans-serif" font-size="11" {
                text x=(left / 2) y="14" { (label) }
                text x=(left + right / 2) y="14" { (verdict) }
            }
        }
    }
    .into_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_badge_says_the_verdict_and_has_its_colour() {
        let of = |verdict: &str, profile: Option<&str>| {
            let (verdict, profile) = (verdict.to_owned(), profile.map(str::to_owned));
            document(&Summary { verdict, profile, rules: [None, None], scenarios: BTreeMap::new() })
        };
        let good = of("conformant", Some("core"));
        assert!(good.starts_with("<svg xmlns=") && good.ends_with("</svg>"), "{good}");
        assert!(good.contains(">core: conformant</text>") && good.contains("#2e7d32"), "{good}");
        assert!(of("non-conformant", None).contains("#c62828"));
        assert!(of("incomplete", None).contains("#9a6700"));
        let odd = of("<script>&\"", None);
        assert!(!odd.contains("<script>") && odd.contains("&lt;script&gt;&amp;"), "{odd}");
    }
}
