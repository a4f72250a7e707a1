#!/usr/bin/env bash
# Serves until Ctrl-C, with a scripted model or, with MODEL=anthropic or MODEL=bedrock, a real one; prints how to talk to it.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/stack.sh"
# Ctrl-C, or closing the terminal, is how this command ends; it has not failed then.
trap 'exit 0' INT TERM HUP

provider=bedrock model=${MODEL_ID:-us.anthropic.claude-sonnet-4-5-20250929-v1:0}
case ${MODEL:-scripted} in
  scripted) stack_model ;;
  anthropic)
    [ -n "${ANTHROPIC_API_KEY:-}${ANTHROPIC_AUTH_TOKEN:-}" ] || die "MODEL=anthropic: set ANTHROPIC_API_KEY; for a gateway \
ANTHROPIC_BASE_URL, and ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN."
    export MODEL_PROVIDERS=${MODEL_PROVIDERS:-anthropic}
    provider=anthropic model=${MODEL_ID:-claude-sonnet-4-5-20250929}
    ;;
  # Named, as a key of Anthropic alone would make its API the only provider.
  bedrock) export MODEL_PROVIDERS=${MODEL_PROVIDERS:-bedrock} ;;
  *) die "MODEL=$MODEL: accepted: scripted, anthropic, bedrock" ;;
esac
# Workspaces end with this command, so nothing is left behind.
export SHUTDOWN_WORKSPACES=${SHUTDOWN_WORKSPACES:-destroy}
stack_server
url=http://$(cat "$stack_dir/server.addr")
wait_until 30 curl -sf -o /dev/null "$url/health/ready" || die "Not ready: $(curl -s "$url/health/ready")"
# Only now, as the server listens before it has read or made its id.
deployment=${DEPLOYMENT_ID:-$(cat "$STATE_DIR/deployment-id")}
json='content-type: application/json'
at_provider='"provider":"'$provider'","provider_model_id":"'$model'"'
# From the second start on they exist, and the answer is 409; the model may be at another provider then.
curl -s -o /dev/null -H "$json" "$url/api/models" -d '{"model_id":"sonnet","display_name":"Claude Sonnet",'"$at_provider"',"context_window":200000,"max_output_tokens":64000,"input_token_price":"0.003","output_token_price":"0.015"}'
curl -s -o /dev/null -H "$json" -X PUT "$url/api/models/sonnet" -d "{$at_provider}"
curl -s -o /dev/null -H "$json" "$url/api/tenants" -d '{"tenant_id":"demo","model_id":"sonnet"}'

cat <<TEXT

Serving on $url — API description: $url/docs — log: $stack_dir/server.log
TEXT
if [ "${MODEL:-scripted}" = scripted ]; then
  cat <<TEXT
The model is scripted: it follows a script and calls no one. For a real one: make serve MODEL=anthropic, with ANTHROPIC_API_KEY in the
environment, or make serve MODEL=bedrock, with AWS credentials and AWS_REGION.
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
