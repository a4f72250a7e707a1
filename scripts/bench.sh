#!/usr/bin/env bash
# Measures the egress proxy beside its peers (docs/performance.md). As root on Debian it installs the peers that are missing;
# elsewhere it says which. Nothing is left running: the benchmark starts its own, with configurations of its own.
#   FILTER=bulk   only tables whose name contains this      ROUNDS=7   rounds
. "$(dirname "$0")/lib.sh"
PATH=$PATH:/usr/sbin:/sbin

missing=()
for peer in socat:socat squid:squid tinyproxy:tinyproxy nginx:nginx-light; do
  command -v "${peer%%:*}" >/dev/null || missing+=("${peer#*:}")
done

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

if [ "${#missing[@]}" -gt 0 ]; then
  can_install || die "peers to compare with are missing. Install them, e.g.: sudo apt-get install ${missing[*]}"
  step "Installing ${missing[*]}"
  install_quietly "${missing[@]}"
fi

step "Compiling the benchmark"
cargo bench --locked --no-run -p nagaya-egress --bench egress
step "Measuring"
BENCH_COMMIT=$(git rev-parse --short HEAD 2>/dev/null || true)
export BENCH_COMMIT
exec cargo bench --locked --quiet -p nagaya-egress --bench egress -- \
  --filter "${FILTER:-}" --rounds "${ROUNDS:-7}" --out "$PWD/target/bench"
