//! Servers that lose data they should keep, or keep data they should drop: files, accounting, the audit trail, the log.

use http::Method;
use serde_json::json;

use super::mutant::{Mutant, answers, asks, red};
use crate::target::defects::Defect;
use crate::target::wire::Wire;

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        id: "bucket-ignored",
        title: "A bucket is configured, but nothing is stored in it",
        defects: &[Defect::Start("unset S3_BUCKET_NAME")],
        red: &[
            red("BUG-11-REFUSED", "no event of the run reports that files are not stored"),
            red("BUG-11-SLOW", "no event of the run reports that files are not stored"),
            red("BUG-11-DOWN", "files before"),
            red("BUG-03-S3", "s3 with fault"),
            red("FILE-101", "files after the run"),
            red("FILE-102", "in the next workspace"),
            red("FILE-103", "the first's"),
            red("FILE-104", "files after the run"),
            red("FILE-105", "a request of the sync hangs"),
            red("FILE-106", "the other's files"),
            red("FILE-107", "files in the bucket"),
            red("FILE-108", "files in the bucket"),
        ],
    },
    Mutant {
        id: "files-of-the-workspace-alone",
        title: "Stored files that are not in the workspace yet do not exist",
        defects: &[answers(|asked, answer, _| {
            if asked.is(Method::GET, "/files/download") && answer.status == 503 {
                answer.status = 404;
            }
        })],
        red: &[red("FILE-108", "while the bucket refuses, status of a download")],
    },
    Mutant {
        id: "bad-queries-unnamed",
        title: "A bad query is refused without the name of its parameter",
        defects: &[answers(|asked, answer, _| {
            if asked.method == Method::GET && answer.status == 422 {
                answer.edit(|body| body["error"]["details"][0]["field"] = json!("query"));
            }
        })],
        red: &[red("API-015", "the field that")],
    },
    Mutant {
        id: "docs-from-anywhere",
        title: "The page of the API's description may load from any host",
        defects: &[answers(|asked, answer, _| {
            if asked.is(Method::GET, "/docs") {
                answer.headers.remove("content-security-policy");
            }
        })],
        red: &[red("API-016", "the page may load from anywhere")],
    },
    Mutant {
        id: "list-ends-early",
        title: "A list of files ends after 10,000 entries",
        defects: &[answers(|asked, answer, _| {
            if asked.is(Method::GET, "/files") && answer.status == 200 {
                answer.edit(|page| page["total"] = json!(page["total"].as_u64().unwrap_or_default().min(10_000)));
            }
        })],
        red: &[red("FILE-004", "total")],
    },
    Mutant {
        id: "small-disks",
        title: "Workspaces have 64 MiB for files, whatever is configured",
        defects: &[Defect::Start("export CONTAINER_DISK=64MiB")],
        red: &[red("FILE-005", "status of PUT"), red("FILE-012", "status")],
    },
    Mutant {
        id: "place-of-files-ignored",
        title: "Files attached to a run are stored at other paths than requested",
        defects: &[asks(|asked, _| {
            let body = String::from_utf8_lossy(&asked.body);
            if body.contains("\"in/put/b.csv\"") {
                asked.body = body.replace("\"in/put/b.csv\"", "\"two\"").into();
            }
            None
        })],
        red: &[red("FILE-010", "the files are not at the paths of the metadata")],
    },
    Mutant {
        id: "half-a-form-is-one",
        title: "A form that is cut off is accepted as complete",
        defects: &[asks(|asked, _| {
            let kind = asked.headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            if let Some((_, boundary)) = kind.split_once("boundary=") {
                let end = format!("--{}--\r\n", boundary.trim_matches('"'));
                if !asked.body.ends_with(end.as_bytes()) {
                    asked.body = [&asked.body, format!("\r\n{end}").as_bytes()].concat().into();
                }
            }
            None
        })],
        red: &[red("FILE-011", "no end: status of POST")],
    },
    Mutant {
        id: "half-an-upload-is-one",
        title: "An upload that is cut off is accepted as complete",
        defects: &[Defect::InFront(Wire::Padding)],
        red: &[red("FILE-003", "half an upload is answered with")],
    },
    Mutant {
        id: "half-sent-heads-kept",
        title: "A connection whose request is not complete stays open for ever",
        defects: &[Defect::InFront(Wire::Keeping)],
        red: &[red("API-014", "a head was half sent")],
    },
    Mutant {
        id: "refused-without-response",
        title: "A connection beyond the limit gets no response",
        // A relay that speaks HTTP passes on no response without a request.
        defects: &[asks(|_, _| None)],
        red: &[red("API-014", "none is refused")],
    },
    Mutant {
        id: "uploads-forgotten",
        title: "Attachments of a run without a workspace do not outlive the server",
        defects: &[Defect::Start(
            r#"[ "$1" != serve ] || grep -rlsx 'still here' "${STATE_DIR:-/nowhere}" | xargs -r rm"#,
        )],
        red: &[red("FILE-013", "status in done")],
    },
    Mutant {
        id: "redis-ignored",
        title: "Servers with the same Redis do not share state",
        defects: &[Defect::Start("unset REDIS_URL")],
        red: &[
            red("STATE-016", "status of POST"),
            red("STATE-001", "redis"),
            red("STATE-002", "status of POST"),
            red("STATE-003", "the size that was set on the other server"),
            red("STATE-004", "404"),
            red("STATE-005", "status of POST"),
        ],
    },
    Mutant {
        id: "postgresql-ignored",
        title: "PostgreSQL is configured, but all state is in a file",
        defects: &[Defect::Start("unset DATABASE_URL")],
        red: &[
            red("STATE-010", "nagaya.sqlite"),
            red("STATE-011", "database unhealthy"),
            red("STATE-012", "locked tables"),
            red("STATE-013", "status of GET"),
        ],
    },
    Mutant {
        id: "run-lost-at-stop",
        title: "A server configured to keep its workspaces removes them at shutdown",
        defects: &[Defect::Start("export SHUTDOWN_WORKSPACES=destroy")],
        red: &[red("RUN-021", "a workspace that runs")],
    },
    Mutant {
        id: "trail-begins-anew",
        title: "The audit trail is truncated at every start",
        defects: &[Defect::Start(r#"[ "$1" != serve ] || [ ! -f "${AUDIT_LOG:-}" ] || : > "$AUDIT_LOG""#)],
        red: &[red("SEC-010", "a restart did not only append to the trail")],
    },
    Mutant {
        id: "trail-for-everybody",
        title: "The audit trail is readable by every user of the host",
        defects: &[Defect::Start(
            r#"[ "$1" != serve ] || [ -z "${AUDIT_LOG:-}" ] || { : >> "$AUDIT_LOG"; chmod 644 "$AUDIT_LOG"; }"#,
        )],
        red: &[red("SEC-010", "mode of the trail")],
    },
    Mutant {
        id: "trail-lost-untold",
        title: "Lines that the audit trail loses are not counted",
        defects: &[Defect::Start(r#"[ "${AUDIT_LOG:-}" != /dev/full ] || export AUDIT_LOG=/dev/null"#)],
        red: &[red("SEC-011", "workspace_audit_lines_lost_total")],
    },
    Mutant {
        id: "environment-logged",
        title: "The server logs its environment at start",
        defects: &[Defect::Start(r#"[ "$1" != serve ] || env >&2"#)],
        red: &[red("SEC-012", "in the log")],
    },
    Mutant {
        id: "log-of-errors-only",
        title: "The log does not mention successful runs",
        defects: &[Defect::Start("export LOG_LEVEL=error")],
        red: &[red("HLTH-005", "the run's end in the log"), red("RUN-034", "not in the log line of the run's end")],
    },
    Mutant {
        id: "title-overwritten",
        title: "A title that was set is overwritten by the first exchange",
        defects: &[asks(|asked, _| {
            // Setting one is confirmed, but has no effect.
            if asked.method == Method::PUT && asked.body.windows(7).any(|bytes| bytes == b"\"title\"") {
                asked.method = Method::GET;
                asked.body.clear();
            }
            None
        })],
        red: &[red("RUN-033", "a run replaced the title that was set")],
    },
];
