#!/usr/bin/env bash
# Checks that everything compiles with the oldest supported Rust, the rust-version of Cargo.toml. With rustup the toolchain is
# selected by name (and must be installed: rustup toolchain install); without it, the Rust on the search path must be that version.
. "$(dirname "$0")/lib.sh"
wanted=$(rust_version)
if command -v rustup >/dev/null; then
  # A toolchain may be installed as 1.95 or as 1.95.0.
  name=$(rustup toolchain list | sed -n "s/^\(${wanted//./\\.}\(\.[0-9]*\)\?\)-.*/\1/p" | head -n 1)
  [ -n "$name" ] || die "Rust $wanted is not installed. Run: rustup toolchain install $wanted --profile minimal"
  export RUSTUP_TOOLCHAIN=$name
fi
have=$(rustc --version | awk '{print $2}')
[[ $have = "$wanted" || $have = "$wanted".* ]] || die "Rust $have is not $wanted, the oldest supported version."
step "Compiling with Rust $have"
cargo check --locked --workspace --all-targets
