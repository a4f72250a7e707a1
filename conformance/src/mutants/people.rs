//! Servers and images that do not wait for people, and those whose drivers do not live as they should.

use http::Method;
use serde_json::json;

use super::mutant::{Mutant, answers, asks, red};
use super::run::cli;
use crate::target::defects::Defect;

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        id: "rules-ignored",
        title: "The driver does not get the rules about its tools",
        defects: &[cli!(
            "args=(); for a in \"$@\"; do case $a in --settings=*) ;; *) args+=(\"$a\") ;; esac; done; exec \"$good\" \"${args[@]}\""
        )],
        red: &[
            red("APPR-001", "approval_required"),
            red("APPR-002", "approval_required"),
            red("APPR-003", "approval_resolved"),
            red("APPR-004", "approval_required"),
            red("APPR-010", "approval_required"),
            red("APPR-011", "approval_required"),
        ],
    },
    Mutant {
        id: "refusals-allow",
        title: "A refusal lets the tool run",
        defects: &[asks(|asked, _| {
            if asked.method == Method::POST && asked.route().contains("/approvals/") {
                asked.body = json!({"decision": "allow"}).to_string().into();
            }
            None
        })],
        red: &[red("APPR-002", "decision in approval_resolved")],
    },
    Mutant {
        id: "approvals-not-listed",
        title: "The list of what a run waits for is empty",
        defects: &[answers(|asked, answer, _| {
            if asked.is(Method::GET, "/approvals") {
                answer.edit(|body| body["approvals"] = json!([]));
            }
        })],
        red: &[red("APPR-001", "ids in the list"), red("APPR-010", "lists what the run waits for")],
    },
    Mutant {
        id: "decisions-of-strangers",
        title: "Whatever is decided, and whoever decides, it is well",
        defects: &[answers(|asked, answer, _| {
            if asked.method == Method::POST && asked.route().contains("/approvals/") {
                answer.status = 200;
            }
        })],
        red: &[red("APPR-004", "404"), red("APPR-011", "409"), red("APPR-020", "422")],
    },
    Mutant {
        id: "questions-always",
        title: "The model may ask although nobody has agreed to it",
        defects: &[cli!(
            "args=(); for a in \"$@\"; do args+=(\"${a/,AskUserQuestion/}\"); done; exec \"$good\" \"${args[@]}\""
        )],
        red: &[red("APPR-020", "the model asks although it may not")],
    },
    Mutant {
        id: "driver-for-each-turn",
        title: "The driver ends with its turn",
        defects: &[Defect::Start("export DRIVER_KEEP_ALIVE=0")],
        red: &[
            red("LIVE-001", "1 drivers"),
            red("LIVE-003", "1 drivers"),
            red("LIVE-004", "drivers after"),
            red("LIVE-030", "drivers after the first turn"),
        ],
    },
    Mutant {
        id: "drivers-without-number",
        title: "Any number of drivers waits",
        defects: &[Defect::Start("export DRIVER_KEEP_ALIVE_MAX=1000")],
        red: &[red("LIVE-005", "0 drivers")],
    },
    Mutant {
        id: "interruption-cancels",
        title: "An interruption ends the driver",
        defects: &[asks(|asked, _| {
            if asked.is(Method::POST, "/interrupt") {
                asked.path = asked.path.replace("/interrupt", "/cancel");
            }
            None
        })],
        red: &[red("LIVE-004", "drivers after the interruption"), red("LIVE-030", "drivers after the interruption")],
    },
    Mutant {
        id: "queue-not-told",
        title: "A message that waits is told that nothing is before it",
        defects: &[answers(|asked, answer, _| {
            if asked.is(Method::POST, "/messages") {
                answer.edit(|body| body["before"] = json!(0));
            }
        })],
        red: &[red("LIVE-010", "runs before the first message that waits"), red("LIVE-011", "runs before a message")],
    },
    Mutant {
        id: "one-kind-of-driver",
        title: "Another kind of driver is configured, and the usual one conducts the conversations",
        defects: &[Defect::Start("unset DRIVER")],
        red: &[red("LIVE-030", "status in done")],
    },
    Mutant {
        id: "pool-without-drivers",
        title: "Workspaces of the pool have no driver",
        defects: &[Defect::Start("unset WARM_POOL_MODEL")],
        red: &[red("LIVE-040", "1 drivers")],
    },
    Mutant {
        id: "driver-not-told",
        title: "A driver that has waited is not told what it does not know yet",
        // It begins once the driver is parked, which ends all other processes.
        defects: &[cli!(
            "SECONDS=0; while ((SECONDS < 2)); do :; done; exec \"$good\" \"$@\" < <(grep --line-buffered -v appendSystemPrompt)"
        )],
        red: &[red("LIVE-040", "knows")],
    },
    Mutant {
        id: "driver-of-the-pool-for-all",
        title: "Whatever tools a conversation may use, it has all",
        defects: &[cli!(
            "args=(); for a in \"$@\"; do case $a in --tools=*) ;; *) args+=(\"$a\") ;; esac; done; exec \"$good\" \"${args[@]}\""
        )],
        red: &[red("LIVE-041", "tools with other")],
    },
    Mutant {
        id: "files-without-end",
        title: "Files are left where the workspaces' sockets are",
        defects: &[Defect::Beside(|sockets, memory| {
            // The directory may be gone already.
            let _ = std::fs::write(sockets.join(format!("left-{}", memory.count("left"))), "");
        })],
        red: &[red("LIVE-050", "files of the workspaces' sockets")],
    },
    Mutant {
        id: "decisions-lost",
        title: "A server that starts does not know what was decided before",
        defects: &[Defect::Start(
            "for journal in $(find \"$STATE_DIR/runs\" -type f); do sed -i '/^#{.decision./d' \"$journal\"; done",
        )],
        red: &[red("APPR-012", "waits for")],
    },
    Mutant {
        id: "session-forgotten",
        title: "A new driver does not continue the session",
        defects: &[cli!(
            "args=(); for a in \"$@\"; do case $a in --resume=*) ;; *) args+=(\"$a\") ;; esac; done; exec \"$good\" \"${args[@]}\""
        )],
        red: &[red("LIVE-002", "what the model was sent")],
    },
];
