#!/usr/bin/env bash
# Formatting, lints and documentation: nothing may be said against any of them.
. "$(dirname "$0")/lib.sh"
step "Formatting"
cargo fmt --all --check
step "Lints"
cargo clippy --locked --workspace --all-targets -- -D warnings
step "Documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items --quiet
step "Shell scripts"
for script in scripts/*.sh .ci/run; do bash -n "$script"; done
