#!/usr/bin/env bash
# Serves until Ctrl-C, with a scripted model or, with MODEL=bedrock, the real one; prints how to talk to it.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/stack.sh"
# Ctrl-C, or closing the terminal, is how this command ends; it has not failed then.
trap 'exit 0' INT TERM HUP

case ${MODEL:-scripted} in
  scripted) stack_model ;;
  bedrock) ;;
  *) die "MODEL=$MODEL: accepted: scripted, bedrock" ;;
esac
# Workspaces end with this command, so nothing is left behind.
export SHUTDOWN_WORKSPACES=${SHUTDOWN_WORKSPACES:-destroy}
stack_server
deployment=${DEPLOYMENT_ID:-$(cat "$STATE_DIR/deployment-id")}
url=http://$(cat "$stack_dir/server.addr")
wait_until 30 curl -sf -o /dev/null "$url/health/ready" || die "Not ready: $(curl -s "$url/health/ready")"
model=us.anthropic.claude-sonnet-4-5-20250929-v1:0
json='content-type: application/json'
# From the second start on they exist, and the answer is 409.
curl -s -o /dev/null -H "$json" "$url/api/models" -d '{"model_id":"sonnet","display_name":"Claude Sonnet","bedrock_model_id":"'$model'","context_window":200000,"max_output_tokens":64000,"input_token_price":"0.003","output_token_price":"0.015"}'
curl -s -o /dev/null -H "$json" "$url/api/tenants" -d '{"tenant_id":"demo","model_id":"sonnet"}'

cat <<TEXT

Serving on $url — API description: $url/docs — log: $stack_dir/server.log
TEXT
if [ "${MODEL:-scripted}" = scripted ]; then
  cat <<TEXT
The model is scripted: it follows a script and calls no one. For Bedrock: make serve MODEL=bedrock, with AWS credentials and
AWS_REGION in the environment.
TEXT
fi
cat <<TEXT

A tenant "demo" and a model "sonnet" exist. In another terminal:

  curl -s $url/health
  C=\$(curl -s -H '$json' $url/api/tenants/demo/conversations -d '{"user_id":"me"}' | sed 's/.*"conversation_id":"\([^"]*\)".*/\1/')
  curl -sN -H '$json' $url/api/tenants/demo/conversations/\$C/stream -d '{"user_input":"Write a haiku into haiku.txt"}'
  curl -s $url/api/tenants/demo/conversations/\$C/messages
  curl -s $url/api/admin/workspaces
  docker inspect \$(docker ps -q --filter label=nagaya.deployment=$deployment)
  curl -s -X DELETE $url/api/tenants/demo/conversations/\$C

Ctrl-C, or closing this terminal, stops it and releases every workspace.
TEXT
wait "${pids[-1]}"
