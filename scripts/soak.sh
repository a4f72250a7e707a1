#!/usr/bin/env bash
# Fifty living sessions and a thousand turns: the scenario LIVE-050, which fails if the server's descriptors, threads, memory or files
# grow with the turns. Each session has a workspace with a CLI of some 214 MB.
#   scripts/soak.sh [TURNS [SESSIONS]]      without numbers: 1000 50
. "$(dirname "$0")/lib.sh"
turns=${1:-1000} sessions=${2:-50}
[[ $turns =~ ^[1-9][0-9]*$ && $sessions =~ ^[1-9][0-9]*$ ]] || die "soak.sh $turns $sessions: accepted: two numbers above zero"
report=$(mktemp -d)
trap 'rm -rf "$report"' EXIT
step "$turns turns of $sessions sessions"
NAGAYA_SOAK_TURNS=$turns NAGAYA_SOAK_SESSIONS=$sessions "$(bin nagaya-conformance)" run --filter 'id(=LIVE-050)' --patience 20 \
  --image "${CONTAINER_IMAGE:-workspace-base:latest}" --report "$report" || die "Failed. The report is above."
counted=$(grep -o "$sessions sessions, [0-9]* turns: [^\"]*" "$report/report.json") ||
  die "The report does not say what was counted: $(cat "$report/report.json")"
echo "soak: $counted"
