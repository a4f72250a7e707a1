//! Servers that do not do right by what callers bring along.

use http::Method;
use serde_json::json;

use super::mutant::{Mutant, answers, asks, red};
use super::run::cli;
use crate::target::defects::Defect;
use crate::target::tamper::Answer;

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        id: "callers-tools-one-by-one",
        title: "The driver does not know that calls of the caller's tools may run side by side",
        defects: &[
            cli!("exec \"$good\" \"$@\" < <(sed -u 's/\"readOnlyHint\":true/\"readOnlyHint\":false/g')"),
            // Otherwise the second request would never come.
            Defect::Start("export APPROVAL_TIMEOUT=8s"),
        ],
        red: &[red("TOOL-001", "what the run waits for"), red("TOOL-021", "outcomes after")],
    },
    Mutant {
        id: "callers-tools-forgotten",
        title: "The tools that a caller declares are left out",
        defects: &[asks(|asked, _| {
            if asked.method == Method::POST && asked.route().ends_with("/stream") {
                let mut body: serde_json::Value = serde_json::from_slice(&asked.body).unwrap_or_default();
                if let Some(fields) = body.as_object_mut() {
                    fields.remove("client_tools");
                }
                asked.body = body.to_string().into();
            }
            None
        })],
        red: &[red("TOOL-001", "tool_request"), red("TOOL-003", "tool_request"), red("TOOL-010", "422")],
    },
    Mutant {
        id: "results-of-strangers",
        title: "Whatever result is sent, and whoever sends it, it is well",
        defects: &[answers(|asked, answer, _| {
            if asked.method == Method::POST && asked.route().contains("/tool-results/") {
                answer.status = 200;
            }
        })],
        red: &[red("TOOL-002", "404"), red("TOOL-021", "409")],
    },
    Mutant {
        id: "options-forgotten",
        title: "The driver does not get a run's schema, instructions, effort and models that stand in",
        defects: &[cli!(
            "args=(); for a in \"$@\"; do case $a in --json-schema=*|--effort=*|--fallback-model=*) ;; *) args+=(\"$a\") ;; esac; done; exec \"$good\" \"${args[@]}\" < <(grep --line-buffered -v appendSystemPrompt)"
        )],
        red: &[
            red("TOOL-030", "what the model was sent"),
            red("TOOL-031", "status"),
            red("TOOL-033", "status"),
            red("TOOL-035", "was not sent"),
        ],
    },
    Mutant {
        id: "surroundings-forgotten",
        title: "The driver works in the workspace whatever directory a run names",
        defects: &[cli!("cd /workspace; exec \"$good\" \"$@\"")],
        red: &[red("TOOL-030", "what the tool sees")],
    },
    Mutant {
        id: "cost-unlimited",
        title: "A run may cost whatever it costs",
        defects: &[asks(|asked, _| {
            if asked.method == Method::POST && asked.route().ends_with("/stream") {
                let mut body: serde_json::Value = serde_json::from_slice(&asked.body).unwrap_or_default();
                if let Some(limits) = body["configuration"]["limits"].as_object_mut() {
                    limits.remove("max_cost_usd");
                }
                asked.body = body.to_string().into();
            }
            None
        })],
        red: &[red("TOOL-032", "errors"), red("TOOL-034", "limits.max_cost_usd")],
    },
    Mutant {
        id: "options-without-bounds",
        title: "Options that go beyond the bounds are accepted",
        defects: &[answers(|asked, answer, _| {
            if asked.is(Method::POST, "/messages") && answer.status == 422 {
                *answer = Answer::json(202, &json!({}));
            }
        })],
        red: &[red("TOOL-034", "status of POST /messages"), red("TOOL-010", "status of POST /messages")],
    },
    Mutant {
        id: "content-dropped",
        title: "What a message has beside its text is left out",
        defects: &[cli!(
            "exec \"$good\" \"$@\" < <(jq -c --unbuffered 'if .type == \"user\" then .message.content |= map(select(.type == \"text\")) else . end')"
        )],
        red: &[red("TOOL-040", "what the model was sent of the text file")],
    },
    Mutant {
        id: "commands-are-text",
        title: "A command is plain text also where the caller asks for one",
        defects: &[cli!("exec \"$good\" \"$@\" < <(sed -u 's/\"type\":\"user\"/\"client_composed\":true,&/')")],
        red: &[red("TOOL-050", "requests to the model for /context")],
    },
    Mutant {
        id: "skills-left-out",
        title: "The driver does not get the skills that were chosen",
        defects: &[cli!(
            "args=(); for a in \"$@\"; do case $a in --plugin-dir=*) ;; *) args+=(\"$a\") ;; esac; done; exec \"$good\" \"${args[@]}\""
        )],
        red: &[red("TOOL-060", "end of a run with the skill")],
    },
    Mutant {
        id: "archives-unchecked",
        title: "Whatever is uploaded as a skill is accepted, and whoever chooses it gets it",
        defects: &[answers(|asked, answer, _| {
            let upload = asked.method == Method::PUT && asked.route().contains("/skills/");
            if answer.status == 422 && (upload || asked.is(Method::POST, "/messages")) {
                answer.status = 201;
            }
        })],
        red: &[red("TOOL-061", "status of an archive with .."), red("TOOL-062", "status with")],
    },
    Mutant {
        id: "results-go-nowhere",
        title: "A result is accepted and not delivered",
        defects: &[
            asks(|asked, _| {
                let sent = asked.method == Method::POST && asked.route().contains("/tool-results/");
                sent.then(|| Answer::json(200, &json!({"request_id": "r", "outcome": "answered", "by": null})))
            }),
            Defect::Start("export APPROVAL_TIMEOUT=8s"),
        ],
        red: &[red("TOOL-001", "outcomes"), red("TOOL-022", "outcomes")],
    },
];
