# Shared by all scripts, each of which sources it first: strict mode, the repository's root as working directory, messages.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The Claude Code CLI of the image: the pinned one, or with CLI=oldest the oldest that is supported, in an image of its own.
# shellcheck disable=SC2034  # used by the scripts that source this
case ${CLI:-pinned} in
  pinned) CLI_REQUIREMENTS=workspace-base/requirements.txt ;;
  oldest) CLI_REQUIREMENTS=workspace-base/requirements-oldest.txt CONTAINER_IMAGE=${CONTAINER_IMAGE:-workspace-base:oldest-cli} ;;
  *) echo "CLI=$CLI: accepted: pinned, oldest" >&2; exit 1 ;;
esac
# shellcheck disable=SC2034
IMAGE=${CONTAINER_IMAGE:-workspace-base:latest}
BASE_IMAGE=${BASE_IMAGE:-nagaya/debian:bookworm}
# Cargo accepts a relative target directory and resolves it against its own working directory; ours is always the root.
TARGET_DIR=${CARGO_TARGET_DIR:-target}

# duration SECONDS : "45 s", "3 min 05 s".
duration() {
  if [ "$1" -lt 60 ]; then echo "$1 s"; else printf '%d min %02d s\n' $(($1 / 60)) $(($1 % 60)); fi
}

# step MESSAGE… : says what comes next; inside a target of several stages (scripts/stages.sh) also which stage and how long it took so far.
step() {
  if [ -n "${NAGAYA_STAGE:-}" ]; then
    printf '\n==> [%s · %s] %s\n' "$NAGAYA_STAGE" "$(duration $(($(date +%s) - NAGAYA_STARTED)))" "$*"
  else
    printf '\n==> %s\n' "$*"
  fi
}
die() {
  printf '\nerror: %s\n' "$*" >&2
  exit 1
}

# Whether missing packages can simply be installed: root on a Debian-like system, or a CI runner's user, who has sudo.
can_install() { command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || { [ "${CI:-}" = true ] && sudo -n true 2>/dev/null; }; }; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }

# Installs packages without starting the services in them (policy-rc.d: invoke-rc.d(8), deb-systemd-invoke(1p)).
apt_install() {
  local policy=/usr/sbin/policy-rc.d made='' status=0
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod +x "$policy"
    made=yes
  fi
  {
    as_root apt-get update -qq &&
      as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
  } || status=$?
  [ -z "$made" ] || as_root rm -f "$policy"
  return "$status"
}

# Keeps services that came with packages from starting at the next boot: here they are programs for tests and benchmarks.
disable_services() { [ ! -d /run/systemd/system ] || as_root systemctl disable --quiet --now "$@"; }

docker_answers() { timeout 5 docker version --format '{{.Server.APIVersion}}' >/dev/null 2>&1; }

has_image() { docker image inspect "$1" >/dev/null 2>&1; }

# image_label NAME IMAGE : the value of the label nagaya.image.NAME; nothing if there is no such image.
image_label() { docker image inspect -f "{{index .Config.Labels \"nagaya.image.$1\"}}" "$2" 2>/dev/null || true; }

# wait_until SECONDS COMMAND… : polls until the command succeeds; fails after that time.
wait_until() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.05
  done
}

# The uid of processes in images: 1000, or that of the ordinary user who builds them.
image_uid() { if [ "$(id -u)" = 0 ]; then echo 1000; else id -u; fi; }

# server_tag PROFILE : the tag of the server's image for that build profile.
server_tag() { if [ "$1" = release ]; then echo latest; else echo "$1"; fi; }

rust_version() { sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml; }

bin() { echo "$TARGET_DIR/debug/$1"; }

# Where workspaces' sockets are: the server's default for root, else a short path that belongs to the user.
socket_base() {
  if [ "$(id -u)" = 0 ]; then echo /var/run/workspace-sockets; else echo "${XDG_RUNTIME_DIR:-/tmp/nagaya-$(id -u)}/ws"; fi
}

# Where `make serve` keeps its state and logs.
stack_state_dir() { echo "${XDG_STATE_HOME:-$HOME/.local/state}/nagaya-serve"; }
