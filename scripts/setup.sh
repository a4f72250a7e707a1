#!/usr/bin/env bash
# Finds or installs what a make target needs. As root on Debian it installs what is missing; elsewhere it says what to do.
#   scripts/setup.sh build|demo|up|test|check      each includes those before it; without an argument: test
. "$(dirname "$0")/lib.sh"

CARGO_DENY=0.20.2

target=${1:-test}
case $target in
  build) needs=(build) ;;
  demo) needs=(build demo) ;;
  up) needs=(build demo up) ;;
  test) needs=(build demo up test) ;;
  check) needs=(build demo up test check) ;;
  *) die "setup.sh $target: accepted: build, demo, up, test, check" ;;
esac

# Everything that is missing is installed by one call of apt-get, or named by one message.
packages=() reasons=()
need() { # PACKAGE REASON COMMAND… : the package is needed unless every command is there
  local package=$1 reason=$2 command
  shift 2
  for command in "$@"; do
    command -v "$command" >/dev/null || { packages+=("$package"); reasons+=("$package: $reason"); return 0; }
  done
}
python_has() { python3 -c "import $1" 2>/dev/null; }
missing() { packages+=("$1"); reasons+=("$1: $2"); }

needs_build() {
  need build-essential "crates that build C need a compiler" cc
}
needs_demo() {
  need curl "base-image.sh and serve.sh ask servers with it" curl
  need docker.io "every workspace is a container" docker
  python_has pip || missing python3-pip "the Claude Code CLI comes in a Python package"
}
needs_up() {
  docker compose version >/dev/null 2>&1 || need docker-compose "brings up the server, PostgreSQL and Redis" docker-compose
}
needs_test() {
  need git "tests clone a repository" git
  need chromium "a test opens the HTML report in a browser" chromium
  need chromium-driver "a test opens the HTML report in a browser" chromedriver
  need redis-server "tests start servers of their own" redis-server
  need prometheus "alerts and dashboard are tested against one" prometheus promtool
  need prometheus-alertmanager "alerts are sent on by one in a test" prometheus-alertmanager amtool
  python_has ensurepip || missing python3-venv "schemathesis is installed into a virtual environment"
  python_has yaml || missing python3-yaml "the workflows in .github are parsed by a test"
  compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing postgresql "tests start servers of their own"
}
needs_check() {
  need shellcheck "lints the scripts" shellcheck
}
for need in "${needs[@]}"; do "needs_$need"; done

if [ "${#packages[@]}" -gt 0 ]; then
  can_install || die "packages are missing:
$(printf '  %s\n' "${reasons[@]}")
Install them, e.g.: sudo apt-get install ${packages[*]}"
  step "Installing ${packages[*]}"
  # Debian would make a PostgreSQL cluster and start it.
  [ -e /etc/postgresql-common/createcluster.conf ] || {
    as_root mkdir -p /etc/postgresql-common
    echo 'create_main_cluster = false' | as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
  }
  apt_install "${packages[@]}"
  for package in "${packages[@]}"; do
    case $package in redis-server | prometheus | prometheus-alertmanager) disable_services "$package" ;; esac
  done
fi

command -v cargo >/dev/null || die "cargo is missing. Install Rust $(rust_version) or later, e.g. with rustup."
have=$(rustc --version | awk '{print $2}')
printf '%s\n%s\n' "$(rust_version)" "${have%%-*}" | sort -V -C ||
  die "Rust $have is too old: $(rust_version) or later is needed. With rustup: rustup update stable"

for need in "${needs[@]}"; do
  if [ "$need" = test ] && ! cargo nextest --version >/dev/null 2>&1; then
    step "Installing cargo-nextest, which runs the tests (once; some minutes)"
    cargo install --locked --quiet cargo-nextest
  fi
  if [ "$need" = check ] && ! cargo deny --version >/dev/null 2>&1; then
    step "Installing cargo-deny $CARGO_DENY, which reads the dependencies' licences (once; some minutes)"
    # Unoptimised, which takes half the time; it checks this project's dependencies in seconds all the same.
    CARGO_PROFILE_DEV_DEBUG=0 cargo install --locked --quiet --debug cargo-deny --version "$CARGO_DENY" ||
      die "cargo-deny cannot be installed. Put a built cargo-deny $CARGO_DENY on the search path, or run the other lints:
scripts/check.sh clippy docs shell"
  fi
done

[ "$target" != build ] || exit 0
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
