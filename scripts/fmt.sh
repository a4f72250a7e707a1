#!/usr/bin/env bash
# Formats every tracked Rust file by name: `cargo fmt` follows `mod` declarations only, and misses the fuzz targets and whatever a
# macro declares.
. "$(dirname "$0")/lib.sh"
git ls-files -z -- '*.rs' | xargs -0 rustfmt --edition 2024
