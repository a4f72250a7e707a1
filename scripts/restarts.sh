#!/usr/bin/env bash
# Runs that alternate between two servers with the same Redis and PostgreSQL, which are killed and stopped in turn while the runs go
# on: the scenario STATE-015, repeated until there were so many runs. Stops at the first failure, and says what was counted.
#   scripts/restarts.sh [RUNS]      without a number: 200
. "$(dirname "$0")/lib.sh"
runs=${1:-200}
[[ $runs =~ ^[1-9][0-9]*$ ]] || die "restarts.sh $runs: accepted: a number of runs above zero"
# As many as fit well into a scenario's time limit.
batch=20
report=$(mktemp -d)
trap 'rm -rf "$report"' EXIT
total=0 killed=0 stopped=0 refused=0 lost=0
while [ "$total" -lt "$runs" ]; do
  left=$((runs - total))
  export NAGAYA_RESTART_RUNS=$((left < batch ? left : batch))
  step "$total of $runs runs"
  "$(bin nagaya-conformance)" run --filter 'id(=STATE-015)' --image "${CONTAINER_IMAGE:-workspace-base:latest}" --report "$report" ||
    die "Failed after $total runs. The report is above."
  counted=$(grep -o '[0-9]* runs, [0-9]* servers killed and [0-9]* stopped in the middle, [0-9]* times 409, [0-9]* lost' "$report/report.json") ||
    die "The report does not say what was counted: $(cat "$report/report.json")"
  read -r more kills stops refusals losses <<<"$(sed 's/times 409//; s/[^0-9]\+/ /g' <<<"$counted")"
  total=$((total + more)) killed=$((killed + kills)) stopped=$((stopped + stops)) refused=$((refused + refusals)) lost=$((lost + losses))
done
echo "restarts: $total runs, $((killed + stopped)) restarts ($killed killed, $stopped stopped), $refused times 409, $lost lost"
[ "$lost" = 0 ]
