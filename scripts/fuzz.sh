#!/usr/bin/env bash
# Fuzzes the parsers that read an attacker's bytes first, for FUZZ_SECONDS (60) each. The first finding ends it and its input is kept.
# libFuzzer with the stable compiler: coverage comes from an LLVM pass, so neither nightly nor a sanitizer is needed.
. "$(dirname "$0")/lib.sh"

seconds=${FUZZ_SECONDS:-60}
target=$(realpath -m "$TARGET_DIR")/fuzz
flags="--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
for feature in inline-8bit-counters pc-table trace-compares; do flags+=" -Cllvm-args=-sanitizer-coverage-$feature"; done
host=$(rustc -vV | sed -n 's/^host: //p')

step "Compiling the fuzz targets"
# With --target, RUSTFLAGS do not apply to build scripts and procedural macros.
RUSTFLAGS=$flags cargo build --locked --release --manifest-path fuzz/Cargo.toml --target "$host" --target-dir "$target"
for name in request hello; do
  step "Fuzzing $name for $seconds s"
  found=$target/found-$name
  mkdir -p "$found"
  # New inputs are written to the first folder; the repository's are read from the second.
  "$target/$host/release/$name" -max_total_time="$seconds" -max_len=4096 -timeout=5 -print_final_stats=1 \
    -artifact_prefix="$target/failed-$name-" "$found" "fuzz/corpus/$name" 2>&1 |
    grep -E '^(stat::number|stat::average|SUMMARY|==|thread|assertion|  left|  right|artifact|Done)|INITED' ||
    die "$name: see $target/failed-$name-*"
done
echo "fuzz: ok"
