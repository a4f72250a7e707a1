#!/usr/bin/env bash
# Writes what of docs/ is generated from the programs. Tests fail where it is stale.
. "$(dirname "$0")/lib.sh"
"$(bin nagaya)" openapi >docs/openapi.json.new
mv docs/openapi.json.new docs/openapi.json
step "docs/openapi.json is up to date"
