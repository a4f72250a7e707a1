#!/usr/bin/env bash
# Compiles what runs on the host. Can be repeated: cargo rebuilds what changed.
#   scripts/build.sh [demo|all|release]      demo: the server and the fixtures; all (the default): the conformance suite too;
#                                            release: the server, optimised
# Every build selects the whole workspace and restricts its targets. Cargo unifies features over the selected packages: another
# selection (`-p`) would resolve other features and compile a hundred dependencies once more.
. "$(dirname "$0")/lib.sh"
case ${1:-all} in
  demo)
    step "Compiling the server and the fixtures"
    cargo build --locked --workspace --bin nagaya --bin nagaya-fixtures
    ;;
  all)
    step "Compiling the server, the fixtures and the conformance suite"
    cargo build --locked --workspace --bins
    ;;
  release)
    step "Compiling the server, optimised"
    cargo build --locked --release --workspace --bin nagaya
    ;;
  *) die "build.sh $1: accepted: demo, all, release" ;;
esac
