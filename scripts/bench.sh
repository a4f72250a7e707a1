#!/usr/bin/env bash
# Measures workspaces, the service, and the egress proxy beside its peers (docs/performance.md). As root on Debian it installs
# missing peers; elsewhere it names them. Each benchmark starts and stops its own peers, with configurations of its own.
#   FILTER=bulk   only tables whose name contains this      ROUNDS=7   rounds
. "$(dirname "$0")/lib.sh"
PATH=$PATH:/usr/sbin:/sbin

install_peers() {
  local missing=() peer package
  for peer in socat:socat squid:squid tinyproxy:tinyproxy nginx:nginx-light; do
    command -v "${peer%%:*}" >/dev/null || missing+=("${peer#*:}")
  done
  [ "${#missing[@]}" -gt 0 ] || return 0
  can_install || die "peers to compare with are missing. Install them, e.g.: sudo apt-get install ${missing[*]}"
  step "Installing ${missing[*]}"
  apt_install "${missing[@]}"
  for package in "${missing[@]}"; do
    [ "$package" = socat ] || disable_services "${package%-light}"
  done
}

# Always of the whole workspace, so that dependencies are compiled once (scripts/build.sh).
bench() { cargo bench --locked --workspace "$@"; }

step "Compiling the benchmarks"
bench --no-run --bench rooms --bench service --bench turns --bench egress
FILTER=${FILTER:-}
BENCH_COMMIT=$(git rev-parse --short HEAD 2>/dev/null || true)
export BENCH_COMMIT
tables='' status=0
for name in rooms service turns egress; do
  listed=$(bench --quiet --bench "$name" -- --list)
  tables+=" $listed"
  grep -qF -- "$FILTER" <<<"$listed" || continue
  measured=yes
  case $name in
    rooms | service | turns) has_image "$IMAGE" || die "There is no image $IMAGE. Build it: make image" ;;
    egress) install_peers ;;
  esac
  step "Measuring: $name"
  # A benchmark that cannot measure fails the whole, and the others still run.
  bench --quiet --bench "$name" -- --filter "$FILTER" --rounds "${ROUNDS:-7}" --out "$(realpath -m "$TARGET_DIR")/bench" || status=1
done
[ "${measured:-}" ] || die "No table's name contains \"$FILTER\". Tables: $(xargs <<<"$tables")"
exit "$status"
