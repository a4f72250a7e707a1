#!/usr/bin/env bash
# One conversation end to end — scripted model, server, locked room, the real CLI in it — and the proof.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/stack.sh"
trap stack_stop EXIT
trap 'exit 130' INT TERM

stack_dir=$(mktemp -d)
trap 'rm -rf "$stack_dir"; stack_stop' EXIT
stack_model
export BIND_ADDR=127.0.0.1:0 SHUTDOWN_WORKSPACES=destroy WARM_POOL_MIN_SIZE=0 WARM_POOL_MAX_SIZE=1
stack_server
"$(bin nagaya-fixtures)" demo --server "http://$(cat "$stack_dir/server.addr")" \
  --model-control "http://$(cat "$stack_dir/control.addr")"
