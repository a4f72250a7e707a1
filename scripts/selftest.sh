#!/usr/bin/env bash
# Launches broken deployments and requires that a scenario named for each turns red (docs/conformance.md). FILTER, an expression over
# scenarios, makes it a part of them; what became of each is in target/selftest/selftest.json.
. "$(dirname "$0")/lib.sh"
step "Broken deployments (all of them take up to half an hour on two cores)"
exec "$(bin nagaya-conformance)" selftest --image "$IMAGE" --report "$TARGET_DIR/selftest" --filter "${FILTER:-all()}"
