#!/usr/bin/env bash
# Compiles everything that runs on the host. Can be run again: cargo rebuilds what changed.
. "$(dirname "$0")/lib.sh"
step "Compiling the server, the fixtures and the suite"
cargo build --locked --workspace --exclude nagaya-agent
