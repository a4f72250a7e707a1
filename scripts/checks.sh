#!/usr/bin/env bash
# The checks that are cheap and break silently: formatting, scripts, workflows, features. `make test` begins with them. (That the
# API's description and the catalogue are up to date, and which module may import which, are Rust tests among the others.)
. "$(dirname "$0")/lib.sh"

step "Formatting, scripts, workflows"
failed=()
check() { # NAME COMMAND… : runs all of them, so that one run shows every failure
  local name=$1
  shift
  "$@" || failed+=("$name")
}

# Every tracked file by name: `cargo fmt` follows `mod` declarations only, and misses files that a macro declares.
formatting() {
  local files unformatted
  mapfile -t files < <(git ls-files -- '*.rs')
  # The answer is a list of files; what differs is shown by `cargo fmt --check`, or is seen after `make fmt`.
  unformatted=$(rustfmt --edition 2024 --check -l "${files[@]}" | sort -u) && [ -z "$unformatted" ] && return
  printf 'Not formatted; run make fmt:\n%s\n' "$unformatted" >&2
  return 1
}
scripts() {
  local status=0 script
  for script in scripts/*.sh scripts/tests/*.sh ci/*.sh .ci/run deploy/*.sh deploy/conformance/*.sh; do bash -n "$script" || status=1; done
  for script in scripts/*.py scripts/tests/*.py; do
    python3 -c 'import ast, sys; ast.parse(open(sys.argv[1]).read(), sys.argv[1])' "$script" || status=1
  done
  return "$status"
}
check formatting formatting
check syntax scripts
# Whether each listed defect can still be made, and names scenarios that exist; `make mutants` tries them.
check mutants scripts/mutants.py --check
for test in scripts/tests/*; do check "$test" "$test"; done
[ "${#failed[@]}" = 0 ] || die "failed: ${failed[*]}"
