#!/usr/bin/env bash
# Writes the generated files of docs/. Tests fail if they are out of date.
. "$(dirname "$0")/lib.sh"
write() { # FILE COMMAND…
  local file=$1
  shift
  "$@" >"$file.new"
  mv "$file.new" "$file"
  step "$file is written"
}
write docs/openapi.json "$(bin nagaya)" openapi
write docs/conformance-catalogue.md "$(bin nagaya-conformance)" list --markdown
