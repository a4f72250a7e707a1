#!/usr/bin/env bash
# Runs every test and every scenario with cargo-nextest under the strict profile (.config/nextest.toml).
. "$(dirname "$0")/lib.sh"
step "Running every test and scenario"
exec cargo nextest run --locked --workspace --profile ci "$@"
