# What the scripts have in common; each sources this first. Strict mode, the repository's root as working directory.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

IMAGE=${CONTAINER_IMAGE:-workspace-base:latest}
BASE_IMAGE=${BASE_IMAGE:-nagaya/debian:bookworm}

step() { printf '\n==> %s\n' "$*"; }
die() {
  printf '\nerror: %s\n' "$*" >&2
  exit 1
}

# Whether missing packages can simply be installed: root on a Debian-like system.
can_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

apt_install() {
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# The same, and none of the services in the packages is started (policy-rc.d: invoke-rc.d(8), deb-systemd-invoke(1p)).
apt_install_idle() {
  local policy=/usr/sbin/policy-rc.d
  if [ -e "$policy" ]; then
    apt_install "$@"
    return
  fi
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod +x "$policy"
  apt_install "$@" || { rm -f "$policy"; return 1; }
  rm -f "$policy"
}

docker_answers() { timeout 5 docker version --format '{{.Server.APIVersion}}' >/dev/null 2>&1; }

has_image() { docker image inspect "$1" >/dev/null 2>&1; }

# wait_until SECONDS COMMAND… : whether the command came true in time.
wait_until() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.05
  done
}

# Whose the processes in images are: uid 1000's, or those of the ordinary user who builds.
image_uid() { if [ "$(id -u)" = 0 ]; then echo 1000; else id -u; fi; }

# server_tag PROFILE : under which tag the server's image of that profile lies.
server_tag() { if [ "$1" = release ]; then echo latest; else echo "$1"; fi; }

rust_version() { sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml; }

bin() { echo "${CARGO_TARGET_DIR:-target}/debug/$1"; }

# Where rooms' sockets lie: the server's default for root, else a short path of the user's own.
socket_base() {
  if [ "$(id -u)" = 0 ]; then echo /var/run/workspace-sockets; else echo "${XDG_RUNTIME_DIR:-/tmp/nagaya-$(id -u)}/ws"; fi
}

# Where `make serve` keeps its state and logs.
stack_state_dir() { echo "${XDG_STATE_HOME:-$HOME/.local/state}/nagaya-serve"; }
