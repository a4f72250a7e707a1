#!/usr/bin/env bash
# Builds what a release consists of, in target/release-files: statically linked programs, an SBOM and checksums.
#   RELEASE_TARGET=x86_64-unknown-linux-musl   the compilation target; musl's programs run on any distribution
. "$(dirname "$0")/lib.sh"

release_target=${RELEASE_TARGET:-$(uname -m)-unknown-linux-musl}
files=$TARGET_DIR/release-files
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

if ! [ -d "$(rustc --print sysroot)/lib/rustlib/$release_target" ]; then
  command -v rustup >/dev/null || die "Rust's standard library for $release_target is missing, and rustup is not there to install it."
  step "Installing Rust's standard library for $release_target"
  rustup target add "$release_target" || die "It cannot be installed. RELEASE_TARGET names another target."
fi
if [[ $release_target = *-musl ]] && ! command -v musl-gcc >/dev/null; then
  can_install || die "musl-gcc is missing (SQLite is C). Install it, e.g.: sudo apt-get install musl-tools"
  step "Installing musl-tools (SQLite is C)"
  apt_install musl-tools
fi

compile() { # PROGRAM… : optimised and static
  local bins=("${@/#/--bin=}")
  RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --workspace "${bins[@]}" --target "$release_target"
}
# finish PROGRAM FILE : without symbols, and certainly static: such a program has no interpreter (the dynamic linker) among its segments.
finish() {
  local built=$TARGET_DIR/$release_target/release/$1
  ! LC_ALL=C readelf --program-headers --wide "$built" | grep -q INTERP || die "$built is linked dynamically."
  strip -o "$2" "$built"
}
named() { echo "$files/$1-$version-${release_target%%-*}-linux"; }

step "Compiling version $version for $release_target"
rm -rf "$files"
mkdir -p "$files"
compile nagaya nagaya-fixtures
finish nagaya "$(named nagaya)"
# The fixtures go into the suite's program, so that it is a single file.
fixtures=$TARGET_DIR/$release_target/release/nagaya-fixtures.stripped
finish nagaya-fixtures "$fixtures"
step "Compiling the conformance suite with its fixtures inside"
NAGAYA_FIXTURES_INSIDE=$(realpath "$fixtures") compile nagaya-conformance
finish nagaya-conformance "$(named nagaya-conformance)"
# Nothing beside it, and no variable: what somebody has who downloads it.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$(named nagaya-conformance)" "$work/suite"
env -i "$work/suite" fixtures --version >/dev/null || die "The suite does not find the fixtures inside it."
step "Writing the SBOM and checksums"
scripts/sbom.py >"$files/nagaya-$version.cdx.json"
(cd "$files" && sha256sum -- * >SHA256SUMS && sha256sum --check --quiet SHA256SUMS)
ls -l "$files"
