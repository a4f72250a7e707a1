#!/usr/bin/env bash
# Runs the conformance suite as action.yml asks: with its program, or in its image. The exit status is the suite's (docs/conformance.md).
# Works outside of GitHub too: INPUT_TARGET=http://host:8000 INPUT_PROGRAM=nagaya-conformance deploy/conformance/action.sh
set -euo pipefail

output() { [ -z "${GITHUB_OUTPUT:-}" ] || printf '%s=%s\n' "$1" "$2" >>"$GITHUB_OUTPUT"; }
refuse() {
  printf '::error::%s\n' "$1" >&2
  output verdict none
  exit 64
}

[ -n "${INPUT_TARGET:-}" ] || refuse "the input target is empty: give the base URL of the deployment"
case ${INPUT_STRICT:-false} in true | false) ;; *) refuse "strict: $INPUT_STRICT: accepted: true, false" ;; esac

mkdir -p "${INPUT_REPORT:=conformance-report}"
report=$(realpath "$INPUT_REPORT")
output report "$report"

arguments=(run --target "$INPUT_TARGET")
[ -z "${INPUT_PROFILE:-}" ] || arguments+=(--profile "$INPUT_PROFILE")
[ -z "${INPUT_FILTER:-}" ] || arguments+=(--filter "$INPUT_FILTER")
[ "${INPUT_STRICT:-false}" = false ] || arguments+=(--strict)
# Not on the command line, which every process of the machine can read.
[ -z "${INPUT_TOKEN:-}" ] || export NAGAYA_CONFORMANCE_API_KEY=$INPUT_TOKEN

if [ -n "${INPUT_PROGRAM:-}" ]; then
  [ -z "${INPUT_CA:-}" ] || arguments+=(--ca "$INPUT_CA")
  suite=("$INPUT_PROGRAM")
  arguments+=(--report "$report")
elif [ -n "${INPUT_IMAGE:-}" ]; then
  # The target may listen on this machine's loopback interface. The report belongs to this user.
  suite=(docker run --rm --network=host --user="$(id -u):$(id -g)" --volume="$report:/report")
  suite+=(--env=NAGAYA_CONFORMANCE_API_KEY)
  if [ -n "${INPUT_CA:-}" ]; then
    suite+=(--volume="$(realpath "$INPUT_CA"):/ca.pem:ro")
    arguments+=(--ca /ca.pem)
  fi
  suite+=("$INPUT_IMAGE")
  arguments+=(--report /report)
else
  refuse "the inputs image and program are empty: name the suite's image, or its program"
fi

status=0
"${suite[@]}" "${arguments[@]}" || status=$?
case $status in
  0) verdict=conformant ;;
  1) verdict=non-conformant ;;
  2) verdict=incomplete ;;
  *) verdict=none ;;
esac
output verdict "$verdict"
if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then
  if [ "$verdict" != none ] && [ -f "$report/summary.md" ]; then
    cat "$report/summary.md" >>"$GITHUB_STEP_SUMMARY"
  else
    printf '## Conformance: no verdict\n\nThe suite ended with exit status %s; the log of this step has the reason.\n' "$status" >>"$GITHUB_STEP_SUMMARY"
  fi
fi
exit "$status"
