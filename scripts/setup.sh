#!/usr/bin/env bash
# Finds or installs what building and running needs: a C compiler, Rust, cargo-nextest, a Docker engine.
# As root on Debian it installs what is missing; elsewhere it says what to do.
. "$(dirname "$0")/lib.sh"

need_package() { # COMMAND PACKAGE WHY
  command -v "$1" >/dev/null && return
  can_install || die "$1 is missing ($3). Install it, e.g.: sudo apt-get install $2"
  step "Installing $2 ($3)"
  apt_install "$2"
}

need_package cc build-essential "crates that build C need a compiler"
need_package curl curl "to talk to the server by hand"
need_package git git "tests clone a repository from it"
need_package chromedriver chromium-driver "the report's page is opened in a real browser by a test"
need_package chromium chromium "the report's page is opened in a real browser by a test"
need_package redis-server redis-server "tests share state over a real one"
docker compose version >/dev/null 2>&1 ||
  need_package docker-compose docker-compose "the server and what it needs are brought up by it"
if ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; then
  can_install || die "PostgreSQL is missing (tests start servers of their own). Install it, e.g.: sudo apt-get install postgresql"
  step "Installing postgresql (tests start servers of their own)"
  # The cluster that Debian would make and start is nobody's here.
  [ -e /etc/postgresql-common/createcluster.conf ] ||
    { mkdir -p /etc/postgresql-common && echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf; }
  apt_install postgresql
fi
if ! command -v promtool >/dev/null || ! command -v prometheus >/dev/null; then
  can_install || die "Prometheus is missing (alerts and dashboard are tried on one). Install it, e.g.: sudo apt-get install prometheus"
  step "Installing prometheus (alerts and dashboard are tried on one)"
  # The server that Debian would start, now and at each boot, is nobody's here.
  apt_install_idle prometheus
  [ ! -d /run/systemd/system ] || systemctl disable --quiet prometheus
fi
command -v cargo >/dev/null || die "cargo is missing. Install Rust $(rust_version) or later, e.g. with rustup."
have=$(rustc --version | awk '{print $2}')
printf '%s\n%s\n' "$(rust_version)" "${have%%-*}" | sort -V -C ||
  die "Rust $have is too old: $(rust_version) or later is needed. With rustup: rustup update stable"
if ! cargo nextest --version >/dev/null 2>&1; then
  step "Installing cargo-nextest (once; some minutes)"
  cargo install --locked cargo-nextest
fi

docker_answers && exit 0
if ! command -v docker >/dev/null; then
  can_install || die "Docker is missing. Install a Docker engine (API 1.41 or later) and add yourself to its group."
  step "Installing Docker"
  apt_install docker.io
fi
docker_answers && exit 0
if [ -S /var/run/docker.sock ] && [ ! -w /var/run/docker.sock ]; then
  die "No permission on /var/run/docker.sock. Run: sudo usermod -aG docker $(id -un), then log in again."
fi
[ "$(id -u)" = 0 ] || die "Docker does not answer. Start it: sudo systemctl start docker"
step "Starting Docker"
if [ -d /run/systemd/system ]; then systemctl start docker; else
  mkdir -p /var/log
  setsid dockerd >/var/log/nagaya-dockerd.log 2>&1 </dev/null &
fi
wait_until 60 docker_answers || die "Docker does not start. See: journalctl -u docker, or /var/log/nagaya-dockerd.log"
