# Shared by up.sh and down.sh, which source it.
# shellcheck shell=bash
project=${COMPOSE_PROJECT_NAME:-nagaya}
if [ "$(id -u)" = 0 ]; then
  compose_dir=${NAGAYA_COMPOSE_DIR:-/var/lib/nagaya}/$project
else
  compose_dir=${NAGAYA_COMPOSE_DIR:-${XDG_STATE_HOME:-$HOME/.local/state}/nagaya-compose}/$project
fi
# Secrets and settings of this machine. A user who can read this file can use Docker, and so read the containers' environment too.
env_file=$compose_dir/env

compose() {
  local program=(docker-compose)
  ! docker compose version >/dev/null 2>&1 || program=(docker compose)
  COMPOSE_PROJECT_NAME=$project "${program[@]}" --env-file "$env_file" -f compose.yaml "$@"
}

require_compose() {
  docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null || { can_install && apt_install docker-compose; } ||
    die "Compose is missing. Install Docker's plugin, or docker-compose 1.28 or later."
}

# Containers of workspaces are not managed by Compose; their label says that they belong to this deployment.
workspaces() { docker ps -aq --filter "label=nagaya.deployment=$project"; }
