//! Servers with defects at start, or with settings that break a promise.

use super::mutant::{Mutant, red};
use crate::target::defects::Defect;

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        id: "gc-interval-missing",
        title: "The GC interval has no default, so the server exits unless it is set",
        defects: &[Defect::Start(
            r#"[ -n "${CONTAINER_GC_INTERVAL:-}" ] || { echo "no setting CONTAINER_GC_INTERVAL" >&2; exit 1; }"#,
        )],
        red: &[red("BUG-01", "status of `config --json`")],
    },
    Mutant {
        id: "impatient",
        title: "The server does not start while something that it needs is away",
        defects: &[Defect::Start(
            r#"case "$1" in serve) "$SERVER" doctor >/dev/null 2>&1 || { echo "something is away" >&2; exit 69; };; esac"#,
        )],
        red: &[red("BOOT-013", "the server's start")],
    },
    Mutant {
        id: "no-queue-for-starts",
        title: "Conversations beyond those whose workspaces are being started are refused",
        defects: &[Defect::Start("export CONTAINER_START_QUEUE=0")],
        red: &[red("LIFE-009", "503")],
    },
    Mutant {
        id: "gc-interval-ignored",
        title: "The GC interval is 60 s, whatever is configured",
        defects: &[Defect::Start("export CONTAINER_GC_INTERVAL=60")],
        red: &[red("BUG-01-INTERVAL", "workspace_gc_cycles_total")],
    },
    Mutant {
        id: "bad-interval-accepted",
        title: "An invalid GC interval is silently replaced by the default",
        defects: &[Defect::Start(
            r#"case "${CONTAINER_GC_INTERVAL:-}" in 0|-*|*[!0-9]*) unset CONTAINER_GC_INTERVAL;; esac"#,
        )],
        red: &[red("BUG-01-REFUSED", "an end within")],
    },
    Mutant {
        id: "faults-one-by-one",
        title: "Only the first of several configuration errors is reported",
        defects: &[Defect::Start(
            r#"case "${LOG_FORMAT:-}" in xml) "$SERVER" "$@" 2>&1 | head -n 2 >&2; exit 64;; esac"#,
        )],
        red: &[red("BOOT-012", "lines about")],
    },
    Mutant {
        id: "refusals-unsaid",
        title: "A server that does not start gives no reason",
        defects: &[Defect::Start(r#"[ "$1" != serve ] || exec "$SERVER" "$@" >/dev/null 2>&1"#)],
        red: &[red("BOOT-010", "no two adjacent lines contain")],
    },
    Mutant {
        id: "doctor-finds-nothing",
        title: "`doctor` reports no problem, whatever is wrong",
        defects: &[Defect::Start(r#"[ "$1" != doctor ] || { "$SERVER" "$@" | sed s/BAD/ok/; exit 0; }"#)],
        red: &[red("BOOT-011", "status with no engine")],
    },
    Mutant {
        id: "docker-url-without-scheme",
        title: "The default Docker address has no scheme",
        defects: &[Defect::Start(
            r#"if [ "$1" = config ]; then "$SERVER" "$@" | sed 's#unix:///var/run/docker.sock#/var/run/docker.sock#g'; exit 0; fi"#,
        )],
        red: &[red("BUG-02", "DOCKER_SOCKET_PATH with nothing set")],
    },
    Mutant {
        id: "bare-docker-path-refused",
        title: "A Docker address that is a bare path is refused",
        defects: &[Defect::Start(
            r#"case "${DOCKER_SOCKET_PATH:-}" in /*) echo "bad DOCKER_SOCKET_PATH" >&2; exit 64;; esac"#,
        )],
        red: &[red("BUG-02", "before it listened")],
    },
    Mutant {
        id: "docker-must-be-there",
        title: "A server that finds no Docker at start exits",
        defects: &[Defect::Start(
            r#"at="${DOCKER_SOCKET_PATH#unix://}"; case "$at" in /*) [ -S "$at" ] || { echo "no Docker" >&2; exit 1; };; esac"#,
        )],
        red: &[red("BUG-02-LATE", "before it listened")],
    },
    Mutant {
        id: "two-socket-defaults",
        title: "The default of the socket directory differs from the contract",
        defects: &[Defect::Start(
            r#"if [ "$1" = config ]; then "$SERVER" "$@" | sed 's#/var/run/workspace-sockets#/var/run/ws-sockets#g'; exit 0; fi"#,
        )],
        red: &[red("BUG-05", "/var/run/ws-sockets")],
    },
    Mutant {
        id: "storage-client-without-bucket",
        title: "A client for object storage is set up without a bucket, and logs an error",
        defects: &[Defect::Start(
            r#"[ "$1" != serve ] || echo '{"level":"INFO","message":"S3 client for bucket \"\" is ready"}'"#,
        )],
        red: &[red("BUG-11", "number of log lines about file sync")],
    },
    Mutant {
        id: "corrupt-record-untold",
        title: "An unreadable record is skipped without a log line",
        defects: &[Defect::Start("export LOG_LEVEL=off; [ \"$1\" != serve ] || echo started")],
        red: &[red("BUG-15", "the log does not mention the record")],
    },
    Mutant {
        id: "rooms-kept-at-shutdown",
        title: "A shutdown that should destroy the workspaces keeps them",
        defects: &[Defect::Start("export SHUTDOWN_WORKSPACES=keep")],
        red: &[red("BUG-12-SHUTDOWN", "no container")],
    },
    Mutant {
        id: "no-pool",
        title: "The pool is never filled",
        defects: &[Defect::Start("export WARM_POOL_MIN_SIZE=0")],
        red: &[red("LIFE-001", "workspace_warm_pool_size")],
    },
    Mutant {
        id: "never-idle",
        title: "An idle workspace is reclaimed after an hour, whatever is configured",
        defects: &[Defect::Start("export CONTAINER_TTL=3600")],
        red: &[red("LIFE-002", "no workspace")],
    },
    Mutant {
        id: "everything-allowed",
        title: "A host that is not on the allow-list is let through",
        defects: &[Defect::Start(
            r#"[ -z "${PROXY_ALLOWED_DOMAINS:-}" ] || export PROXY_ALLOWED_DOMAINS="$PROXY_ALLOWED_DOMAINS,denied.conformance.test""#,
        )],
        red: &[
            red("EGR-001", "a request to a host off the allow-list"),
            red("EGR-104", "a refused request received 100 Continue"),
            red("EGR-105", "a redirect to a name off the list"),
            red("EGR-204", "status of a request that is refused"),
        ],
    },
    Mutant {
        id: "port-next-door-allowed",
        title: "A port next to the one on the allow-list is let through",
        defects: &[Defect::Start(
            r#"[ -z "${PROXY_ALLOWED_DOMAINS:-}" ] || export PROXY_ALLOWED_DOMAINS="$PROXY_ALLOWED_DOMAINS,services.conformance.test:8082""#,
        )],
        red: &[red("EGR-102", "CONNECT services.conformance.test:8082")],
    },
    Mutant {
        id: "endings-allowed",
        title: "A host that merely ends like one on the allow-list is let through",
        defects: &[Defect::Start(
            r#"[ -z "${PROXY_ALLOWED_DOMAINS:-}" ] || export PROXY_ALLOWED_DOMAINS="$PROXY_ALLOWED_DOMAINS,xservices.conformance.test""#,
        )],
        red: &[red("EGR-201", "xservices.conformance.test")],
    },
    Mutant {
        id: "greetings-unread",
        title: "The first bytes of a tunnel to the TLS port are not checked",
        defects: &[Defect::Start("export PROXY_OPAQUE_TUNNELS=services.conformance.test")],
        red: &[red("EGR-207", "was let through"), red("EGR-215", "was let through")],
    },
    Mutant {
        id: "anybody-vouches",
        title: "A target's certificate is accepted whoever has signed it",
        defects: &[Defect::Start(
            r#"if [ "$1" = serve ] && [ -n "${PROXY_EXTRA_CA_FILE:-}" ]; then
    at="$(dirname "$PROXY_EXTRA_CA_FILE")"
    cat "$at"/*.ca > "$at/everybody.pem"
    export PROXY_EXTRA_CA_FILE="$at/everybody.pem"
fi"#,
        )],
        red: &[red("EGR-210", "unknown.conformance.test")],
    },
    Mutant {
        id: "nothing-allowed",
        title: "A host on the allow-list is refused",
        defects: &[Defect::Start("export PROXY_ALLOWED_DOMAINS=nobody.conformance.test")],
        red: &[
            red("EGR-002", "EGRESS_DENIED"),
            red("BUG-04", "status of CONNECT"),
            red("EGR-101", "query in"),
            red("EGR-102", "403"),
            red("EGR-103", "EGRESS_DENIED"),
            red("EGR-106", "403"),
            red("EGR-107", "403"),
            red("EGR-108", "403"),
            red("EGR-109", "403"),
            red("EGR-110", "403"),
            red("EGR-111", "fetch failed"),
            red("EGR-112", "accepted in"),
            red("EGR-113", "accepted in"),
        ],
    },
    Mutant {
        id: "signed-with-another-key",
        title: "Requests to the model are signed with a wrong key",
        defects: &[Defect::Start("export AWS_SECRET_ACCESS_KEY=not-the-key-that-the-model-knows-of")],
        red: &[
            red("RUN-001", "signature of"),
            red("EGR-114", "status in"),
            red("EGR-115", "claude -p"),
            red("EGR-116", "claude -p"),
        ],
    },
    Mutant {
        id: "s3-requests-unsigned",
        title: "Requests to S3 get a key in place of a signature",
        defects: &[Defect::Start(
            r#"export PROXY_CREDENTIALS="$(printf %s "${PROXY_CREDENTIALS:-}" | sed 's/sigv4:s3:[a-z0-9-]*/header:authorization:env:AWS_SECRET_ACCESS_KEY/')"
[ -n "$PROXY_CREDENTIALS" ] || unset PROXY_CREDENTIALS"#,
        )],
        red: &[red("EGR-214", "is not signed")],
    },
    Mutant {
        id: "refusals-one-by-one",
        title: "Each refusal of a flood is a line of the audit trail",
        defects: &[Defect::Start(
            r#"if [ "$1" = serve ] && [ -n "${AUDIT_LOG:-}" ]; then
    trail="$AUDIT_LOG"
    export AUDIT_LOG="$trail.counted"
    : > "$AUDIT_LOG"
    tail --pid=$$ -n +1 -f "$AUDIT_LOG" | while IFS= read -r line; do
        after="${line##*\"count\":}"
        count="${after%%[!0-9]*}"
        [ -n "$count" ] && one="${line%\"count\":*}\"count\":1${after#"$count"}" || { one="$line"; count=1; }
        while [ "$count" -gt 0 ]; do printf '%s\n' "$one"; count=$((count - 1)); done
    done > "$trail" &
fi"#,
        )],
        red: &[red("EGR-216", "lines in the trail")],
    },
    Mutant {
        id: "one-budget-for-all",
        title: "While one workspace holds hundreds of connections to the proxy, no workspace gets another one",
        defects: &[Defect::Start(
            r#"[ "$1" != serve ] || while [ -d "/proc/$$/fd" ]; do
    [ "$(ls "/proc/$$/fd" | wc -l)" -lt 400 ] || rm -f "$WORKSPACE_SOCKET_BASE_PATH"/*/proxy.sock
    sleep 0.05
done 2>/dev/null &"#,
        )],
        red: &[red("EGR-216", "a neighbour's requests meanwhile")],
    },
];
