#!/usr/bin/env bash
# Writes the catalogue page of the docs anew. A test fails while it is stale.
. "$(dirname "$0")/lib.sh"
"$(bin nagaya-conformance)" list --markdown > docs/conformance-catalogue.md.new
mv docs/conformance-catalogue.md.new docs/conformance-catalogue.md
