#!/usr/bin/env bash
# Removes what up.sh created: containers, workspaces, network, secrets, database and directories.
#   KEEP_DATA=1   keeps volumes and secrets for the next up
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/compose.sh"
require_compose
[ -e "$env_file" ] || die "No deployment is up: there is no $env_file. COMPOSE_PROJECT_NAME names another than \"$project\"."
# Services of every profile, whichever were started.
export COMPOSE_PROFILES=demo,monitoring,grafana

step "Stopping"
compose stop
# Workspaces stay when the server stops, for the next start to adopt.
workspaces | xargs -r docker rm -fv >/dev/null
if [ "${KEEP_DATA:-0}" = 1 ]; then
  compose down --remove-orphans
  rm -rf -- "$compose_dir/sockets"
else
  compose down --volumes --remove-orphans
  rm -rf -- "$compose_dir"
  rmdir --ignore-fail-on-non-empty "$(dirname "$compose_dir")"
fi
echo "down: ok"
