#!/usr/bin/env bash
# Writes what of docs/ is generated from the programs. Tests fail where it is stale.
. "$(dirname "$0")/lib.sh"
write() { # FILE COMMAND…
  local file=$1
  shift
  "$@" >"$file.new"
  mv "$file.new" "$file"
  step "$file is up to date"
}
write docs/openapi.json "$(bin nagaya)" openapi
write docs/conformance-catalogue.md "$(bin nagaya-conformance)" list --markdown
