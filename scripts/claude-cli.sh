#!/usr/bin/env bash
# The Claude Code CLI, taken out of a wheel of the Python package index that is pinned by version and hash;
# with CLI=oldest the oldest one that is supported.
#   scripts/claude-cli.sh path       where it is, or would be
#   scripts/claude-cli.sh fetch      fetches it unless it is there
. "$(dirname "$0")/lib.sh"

dir=$TARGET_DIR/claude-cli/$(sha256sum "$CLI_REQUIREMENTS" | cut -c1-16)
case ${1:-} in
  path) echo "$dir/claude"; exit 0 ;;
  fetch) [ ! -x "$dir/claude" ] || exit 0 ;;
  *) die "claude-cli.sh: accepted: path, fetch" ;;
esac
step "Fetching the Claude Code CLI (pinned, hash-checked; about 180 MB)"
python3 -m pip --version >/dev/null 2>&1 || die "python3 with pip is missing; scripts/setup.sh demo installs it."
mkdir -p "$dir"
wheels=$(mktemp -d -p "$dir")
trap 'rm -rf "$wheels"' EXIT
python3 -m pip download --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary=:all: \
  --dest "$wheels" -r "$CLI_REQUIREMENTS"
python3 -m zipfile -e "$wheels"/claude_agent_sdk-*.whl "$wheels/unpacked"
chmod 0755 "$wheels/unpacked/claude_agent_sdk/_bundled/claude"
mv "$wheels/unpacked/claude_agent_sdk/_bundled/claude" "$dir/claude"
