#!/usr/bin/env bash
# Runs every test and every scenario with cargo-nextest under the strict profile (.config/nextest.toml).
. "$(dirname "$0")/lib.sh"
# A snapshot that differs fails the test; a new one is not written beside it.
export INSTA_UPDATE=no
step "Running every test and scenario"
exec cargo nextest run --locked --workspace --profile ci "$@"
