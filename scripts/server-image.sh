#!/usr/bin/env bash
# Builds the images nagaya/server and nagaya/model (the scripted model) unless they exist with the same inputs.
#   NAGAYA_PROFILE=release   the build profile of the programs, and the tag; debug uses what scripts/build.sh compiled
. "$(dirname "$0")/lib.sh"

profile=${NAGAYA_PROFILE:-release}
target=$TARGET_DIR
uid=$(image_uid)
tag=$(server_tag "$profile")
mkdir -p "$target"
# Two at once would share the build context.
exec 8>"$target/server-image.lock"
flock 8

case $profile in
  debug) ;;
  release)
    step "Compiling the server and the scripted model, optimised"
    cargo build --locked --release --workspace --bin nagaya --bin nagaya-fixtures
    ;;
  *) die "NAGAYA_PROFILE=$profile: accepted: release, debug" ;;
esac
scripts/base-image.sh

programs=(nagaya nagaya-fixtures)
inputs=$({
  for program in "${programs[@]}"; do cat "$target/$profile/$program"; done
  cat deploy/Dockerfile
  echo "$uid $BASE_IMAGE"
} | sha256sum | cut -c1-16)
if [ "$(image_label inputs "nagaya/server:$tag")" = "$inputs" ] && [ "$(image_label inputs "nagaya/model:$tag")" = "$inputs" ]; then
  step "Image nagaya/server:$tag is up to date"
  exit 0
fi

step "Building nagaya/server:$tag and nagaya/model:$tag"
context=$target/server-image-context
rm -rf "$context"
mkdir -p "$context"
cp deploy/Dockerfile "$context/"
# Symbols and line tables are the larger part of the programs.
for program in "${programs[@]}"; do strip -o "$context/$program" "$target/$profile/$program"; done
for image in server model; do
  docker build -q --target "$image" --build-arg BASE_IMAGE="$BASE_IMAGE" --build-arg NAGAYA_UID="$uid" \
    --build-arg INPUTS="$inputs" -t "nagaya/$image:$tag" "$context" >/dev/null
done
rm -rf "$context"
# Removes the images whose names these took.
docker image prune -f --filter label=nagaya.image.inputs >/dev/null
