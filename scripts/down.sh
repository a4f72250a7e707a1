#!/usr/bin/env bash
# Takes down what up.sh brought up: containers, rooms, network, and with them secrets, database and directories.
#   KEEP_DATA=1   keeps volumes and secrets, for the next up
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/compose.sh"
require_compose
[ -e "$env_file" ] || die "Nothing is up: there is no $env_file."
# Of every profile, whichever was up.
export COMPOSE_PROFILES=demo,monitoring,grafana

step "Stopping"
compose stop
# Those that an upgrade would have found again.
rooms | xargs -r docker rm -fv >/dev/null
if [ "${KEEP_DATA:-0}" = 1 ]; then
  compose down --remove-orphans
  rm -rf -- "$compose_dir/sockets"
else
  compose down --volumes --remove-orphans
  rm -rf -- "$compose_dir"
  rmdir --ignore-fail-on-non-empty "$(dirname "$compose_dir")"
fi
echo "down: ok"
