//! Servers that lose what they are to keep, or keep what they are to lose: files, accounts, the trail, the log.

use http::Method;
use serde_json::json;

use super::{Defect, Mutant, answers, asks, red};
use crate::target::tamper::Wire;

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        id: "bucket-ignored",
        title: "a bucket is set, and nothing is put there",
        defects: &[Defect::Start("unset S3_BUCKET_NAME")],
        red: &[
            red("BUG-11-REFUSED", "no event of the run tells that files are not stored"),
            red("BUG-11-SLOW", "no event of the run tells that files are not stored"),
            red("BUG-11-DOWN", "files before"),
            red("BUG-03-S3", "s3 with fault"),
            red("FILE-101", "files after the run"),
            red("FILE-102", "in the next room"),
            red("FILE-103", "the first's"),
            red("FILE-104", "files after the run"),
            red("FILE-105", "a request of the sync hangs"),
            red("FILE-106", "the other's files"),
            red("FILE-107", "files in the bucket"),
        ],
    },
    Mutant {
        id: "list-ends-early",
        title: "a workspace has 10,000 files, however many there are",
        defects: &[answers(|asked, answer, _| {
            if asked.is(Method::GET, "/files") && answer.status == 200 {
                answer.edit(|page| page["total"] = json!(page["total"].as_u64().unwrap_or_default().min(10_000)));
            }
        })],
        red: &[red("FILE-004", "total")],
    },
    Mutant {
        id: "small-disks",
        title: "rooms have 64 MiB for files, whatever is set",
        defects: &[Defect::Start("export CONTAINER_DISK=64MiB")],
        red: &[red("FILE-005", "status of PUT"), red("FILE-012", "status")],
    },
    Mutant {
        id: "place-of-files-ignored",
        title: "files that come with a run are put elsewhere than it says",
        defects: &[asks(|asked, _| {
            let body = String::from_utf8_lossy(&asked.body);
            if body.contains("\"in/put/b.csv\"") {
                asked.body = body.replace("\"in/put/b.csv\"", "\"two\"").into();
            }
            None
        })],
        red: &[red("FILE-010", "the files are not where the metadata has them")],
    },
    Mutant {
        id: "half-a-form-is-one",
        title: "a form that breaks off is taken as if it were whole",
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
        title: "an upload that breaks off is taken as if it were whole",
        defects: &[Defect::InFront(Wire::Padding)],
        red: &[red("FILE-003", "half an upload is answered")],
    },
    Mutant {
        id: "uploads-forgotten",
        title: "what came with a run that has no room yet does not outlive the server",
        defects: &[Defect::Start(
            r#"[ "$1" != serve ] || grep -rlsx 'still here' "${STATE_DIR:-/nowhere}" | xargs -r rm"#,
        )],
        red: &[red("FILE-013", "status in done")],
    },
    Mutant {
        id: "redis-ignored",
        title: "servers that are given one Redis know nothing of each other",
        defects: &[Defect::Start("unset REDIS_URL")],
        red: &[
            red("STATE-001", "redis"),
            red("STATE-002", "status of POST"),
            red("STATE-003", "the size that was set on the other server"),
            red("STATE-004", "404"),
            red("STATE-005", "status of POST"),
        ],
    },
    Mutant {
        id: "postgresql-ignored",
        title: "a PostgreSQL is set, and everything is in a file",
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
        title: "a server that is to keep its rooms takes them down when it is stopped",
        defects: &[Defect::Start("export SHUTDOWN_WORKSPACES=destroy")],
        red: &[red("RUN-021", "a room that runs")],
    },
    Mutant {
        id: "trail-begins-anew",
        title: "the audit trail begins anew with every start",
        defects: &[Defect::Start(r#"[ "$1" != serve ] || [ ! -f "${AUDIT_LOG:-}" ] || : > "$AUDIT_LOG""#)],
        red: &[red("SEC-010", "a restart has not just appended to the trail")],
    },
    Mutant {
        id: "trail-for-everybody",
        title: "anybody on the host can read the audit trail",
        defects: &[Defect::Start(
            r#"[ "$1" != serve ] || [ -z "${AUDIT_LOG:-}" ] || { : >> "$AUDIT_LOG"; chmod 644 "$AUDIT_LOG"; }"#,
        )],
        red: &[red("SEC-010", "mode of the trail")],
    },
    Mutant {
        id: "trail-lost-untold",
        title: "what the audit trail loses is not counted",
        defects: &[Defect::Start(r#"[ "${AUDIT_LOG:-}" != /dev/full ] || export AUDIT_LOG=/dev/null"#)],
        red: &[red("SEC-011", "workspace_audit_lines_lost_total")],
    },
    Mutant {
        id: "environment-logged",
        title: "a server logs its environment when it starts",
        defects: &[Defect::Start(r#"[ "$1" != serve ] || env >&2"#)],
        red: &[red("SEC-012", "in the log")],
    },
    Mutant {
        id: "log-of-errors-only",
        title: "the log does not tell of runs that go well",
        defects: &[Defect::Start("export LOG_LEVEL=error")],
        red: &[red("HLTH-005", "the run's end in the log"), red("RUN-034", "where the log tells the run's end")],
    },
    Mutant {
        id: "title-overwritten",
        title: "a title that was set is overwritten by the first exchange",
        defects: &[asks(|asked, _| {
            // Whoever sets one is told that all is well, and nothing is set.
            if asked.method == Method::PUT && asked.body.windows(7).any(|bytes| bytes == b"\"title\"") {
                asked.method = Method::GET;
                asked.body.clear();
            }
            None
        })],
        red: &[red("RUN-033", "a run gives another title than the one that was set")],
    },
];
