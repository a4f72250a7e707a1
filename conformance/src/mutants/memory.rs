//! Servers and images that forget what a conversation was about.

use http::Method;
use serde_json::json;

use super::mutant::{Mutant, answers, red};
use super::run::cli;
use crate::target::defects::Defect;

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        id: "transcript-not-reported",
        title: "The driver does not report what it writes to its transcript",
        defects: &[cli!(
            "args=(); for a in \"$@\"; do case $a in --session-mirror) ;; *) args+=(\"$a\") ;; esac; done; exec \"$good\" \"${args[@]}\""
        )],
        red: &[red("LIVE-020", "session in another workspace")],
    },
    Mutant {
        id: "log-of-the-last-run",
        title: "The log has the last run alone",
        defects: &[answers(|asked, answer, _| {
            if asked.is(Method::GET, "/log") && answer.status == 200 {
                answer.edit(|body| {
                    let Some(entries) = body["entries"].as_array_mut() else { return };
                    let last = entries.last().map(|entry| entry["run_id"].clone());
                    entries.retain(|entry| Some(&entry["run_id"]) == last.as_ref());
                });
            }
        })],
        red: &[red("LIVE-021", "what was put into the run")],
    },
    Mutant {
        id: "log-without-inputs",
        title: "The log has events, and not what was put into the runs",
        defects: &[answers(|asked, answer, _| {
            if asked.is(Method::GET, "/log") && answer.status == 200 {
                answer.edit(|body| {
                    let entries = body["entries"].as_array_mut();
                    entries.into_iter().for_each(|entries| entries.retain(|entry| entry["type"] != json!("user")));
                });
            }
        })],
        red: &[red("LIVE-021", "what was put into the run")],
    },
];
