#!/usr/bin/env bash
# Runs the scenarios that a driver's version can break, with the oldest CLI that is supported. CLI=oldest must be set.
. "$(dirname "$0")/lib.sh"
[ "${CLI:-}" = oldest ] || die "older-cli.sh: set CLI=oldest"
step "Scenarios with $(docker run --rm --network none --entrypoint cat "$IMAGE" /usr/local/share/nagaya/cli-version)"
exec "$(bin nagaya-conformance)" run --image "$IMAGE" --filter 'family(LIVE) or family(APPR) or family(TOOL) or family(RUN)' \
  --report "$TARGET_DIR/older-cli" "$@"
