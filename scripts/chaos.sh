#!/usr/bin/env bash
# Kills the server a hundred times at random moments of random work: twenty runs of the scenario CHAOS-001 with its five rounds, each
# with a seed of its own. The first argument is the first seed; without one it is random. Stops at the first failure.
. "$(dirname "$0")/lib.sh"
seed=${1:-$((RANDOM * 32768 + RANDOM))}
for ((n = 0; n < 20; n++)); do
  step "Chaos, $((n * 5)) of 100 kills; seed $((seed + n))"
  NAGAYA_CONFORMANCE_SEED=$((seed + n)) cargo nextest run --locked --workspace --test scenarios -E 'test(=CHAOS-001)' ||
    die "Failed. To repeat: make chaos SEED=$((seed + n))"
done
echo "chaos: ok"
