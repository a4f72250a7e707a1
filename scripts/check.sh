#!/usr/bin/env bash
# Formatting, lints and documentation: nothing may be said against any of them.
. "$(dirname "$0")/lib.sh"
step "Formatting"
cargo fmt --all --check
step "Lints"
cargo clippy --locked --workspace --all-targets -- -D warnings
step "Documentation"
# Nobody but ourselves reads it, so private items are in it and may be linked to.
RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --locked --workspace --no-deps --document-private-items --quiet
step "Scripts"
for script in scripts/*.sh ci/*.sh .ci/run; do bash -n "$script"; done
for script in scripts/*.py; do python3 -c 'import ast, sys; ast.parse(open(sys.argv[1]).read())' "$script"; done
