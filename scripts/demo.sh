#!/usr/bin/env bash
# One conversation end to end: scripted model, server, a locked workspace with the real CLI in it, and the proof.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/stack.sh"

stack_dir=$(mktemp -d)
stack_dir_is_temporary=yes
step "Running one conversation"
stack_model
export BIND_ADDR=127.0.0.1:0 SHUTDOWN_WORKSPACES=destroy WARM_POOL_MIN_SIZE=0 WARM_POOL_MAX_SIZE=1
stack_server
"$(bin nagaya-fixtures)" demo --server "http://$(cat "$stack_dir/server.addr")" \
  --model-control "http://$(cat "$stack_dir/control.addr")"
