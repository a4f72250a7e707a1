#!/usr/bin/env bash
# Runs every test and every scenario with cargo-nextest under the strict profile (.config/nextest.toml).
. "$(dirname "$0")/lib.sh"
# A snapshot that differs fails; it is not written down beside the one that was there.
export INSTA_UPDATE=no
step "Running every test and scenario"
exec cargo nextest run --locked --workspace --profile ci "$@"
