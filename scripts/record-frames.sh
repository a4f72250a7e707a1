#!/usr/bin/env bash
# Records what the pinned CLI and the oldest supported one say in a list of situations, as fixtures of the driver's tests:
# server/driver/tests/frames/VERSION/SITUATION.jsonl. The CLIs run on this host and call a scripted model. After a change look at the
# difference, and at that of the snapshots: INSTA_UPDATE=always cargo nextest run -p nagaya-driver.
. "$(dirname "$0")/lib.sh"

frames=server/driver/tests/frames
step "Compiling the recorder and the scripted model"
cargo build --locked --workspace --bins
# Alone it needs little of the workspace.
cargo build --locked -p nagaya-driver --example record-frames

dir=$(mktemp -d)
"$(bin nagaya-fixtures)" model --plain --no-verify --addr-file "$dir/address" >"$dir/log" 2>&1 &
model=$!
trap 'kill "$model" 2>/dev/null; rm -rf "$dir"' EXIT
wait_until 10 test -s "$dir/address" || die "The scripted model does not start: $(cat "$dir/log")"

# Versions that are no longer supported leave nothing, and neither do their snapshots.
find "$frames" -mindepth 1 -maxdepth 1 -type d -exec rm -r {} +
for CLI in pinned oldest; do
  export CLI
  scripts/claude-cli.sh fetch
  step "Recording the $CLI CLI"
  "$(bin examples/record-frames)" "$(scripts/claude-cli.sh path)" "$(cat "$dir/address")" "$frames"
done
