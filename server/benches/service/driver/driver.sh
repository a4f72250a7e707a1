#!/bin/sh
# Stands for the Claude Code CLI. Its prompt: how many pieces of text, and the pause between two, in seconds.
read -r pieces pause
session=00000000-0000-4000-8000-000000000000
echo '{"type":"system","subtype":"init","session_id":"'$session'","model":"bench","tools":[]}'
piece='{"type":"stream_event","event":{"type":"content_block_delta","delta":{"type":"text_delta","text":"word "}}}'
if [ -n "$pause" ]; then
  while [ "$pieces" -gt 0 ]; do
    sleep "$pause"
    echo "$piece"
    pieces=$((pieces - 1))
  done
else
  yes "$piece" | head -n "$pieces"
fi
echo '{"type":"result","subtype":"success","is_error":false,"result":"done","session_id":"'$session'","num_turns":1,"usage":{"output_tokens":1}}'
