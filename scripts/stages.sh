#!/usr/bin/env bash
# Runs the stages of a make target one after the other, each numbered and with the time that has passed since the first began.
#   scripts/stages.sh 'setup.sh demo' image.sh …      each argument: a script of this folder and its arguments
. "$(dirname "$0")/lib.sh"

# A target may run another target's stages; the time then counts from the first target's start.
export NAGAYA_STARTED=${NAGAYA_STARTED:-$(date +%s)}
total=$#
number=0
for stage in "$@"; do
  number=$((number + 1))
  export NAGAYA_STAGE=$number/$total
  read -ra command <<<"$stage"
  "scripts/${command[0]}" "${command[@]:1}" || {
    status=$?
    printf '\nerror: stage %s, scripts/%s, ended with status %d after %s.\n' \
      "$NAGAYA_STAGE" "$stage" "$status" "$(duration $(($(date +%s) - NAGAYA_STARTED)))" >&2
    exit "$status"
  }
done
