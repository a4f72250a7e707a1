#!/usr/bin/env bash
# Measures rooms, and the egress proxy beside its peers (docs/performance.md). As root on Debian it installs the peers that are
# missing; elsewhere it says which. Nothing is left running: each benchmark starts its own, with configurations of its own.
#   FILTER=bulk   only tables whose name contains this      ROUNDS=7   rounds
. "$(dirname "$0")/lib.sh"
PATH=$PATH:/usr/sbin:/sbin

# These packages start services when they are installed, which is not wanted: neither now nor at the next start.
install_quietly() {
  local policy=/usr/sbin/policy-rc.d package
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  apt_install "$@"
  for package in "$@"; do
    if [ -d /run/systemd/system ] && [ "$package" != socat ]; then
      systemctl disable --quiet --now "${package%-light}" || die "${package%-light} was started and cannot be stopped"
    fi
  done
  [ ! "$(trap -p EXIT)" ] || rm -f "$policy"
  trap - EXIT
}

install_peers() {
  local missing=() peer
  for peer in socat:socat squid:squid tinyproxy:tinyproxy nginx:nginx-light; do
    command -v "${peer%%:*}" >/dev/null || missing+=("${peer#*:}")
  done
  [ "${#missing[@]}" -gt 0 ] || return 0
  can_install || die "peers to compare with are missing. Install them, e.g.: sudo apt-get install ${missing[*]}"
  step "Installing ${missing[*]}"
  install_quietly "${missing[@]}"
}

# Always of both packages, whose dependencies are then compiled once.
bench() { cargo bench --locked -p nagaya-server -p nagaya-egress "$@"; }

step "Compiling the benchmarks"
bench --no-run --bench rooms --bench service --bench egress
FILTER=${FILTER:-}
BENCH_COMMIT=$(git rev-parse --short HEAD 2>/dev/null || true)
export BENCH_COMMIT
tables= status=0
for name in rooms service egress; do
  listed=$(bench --quiet --bench "$name" -- --list)
  tables+=" $listed"
  grep -qF -- "$FILTER" <<<"$listed" || continue
  measured=yes
  if [ "$name" = rooms ]; then
    has_image "$IMAGE" || die "There is no image $IMAGE; make image builds it."
  elif [ "$name" = service ]; then
    has_image "$IMAGE" || die "There is no image $IMAGE; make image builds it."
    step "Building rooms whose driver says what it is told to"
    docker build --quiet --build-arg IMAGE="$IMAGE" -t nagaya/bench-driver:latest server/benches/service/driver >/dev/null
  else
    install_peers
  fi
  step "Measuring: $name"
  # What could not be measured fails the whole, but hinders no other.
  bench --quiet --bench "$name" -- --filter "$FILTER" --rounds "${ROUNDS:-7}" --out "$PWD/target/bench" || status=1
done
[ "${measured:-}" ] || die "no table is called \"$FILTER\"; there are" $tables
exit "$status"
