#!/usr/bin/env bash
# Removes every container, image and socket directory of this project from this machine, and a deployment by Compose.
# Nothing else is touched: containers are found by the label nagaya.deployment, images by label and name.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/compose.sh"
[ ! -e "$env_file" ] || scripts/down.sh
step "Removing containers"
docker ps -aq --filter label=nagaya.deployment | xargs -r docker rm -f >/dev/null
step "Removing images"
ours() {
  {
    docker images -q --filter label=nagaya.image.inputs
    docker images -q 'nagaya/*'
  } | sort -u
}
# Docker removes no image before those that are built on it, and names them in no order.
before=0 why=''
while images=$(ours) && [ -n "$images" ]; do
  [ "$(wc -l <<<"$images")" != "$before" ] || die "Images are left: $why"
  before=$(wc -l <<<"$images")
  why=$(xargs docker rmi -f <<<"$images" 2>&1 >/dev/null) || true
done
step "Removing socket and state directories"
rm -rf -- "$(socket_base)" "$(stack_state_dir)"
echo "clean-host: ok"
