#!/usr/bin/env bash
# Launches broken deployments and requires that the scenario named for each fails (docs/conformance.md). FILTER, an expression over
# scenarios, selects some of them; the results are in target/selftest/selftest.json.
. "$(dirname "$0")/lib.sh"
step "Broken deployments (all of them take up to half an hour on two cores)"
SCHEMATHESIS_BIN=${SCHEMATHESIS_BIN:-$(scripts/schemathesis.sh)}
export SCHEMATHESIS_BIN
exec "$(bin nagaya-conformance)" selftest --image "$IMAGE" --report "$TARGET_DIR/selftest" --filter "${FILTER:-all()}"
