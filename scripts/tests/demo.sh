#!/usr/bin/env bash
# demo.sh and stack.sh with programs that pretend: the exit status of a failed demo is its own, and the server still has its
# directory when it is told to stop. (A second trap once removed the directory first, and made every failure exit 0.)
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/debug" "$work/tmp"
fail() { printf 'scripts/tests/demo.sh: %s\n' "$*" >&2; exit 1; }

cat >"$work/debug/nagaya" <<'SERVER'
#!/usr/bin/env bash
# serve --addr-file FILE : on SIGTERM notes whether its state directory is still there.
set -u
dir=$(dirname "$3")
trap 'if [ -d "$dir" ]; then echo kept; else echo removed; fi >"$PRETEND/stopped"; exit 0' TERM
mkdir -p "$STATE_DIR"
echo 127.0.0.1:1 >"$3"
while :; do sleep 0.05; done
SERVER
cat >"$work/debug/nagaya-fixtures" <<'FIXTURES'
#!/usr/bin/env bash
set -u
case $1 in
  demo) exit "$(cat "$PRETEND/status")" ;;
  model)
    while [ $# -gt 0 ]; do
      case $1 in --addr-file | --control-addr-file) echo 127.0.0.1:2 >"$2" ;; esac
      shift
    done
    trap 'exit 0' TERM
    while :; do sleep 0.05; done
    ;;
esac
FIXTURES
chmod +x "$work/debug/"*

for status in 0 3; do
  rm -f "$work/stopped"
  echo "$status" >"$work/status"
  got=0
  PRETEND=$work TMPDIR=$work/tmp CARGO_TARGET_DIR=$work "$root/scripts/demo.sh" >"$work/output" 2>&1 || got=$?
  [ "$got" = "$status" ] || fail "the demo exits with $status, demo.sh with $got: $(cat "$work/output")"
  [ "$(cat "$work/stopped" 2>/dev/null)" = kept ] || fail "the server's directory was removed before the server stopped"
  [ -z "$(ls -A "$work/tmp")" ] || fail "left over: $(ls "$work/tmp")"
done

# A server that does not start: its log is shown before the directory goes.
printf '#!/bin/sh\necho "no such setting" >&2\nexit 64\n' >"$work/debug/nagaya"
got=0
PRETEND=$work TMPDIR=$work/tmp CARGO_TARGET_DIR=$work "$root/scripts/demo.sh" >"$work/output" 2>&1 || got=$?
[ "$got" = 1 ] || fail "a server that does not start: demo.sh exits with $got"
grep -q 'no such setting' "$work/output" || fail "the server's log is not shown: $(cat "$work/output")"
[ -z "$(ls -A "$work/tmp")" ] || fail "left over: $(ls "$work/tmp")"
