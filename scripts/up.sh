#!/usr/bin/env bash
# Starts server, PostgreSQL and Redis with Compose, and waits until runs can start. With another image it is an upgrade.
#   PROFILES=demo,monitoring   also a scripted model, Prometheus
#   NAGAYA_IMAGE=…             the server's image; without it the server is compiled and its image built
#   ALERT_WEBHOOK_URL=…        where alerts go (profile monitoring), or by mail:
#   ALERT_MAIL_TO=… ALERT_MAIL_FROM=… ALERT_MAIL_SERVER=HOST:PORT
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/compose.sh"
require_compose

secret() { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
PROFILES=${PROFILES:-}
for profile in ${PROFILES//,/ }; do
  case $profile in
    demo | monitoring | grafana) ;;
    *) die "PROFILES=$PROFILES: \"$profile\" is no profile; accepted: demo, monitoring, grafana, separated by commas." ;;
  esac
done
COMPOSE_PROFILES=$(tr -s ' ,' ',' <<<"${PROFILES:-}")
export COMPOSE_PROFILES
profiles=,$COMPOSE_PROFILES,
wants() { [[ $profiles = *,$1,* ]]; }

mkdir -p "$compose_dir/sockets"
docker_group=$(stat -Lc %g "${DOCKER_SOCKET:-/var/run/docker.sock}")
# Takes precedence over the file: a reinstalled engine may have another group.
export DOCKER_GID=$docker_group
if [ ! -e "$env_file" ]; then
  step "Generating secrets: $env_file"
  (
    umask 077
    cat >"$env_file.new" <<ENV
API_KEYS=$(secret),@metrics:$(secret)
POSTGRES_PASSWORD=$(secret)
REDIS_PASSWORD=$(secret)
MODEL_SECRET=$(secret)
DEPLOYMENT_ID=$project
DOCKER_GID=$docker_group
NAGAYA_UID=$(image_uid)
WORKSPACE_SOCKET_HOST_PATH=$compose_dir/sockets
PROMETHEUS_CONFIG=$compose_dir/prometheus
ALERTMANAGER_CONFIG=$compose_dir/alertmanager
ENV
    mv "$env_file.new" "$env_file"
  )
fi
[ "$(id -u)" != 0 ] || chown "$(image_uid):$(image_uid)" "$compose_dir/sockets"

if [ -z "${NAGAYA_IMAGE:-}" ]; then
  scripts/server-image.sh
  tag=$(server_tag "${NAGAYA_PROFILE:-release}")
  export NAGAYA_IMAGE=nagaya/server:$tag MODEL_IMAGE=${MODEL_IMAGE:-nagaya/model:$tag}
fi
# What the server is to have, but not more than the engine lets a container have: it would refuse to start one.
if [ -z "${NAGAYA_NOFILE:-}" ]; then
  NAGAYA_NOFILE=$(docker run --rm --network none --entrypoint sh "$NAGAYA_IMAGE" -c 'ulimit -Hn')
  { [ "$NAGAYA_NOFILE" != unlimited ] && [ "$NAGAYA_NOFILE" -lt 65536 ]; } || NAGAYA_NOFILE=65536
  export NAGAYA_NOFILE
fi
services=(postgres redis)
! wants monitoring || services+=(prometheus alertmanager)
scripts/service-images.sh "${services[@]}"

if wants monitoring; then
  # A file of an earlier version may lack them.
  grep -q '^ALERTMANAGER_CONFIG=' "$env_file" || echo "ALERTMANAGER_CONFIG=$compose_dir/alertmanager" >>"$env_file"
  grep -q '^API_KEYS=.*@metrics:' "$env_file" || sed -i "s/^API_KEYS=.*/&,@metrics:$(secret)/" "$env_file"
  # In production /metrics requires a key, which the repository's file cannot contain.
  rm -rf "$compose_dir/prometheus"
  mkdir "$compose_dir/prometheus"
  cp deploy/prometheus/*.yml "$compose_dir/prometheus/"
  sed -i 's/^    # \(authorization:\)/    \1/; s/^    #   \(credentials_file:\)/      \1/' "$compose_dir/prometheus/prometheus.yml"
  (
    umask 077
    sed -n 's/^API_KEYS=.*@metrics:\([^,]*\).*/\1/p' "$env_file" | tr -d '\n' >"$compose_dir/prometheus/nagaya-key"
  )
  scripts/alertmanager-config.sh "$compose_dir/alertmanager"
  [ "$(id -u)" != 0 ] || chown -R "$(image_uid):$(image_uid)" "$compose_dir/prometheus" "$compose_dir/alertmanager"
fi
if wants demo; then
  # The scripted model has keys of its own and accepts only what is signed with them.
  AWS_ACCESS_KEY_ID=AKIDNAGAYADEMO
  AWS_SECRET_ACCESS_KEY=$(sed -n 's/^MODEL_SECRET=//p' "$env_file")
  # It answers to Bedrock's names inside this project's network. Its addresses are private, which the proxy refuses unless allowed.
  PROXY_ALLOWED_NETWORKS=${PROXY_ALLOWED_NETWORKS:-10.0.0.0/8,172.16.0.0/12,192.168.0.0/16}
  PROXY_EXTRA_CA_FILE=/var/lib/nagaya-model/ca.pem
  export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY PROXY_ALLOWED_NETWORKS PROXY_EXTRA_CA_FILE
  step "Starting the scripted model"
  compose up -d model
  # The server reads its certificate when it starts.
  wait_until 60 compose exec -T model test -s /var/lib/nagaya-model/ca.pem || die "The scripted model does not start: $(compose logs --tail 5 model)"
fi
step "Starting the server, PostgreSQL and Redis"
compose up -d
wait_until "${UP_TIMEOUT:-90}" compose exec -T server nagaya health >/dev/null 2>&1 ||
  die "Not ready: $(compose exec -T server nagaya health 2>&1)
$(compose logs --no-color --tail 20 server)"
address=$(compose port server 8000)
cat <<TEXT

up: http://$address is ready. Its operator's key is the first of API_KEYS in $env_file:

  curl -s http://$address/health
  curl -s -H "Authorization: Bearer \$(sed -n 's/^API_KEYS=\\([^,]*\\).*/\\1/p' $env_file)" http://$address/api/admin/workspaces

make down removes all of it, with the data; KEEP_DATA=1 keeps the data.
TEXT
