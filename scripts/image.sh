#!/usr/bin/env bash
# Builds the rooms' image, workspace-base:latest, unless one made of the same inputs is there.
. "$(dirname "$0")/lib.sh"

triple=$(rustc -vV | sed -n 's/^host: //p')
target=${CARGO_TARGET_DIR:-target}
agent=$target/$triple/agent/nagaya-agent
room_uid=$(id -u)
[ "$room_uid" != 0 ] || room_uid=1000
# Certificates that only this host knows, for builds behind a TLS-inspecting proxy; give a PEM file.
extra_ca=${NAGAYA_EXTRA_CA:-}

mkdir -p "$target"
# Two at once would share the build's context.
exec 9>"$target/image.lock"
flock 9

step "Compiling the agent (static)"
RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked -p nagaya-agent --profile agent --target "$triple"

inputs=$({
  cat "$agent" workspace-base/Dockerfile workspace-base/node-proxy.js workspace-base/requirements.txt ${extra_ca:+"$extra_ca"}
  echo "$room_uid $BASE_IMAGE"
} | sha256sum | cut -c1-16)
if [ "$(docker image inspect -f '{{index .Config.Labels "nagaya.image.inputs"}}' "$IMAGE" 2>/dev/null)" = "$inputs" ]; then
  step "Image $IMAGE is up to date"
  exit 0
fi

scripts/base-image.sh

# The CLI comes out of a wheel of the Python package index, pinned by version and hash.
cli_dir=$target/claude-cli/$(sha256sum workspace-base/requirements.txt | cut -c1-16)
if [ ! -x "$cli_dir/claude" ]; then
  step "Fetching the Claude Code CLI (pinned, hash-checked; about 180 MB)"
  python3 -m pip --version >/dev/null 2>&1 || { can_install && apt_install python3-pip; } ||
    die "python3 with pip is missing. Install it, e.g.: sudo apt-get install python3-pip"
  wheels=$(mktemp -d)
  trap 'rm -rf "$wheels"' EXIT
  python3 -m pip download --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary=:all: \
    --dest "$wheels" -r workspace-base/requirements.txt
  mkdir -p "$cli_dir"
  python3 -m zipfile -e "$wheels"/claude_agent_sdk-*.whl "$wheels/unpacked"
  install -m 0755 "$wheels/unpacked/claude_agent_sdk/_bundled/claude" "$cli_dir/claude.new"
  mv "$cli_dir/claude.new" "$cli_dir/claude"
fi

step "Building $IMAGE (the first time some minutes; the CLI alone has 400 MB)"
context=$target/image-context
rm -rf "$context"
mkdir -p "$context/extra-ca"
cp workspace-base/Dockerfile workspace-base/node-proxy.js "$context/"
# Links cost nothing; across file systems a copy is needed.
cp -l "$cli_dir/claude" "$context/claude" 2>/dev/null || cp "$cli_dir/claude" "$context/claude"
cp "$agent" "$context/nagaya-agent"
touch "$context/extra-ca/none"
[ -z "$extra_ca" ] || cp "$extra_ca" "$context/extra-ca/extra.crt"
docker build --build-arg BASE_IMAGE="$BASE_IMAGE" --build-arg ROOM_UID="$room_uid" --build-arg INPUTS="$inputs" \
  ${extra_ca:+--build-arg REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt} \
  -t "$IMAGE" "$context"
rm -rf "$context"
# What this one has taken the name of; rooms that still run from it keep it.
docker image prune -f --filter label=nagaya.image.inputs >/dev/null
