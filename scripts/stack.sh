# Starts the scripted model and the server; sourced by demo.sh and serve.sh. Both are children of the calling script and
# end with it.
stack_dir=$(stack_state_dir)
pids=()

stack_stop() {
  local status=$?
  trap - EXIT INT TERM
  # In reverse: the server first, which still needs the model for what is going on.
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
    kill -TERM "${pids[i]}" 2>/dev/null || continue
    wait "${pids[i]}" 2>/dev/null || true
  done
  exit "$status"
}

stack_model() { # starts the scripted model; sets what makes the server use it
  mkdir -p "$stack_dir"
  rm -f "$stack_dir"/{model.addr,control.addr,model-ca.pem}
  # Keys of the scripted model's own: it accepts exactly what is signed with them.
  AWS_ACCESS_KEY_ID=AKIDNAGAYADEMO
  AWS_SECRET_ACCESS_KEY=$(head -c 30 /dev/urandom | base64 | tr -d '/+=')
  export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
  unset AWS_SESSION_TOKEN AWS_PROFILE
  "$(bin nagaya-fixtures)" model --listen 127.0.0.1:0 --addr-file "$stack_dir/model.addr" \
    --ca-out "$stack_dir/model-ca.pem" --control-listen 127.0.0.1:0 --control-addr-file "$stack_dir/control.addr" \
    --access-key-id "$AWS_ACCESS_KEY_ID" --secret-access-key "$AWS_SECRET_ACCESS_KEY" --default-script demo \
    2>"$stack_dir/model.log" &
  pids+=($!)
  wait_until 10 test -s "$stack_dir/model.addr" -a -s "$stack_dir/control.addr" ||
    die "The scripted model does not start; see $stack_dir/model.log"
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
  if ! wait_until 20 test -s "$stack_dir/server.addr"; then
    tail -n 5 "$stack_dir/server.log" >&2
    die "The server does not start; its log: $stack_dir/server.log"
  fi
}
