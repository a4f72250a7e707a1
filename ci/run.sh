#!/usr/bin/env bash
# What CI runs on a clean clone: the README's test command, then the lints. Together they are what `make check` runs.
set -euo pipefail
cd "$(dirname "$0")/.."
make test
make lint
