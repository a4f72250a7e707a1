#!/usr/bin/env bash
# The images that tests use beside the one of workspaces: server, scripted model, PostgreSQL, Redis.
. "$(dirname "$0")/lib.sh"
NAGAYA_PROFILE=debug scripts/server-image.sh
scripts/service-images.sh
