#!/usr/bin/env bash
# Dependencies are compiled once for programs and tests: dev-dependencies ask for no feature that the programs do without.
# Where they do, cargo resolves two sets of features and compiles the crates concerned, and all that depend on them, twice.
set -euo pipefail
cd "$(dirname "$0")/../.."

features() { # EDGES : "name version|features", one line for each crate of the registry
  cargo tree --locked --workspace --edges "$1" --prefix none --format '{p}|{f}' | sed 's/ (\*)//' | grep -v '(/' | sort -u
}
programs=$(features normal,build)
tests=$(features normal,build,dev)
[ "$(wc -l <<<"$programs")" -gt 100 ] || { echo "scripts/tests/features.sh: cargo tree lists too little: $programs" >&2; exit 1; }
# Lines of the programs' that the tests' resolution does not have.
only=$(comm -23 <(printf '%s\n' "$programs") <(printf '%s\n' "$tests"))
if [ -n "$only" ]; then
  printf 'These crates have other features in builds of tests. Give the features to the programs as well:\n' >&2
  while IFS='|' read -r crate given; do
    printf '  %s: %s; in tests: %s\n' "$crate" "${given:-none}" "$(grep -F "$crate|" <<<"$tests" | cut -d'|' -f2 | paste -sd' ')" >&2
  done <<<"$only"
  exit 1
fi
