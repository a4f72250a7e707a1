//! Servers and images whose runs meet trouble badly.

use serde_json::json;

use super::mutant::{Mutant, answers, red};
use crate::target::defects::Defect;
use crate::target::tamper::Answer;

/// Puts a shell line in front of the CLI, which is `$good`; `"$@"` are its arguments.
macro_rules! cli {
    ($line:literal) => {
        Defect::Image(
            concat!(
                "cli=\"$(readlink -f \"$(command -v claude)\")\"; good=\"$(dirname \"$cli\")/good-$(basename \"$cli\")\"; mv \"$cli\" \"$good\"\n",
                "printf '#!/bin/bash\\ngood=%s\\n' \"$good\" > \"$cli\"\n",
                "cat >> \"$cli\" <<'END'\n",
                $line,
                "\nEND\nchmod 755 \"$cli\""
            ),
            "",
        )
    };
}
pub(super) use cli;

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        id: "missing-credentials-are-healthy",
        title: "/health does not know that requests to the model cannot be signed",
        defects: &[answers(|asked, answer, _| {
            if asked.route() == "/health" {
                answer.edit(|body| body["checks"]["model_credentials"]["status"] = json!("healthy"));
            }
        })],
        red: &[red("RUN-040", "model_credentials in /health"), red("TEN-074", "model_credentials in /health")],
    },
    Mutant {
        id: "retries-too-many",
        title: "The driver repeats a failed call six times",
        defects: &[cli!("export CLAUDE_CODE_MAX_RETRIES=6; exec \"$good\" \"$@\"")],
        red: &[red("RUN-041", "retries of a 529"), red("TEN-073", "retries of a")],
    },
    Mutant {
        id: "bedrock-for-all",
        title: "Every run is told to call Bedrock, whoever serves its model",
        defects: &[cli!(
            "export CLAUDE_CODE_USE_BEDROCK=1 CLAUDE_CODE_SKIP_BEDROCK_AUTH=1 AWS_REGION=us-east-1\nexport ANTHROPIC_BEDROCK_BASE_URL=http://bedrock-runtime.us-east-1.amazonaws.com; exec \"$good\" \"$@\""
        )],
        red: &[
            red("TEN-070", "status in done"),
            red("TEN-071", "the APIs that were asked"),
            red("TEN-072", "status in done"),
        ],
    },
    Mutant {
        id: "driver-with-a-key",
        title: "The driver gets a key in place of a token, and asks for its organisation's settings before each run",
        defects: &[cli!("unset ANTHROPIC_AUTH_TOKEN; export ANTHROPIC_API_KEY=placeholder; exec \"$good\" \"$@\"")],
        red: &[red("TEN-070", "other requests of the workspace")],
    },
    Mutant {
        id: "gateway-stall-unnoticed",
        title: "The driver waits for a gateway's stalled answer for minutes",
        defects: &[cli!("unset CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS; exec \"$good\" \"$@\"")],
        red: &[red("TEN-072", "model_error")],
    },
    Mutant {
        id: "key-in-the-log",
        title: "The server writes the key of the Messages API to its log",
        defects: &[Defect::Start(
            r#"[ "$1" != serve ] || echo "{\"message\":\"key ${ANTHROPIC_API_KEY:-none}\"}" >&2"#,
        )],
        red: &[red("TEN-070", "the key is in the server's log")],
    },
    Mutant {
        id: "providers-unchecked",
        title: "A model of a provider that the deployment does not have is created",
        defects: &[answers(|asked, answer, _| {
            if asked.route() == "/api/models" && answer.status == 422 {
                *answer = Answer::json(201, &json!({}));
            }
        })],
        red: &[red("TEN-074", "POST /api/models does not name the setting")],
    },
    Mutant {
        id: "stall-unnoticed",
        title: "The driver waits for a stalled answer for minutes",
        defects: &[cli!("unset CLAUDE_ENABLE_BYTE_WATCHDOG_BEDROCK; exec \"$good\" \"$@\"")],
        red: &[red("RUN-042", "error_type")],
    },
    Mutant {
        id: "lost-session-in-other-words",
        title: "The driver names a lost session in words that the agent does not know",
        defects: &[cli!("\"$good\" \"$@\" | sed -u 's/No conversation found/Where is it/'")],
        red: &[red("RUN-043", "without the session's file")],
    },
    Mutant {
        id: "memory-in-other-words",
        title: "A driver that continues a session has other words in its memory",
        defects: &[cli!(
            "case \" $* \" in *' --resume='*) sed -i 's/\"text\":\"One\\./\"text\":\"Once./; s/\"text\":\"I know/\"text\":\"I knew/' \"$HOME\"/.claude/projects/*/*.jsonl;; esac; exec \"$good\" \"$@\""
        )],
        red: &[
            red("LIVE-002", "all messages that the model is sent"),
            red("LIVE-020", "the messages so far, in another workspace"),
            red("LIVE-023", "the messages so far, at another server"),
        ],
    },
    Mutant {
        id: "memory-given-away",
        title: "A file that leaves the driver too little memory is accepted",
        defects: &[answers(|asked, answer, _| {
            if asked.route().ends_with("/files") && answer.status == 413 {
                *answer = Answer::json(204, &json!({}));
            }
        })],
        red: &[red("RUN-044", "status of PUT")],
    },
    Mutant {
        id: "commands-for-users",
        title: "What a user types is carried out as a command of the driver's",
        defects: &[cli!("exec \"$good\" \"$@\" < <(sed 's/\"client_composed\":true/\"client_composed\":false/')")],
        red: &[red("RUN-045", "the model about a file that the user mentioned")],
    },
];
