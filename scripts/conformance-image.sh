#!/usr/bin/env bash
# Builds the image of the conformance suite, with the scripted model and every other fixture of ours, unless it exists with the same inputs.
#   CONFORMANCE_IMAGE=nagaya/conformance:latest   its name
#   NAGAYA_PROFILE=release                        the build profile of the programs; debug uses what scripts/build.sh compiled
. "$(dirname "$0")/lib.sh"

image=${CONFORMANCE_IMAGE:-nagaya/conformance:latest}
profile=${NAGAYA_PROFILE:-release}
programs=(nagaya-conformance nagaya-fixtures)
mkdir -p "$TARGET_DIR"
# Two at once would share the build context.
exec 8>"$TARGET_DIR/conformance-image.lock"
flock 8

case $profile in
  debug) ;;
  release)
    step "Compiling the suite and its fixtures, optimised"
    cargo build --locked --release --workspace --bin nagaya-conformance --bin nagaya-fixtures
    ;;
  *) die "NAGAYA_PROFILE=$profile: accepted: release, debug" ;;
esac
scripts/base-image.sh

inputs=$({
  for program in "${programs[@]}"; do cat "$TARGET_DIR/$profile/$program"; done
  cat deploy/conformance/Dockerfile
  echo "$BASE_IMAGE"
} | sha256sum | cut -c1-16)
if [ "$(image_label inputs "$image")" = "$inputs" ]; then
  step "Image $image is up to date"
  exit 0
fi

step "Building $image"
context=$TARGET_DIR/conformance-image-context
rm -rf "$context"
mkdir -p "$context"
cp deploy/conformance/Dockerfile "$context/"
# Symbols and line tables are the larger part of the programs.
for program in "${programs[@]}"; do strip -o "$context/$program" "$TARGET_DIR/$profile/$program"; done
docker build -q --build-arg BASE_IMAGE="$BASE_IMAGE" --build-arg INPUTS="$inputs" -t "$image" "$context" >/dev/null
rm -rf "$context"
# Removes the image whose name this one took.
docker image prune -f --filter label=nagaya.image.inputs >/dev/null
