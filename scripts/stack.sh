# Starts the scripted model and the server; sourced by demo.sh and serve.sh. Both are children of the calling script and
# end with it: this file sets the script's traps, and nothing else may.
# shellcheck shell=bash
stack_dir=$(stack_state_dir)
# Set by a script with a temporary stack_dir, which stack_stop then removes.
stack_dir_is_temporary=
pids=()

# Stops the children, removes a temporary directory after they have ended, and keeps the script's exit status.
stack_stop() {
  local status=$?
  trap - EXIT INT TERM HUP
  # In reverse: the server first, which needs the model until its runs have ended.
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
    kill -TERM "${pids[i]}" 2>/dev/null || continue
    wait "${pids[i]}" 2>/dev/null || true
  done
  [ -z "$stack_dir_is_temporary" ] || rm -rf "$stack_dir"
  exit "$status"
}
trap stack_stop EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

stack_model() { # starts the scripted model; exports the settings that make the server use it
  mkdir -p "$stack_dir"
  rm -f "$stack_dir"/{model.addr,control.addr,model-ca.pem}
  # The scripted model has keys of its own and accepts only what is signed with them.
  AWS_ACCESS_KEY_ID=AKIDNAGAYADEMO
  AWS_SECRET_ACCESS_KEY=$(head -c 30 /dev/urandom | base64 | tr -d '/+=')
  export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
  unset AWS_SESSION_TOKEN AWS_PROFILE
  "$(bin nagaya-fixtures)" model --listen 127.0.0.1:0 --addr-file "$stack_dir/model.addr" \
    --ca-out "$stack_dir/model-ca.pem" --control-listen 127.0.0.1:0 --control-addr-file "$stack_dir/control.addr" \
    --access-key-id "$AWS_ACCESS_KEY_ID" --secret-access-key "$AWS_SECRET_ACCESS_KEY" --default-script demo \
    2>"$stack_dir/model.log" &
  pids+=($!)
  stack_wait_for "The scripted model" "$stack_dir/model.log" "$stack_dir/model.addr" "$stack_dir/control.addr"
  local region=${AWS_REGION:-us-east-1} port
  port=$(sed 's/.*://' "$stack_dir/model.addr")
  export PROXY_RESOLVE="bedrock-runtime.$region.amazonaws.com:443:127.0.0.1:$port,bedrock.$region.amazonaws.com:443:127.0.0.1:$port"
  export PROXY_EXTRA_CA_FILE="$stack_dir/model-ca.pem"
}

stack_server() { # starts the server with the environment as it is
  rm -f "$stack_dir/server.addr"
  mkdir -p "$stack_dir"
  export WORKSPACE_SOCKET_BASE_PATH=${WORKSPACE_SOCKET_BASE_PATH:-$(socket_base)}
  export STATE_DIR=${STATE_DIR:-$stack_dir/state}
  "$(bin nagaya)" serve --addr-file "$stack_dir/server.addr" 2>"$stack_dir/server.log" &
  pids+=($!)
  stack_wait_for "The server" "$stack_dir/server.log" "$stack_dir/server.addr"
}

# stack_wait_for NAME LOG FILE… : waits until the program started last has written the files, or has ended. On failure the end of
# the log is shown, as a temporary directory is removed with the log in it.
stack_wait_for() {
  local name=$1 log=$2 file
  shift 2
  written() { for file in "$@"; do [ -s "$file" ] || return 1; done; }
  # shellcheck disable=SC2317  # wait_until calls it
  written_or_ended() { written "$@" || ! kill -0 "${pids[-1]}" 2>/dev/null; }
  wait_until 20 written_or_ended "$@" && written "$@" && return
  tail -n 5 "$log" >&2
  [ -z "$stack_dir_is_temporary" ] || die "$name does not start; the end of its log is above."
  die "$name does not start; its log: $log"
}
