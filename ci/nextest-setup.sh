#!/usr/bin/env bash
# Runs once before cargo-nextest runs scenarios (.config/nextest.toml): scenarios start the server and the fixtures as programs,
# and cargo builds programs for the tests of their own package only. Without this, scenarios could test yesterday's server.
# Where NAGAYA_BIN and NAGAYA_FIXTURES_BIN name programs, these are taken and nothing is built.
set -euo pipefail
cd "$(dirname "$0")/.."

echo "SCHEMATHESIS_BIN=${SCHEMATHESIS_BIN:-$(scripts/schemathesis.sh)}" >> "$NEXTEST_ENV"
if [[ -n "${NAGAYA_BIN:-}" && -n "${NAGAYA_FIXTURES_BIN:-}" ]]; then
  exit 0
fi
# The same words as in scripts/build.sh: another selection of packages would compile their dependencies once more.
cargo build --locked --quiet --workspace --exclude nagaya-agent
programs="${CARGO_TARGET_DIR:-$PWD/target}/debug"
{
  echo "NAGAYA_BIN=${NAGAYA_BIN:-$programs/nagaya}"
  echo "NAGAYA_FIXTURES_BIN=${NAGAYA_FIXTURES_BIN:-$programs/nagaya-fixtures}"
} >> "$NEXTEST_ENV"
# Some scenarios start it in a container, with what it needs beside it.
[[ -n "${NAGAYA_SERVER_IMAGE:-}" ]] || NAGAYA_PROFILE=debug scripts/server-image.sh
scripts/service-images.sh
