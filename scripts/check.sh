#!/usr/bin/env bash
# Lints, none of which may report anything.
#   scripts/check.sh [shell] [clippy] [docs] [deny]      without arguments: all of them
. "$(dirname "$0")/lib.sh"

shell() {
  step "Shell scripts"
  shellcheck --external-sources --source-path=SCRIPTDIR scripts/*.sh scripts/tests/*.sh ci/*.sh .ci/run deploy/*.sh deploy/conformance/*.sh
  # The shell inside of action.yml and the template for GitLab.
  scripts/tests/templates.py --shellcheck
}
clippy() {
  step "Clippy"
  cargo clippy --locked --workspace --all-targets -- -D warnings
}
docs() {
  step "Documentation"
  # Its readers are the developers, so private items are in it and may be linked to.
  RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" \
    cargo doc --locked --workspace --no-deps --document-private-items --quiet
}
deny() {
  step "Licences, bans and sources of dependencies"
  # Says which crates are there twice (warnings in deny.toml) without failing.
  cargo deny --locked --log-level error check bans licenses sources
}

[ $# -gt 0 ] || set -- shell clippy docs deny
for lint in "$@"; do
  case $lint in
    shell | clippy | docs | deny) "$lint" ;;
    *) die "check.sh $lint: accepted: shell, clippy, docs, deny" ;;
  esac
done
