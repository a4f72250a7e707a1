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

step "Compiling version $version for $release_target"
RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --workspace \
  --bin nagaya --bin nagaya-conformance --target "$release_target"
rm -rf "$files"
mkdir -p "$files"
for program in nagaya nagaya-conformance; do
  built=$TARGET_DIR/$release_target/release/$program
  # A static program has no interpreter (the dynamic linker) among its segments.
  ! LC_ALL=C readelf --program-headers --wide "$built" | grep -q INTERP || die "$built is linked dynamically."
  strip -o "$files/$program-$version-${release_target%%-*}-linux" "$built"
done
step "Writing the SBOM and checksums"
scripts/sbom.py >"$files/nagaya-$version.cdx.json"
(cd "$files" && sha256sum -- * >SHA256SUMS && sha256sum --check --quiet SHA256SUMS)
ls -l "$files"
