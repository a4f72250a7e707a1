#!/usr/bin/env bash
# Runs once before cargo-nextest runs scenarios (.config/nextest.toml). Scenarios start the server and the fixtures as programs, and
# cargo builds programs only for the tests of their own package: without this, scenarios could test yesterday's server.
# Where NAGAYA_BIN and NAGAYA_FIXTURES_BIN name programs, these are used and nothing is built.
set -euo pipefail
cd "$(dirname "$0")/.."

echo "SCHEMATHESIS_BIN=${SCHEMATHESIS_BIN:-$(scripts/schemathesis.sh)}" >>"$NEXTEST_ENV"
if [[ -n ${NAGAYA_BIN:-} && -n ${NAGAYA_FIXTURES_BIN:-} ]]; then
  exit 0
fi
scripts/build.sh demo
target=${CARGO_TARGET_DIR:-target}
programs=$(realpath "$target")/debug
{
  echo "NAGAYA_BIN=${NAGAYA_BIN:-$programs/nagaya}"
  echo "NAGAYA_FIXTURES_BIN=${NAGAYA_FIXTURES_BIN:-$programs/nagaya-fixtures}"
} >>"$NEXTEST_ENV"
# Some scenarios start the server in a container, with what it needs beside it.
[[ -n ${NAGAYA_SERVER_IMAGE:-} ]] || NAGAYA_PROFILE=debug scripts/server-image.sh
scripts/service-images.sh
