#!/usr/bin/env bash
# Builds the image of workspaces, workspace-base:latest, unless one made of the same inputs is there. CLI=oldest builds
# workspace-base:oldest-cli, with the oldest supported CLI.
#   scripts/image.sh [demo|all]      compiles the programs for demo, or all of them, while the image's packages are fetched
. "$(dirname "$0")/lib.sh"

triple=$(rustc -vV | sed -n 's/^host: //p')
agent=$TARGET_DIR/$triple/agent/nagaya-agent
# Certificates that only this host knows, for builds behind a TLS-inspecting proxy; give a PEM file.
extra_ca=${NAGAYA_EXTRA_CA:-}

mkdir -p "$TARGET_DIR"
# Two at once would share the build's context.
exec 9>"$TARGET_DIR/image.lock"
flock 9

recipe=$({
  cat workspace-base/Dockerfile workspace-base/node-proxy.js "$CLI_REQUIREMENTS" ${extra_ca:+"$extra_ca"}
  echo "$BASE_IMAGE"
} | sha256sum | cut -c1-16)
context=$TARGET_DIR/image-context
# The image without its agent. Its tag is the recipe's hash: another clone on this engine may have another recipe.
tools=nagaya/tools:$recipe
build() { # ARGUMENTS… : docker build, quietly; what it prints is shown if it fails
  docker build --quiet --build-arg BASE_IMAGE="$BASE_IMAGE" \
    ${extra_ca:+--build-arg REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt} "$@" >/dev/null
}

# Everything that the stage `tools` copies.
fill_context() {
  local cli
  cli=$(scripts/claude-cli.sh path)
  rm -rf "$context"
  # The image gets these modes.
  install -d -m 0755 "$context" "$context"/{extra-ca,local,local/bin,local/share,local/share/nagaya}
  install -m 0644 workspace-base/Dockerfile "$context/Dockerfile"
  install -m 0644 workspace-base/node-proxy.js "$context/local/share/nagaya/node-proxy.js"
  # A hard link costs nothing; across file systems a copy is needed.
  cp -l "$cli" "$context/local/bin/claude" 2>/dev/null || cp "$cli" "$context/local/bin/claude"
  touch "$context/extra-ca/none"
  [ -z "$extra_ca" ] || install -m 0644 "$extra_ca" "$context/extra-ca/extra.crt"
}

# What needs no compiled program: the base image, its packages and, fetched beside them, the CLI. Much of it is waiting for the
# network and the disk, so it runs while cargo has the processors.
prepare() {
  scripts/claude-cli.sh fetch &
  local cli=$!
  scripts/base-image.sh
  step "Installing the image's packages (the first time some minutes)"
  # Before the CLI is there: the stage copies nothing, so its context is the Dockerfile alone.
  build --target packages -t nagaya/packages:latest - <workspace-base/Dockerfile
  wait "$cli"
  step "Adding the CLI (400 MB)"
  fill_context
  build --target tools --label nagaya.image.recipe="$recipe" -t "$tools" "$context"
  rm -rf "$context"
}

preparing='' prepare_log=$TARGET_DIR/image-prepare.log
start_preparing() {
  # Job control gives it a process group of its own, which is ended whole if compiling fails.
  set -m
  # `set -e` does not hold in a function whose status is tested; a shell of its own has no such caller.
  (set -e; prepare) >"$prepare_log" 2>&1 </dev/null &
  preparing=$!
  set +m
}
stop_preparing() {
  [ -z "$preparing" ] || kill -TERM -- "-$preparing" 2>/dev/null || true
}
trap stop_preparing EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
if [ "$(image_label recipe "$IMAGE")" != "$recipe" ] && ! has_image "$tools"; then
  step "Preparing the image beside the compiler: base, packages, CLI (log: $prepare_log)"
  start_preparing
fi

[ $# = 0 ] || scripts/build.sh "$1"
step "Compiling the agent (static)"
# Another profile and C library linking: nothing of the build for the host can be shared.
RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked -p nagaya-agent --profile agent --target "$triple"

if [ "$IMAGE" != workspace-base:mutants ] && grep -qaF /etc/nagaya-mutant "$agent"; then
  die "$agent was compiled with the defects of make mutants. Remove it: rm '$agent'"
fi

inputs=$({
  cat "$agent"
  echo "$recipe"
} | sha256sum | cut -c1-16)
if [ "$(image_label inputs "$IMAGE")" = "$inputs" ]; then
  step "Image $IMAGE is up to date"
  exit 0
fi
# Only the agent has changed, and the image to put it on was removed.
[ -n "$preparing" ] || has_image "$tools" || start_preparing
if [ -n "$preparing" ]; then
  step "Waiting for the image's packages and the CLI"
  status=0
  wait "$preparing" || status=$?
  # Whatever is left of its process group after a failure.
  stop_preparing
  preparing=''
  [ "$status" = 0 ] || die "The image cannot be prepared:
$(tail -n 15 "$prepare_log")"
fi

step "Building $IMAGE"
rm -rf "$context"
mkdir -p "$context"
install -m 0755 "$agent" "$context/nagaya-agent"
# The recipe's last stage alone, on the image that was prepared: to find its other lines cached, the builder would read the CLI again.
{
  echo "FROM $tools"
  sed '1,/^FROM tools$/d' workspace-base/Dockerfile
} >"$context/Dockerfile"
build --label nagaya.image.inputs="$inputs" -t "$IMAGE" "$context"
rm -rf "$context"
# Removes the images whose name this one took; workspaces that run from one keep it.
docker image prune -f --filter label=nagaya.image.inputs >/dev/null
scripts/packages.sh
