#!/usr/bin/env bash
# Tells how the Debian packages of the workspace image differ from those of workspace-base/packages.txt, with which it was last tested.
# Debian mends packages in place, so an image that is built later has later versions: that is meant, and to be seen.
#   scripts/packages.sh [--write]      --write makes the image's packages those of the file
. "$(dirname "$0")/lib.sh"

manifest=workspace-base/packages.txt
found=$(docker run --rm --network none --entrypoint dpkg-query "$IMAGE" --show --showformat '${Package}:${Architecture} ${Version}\n')
if [ "${1:-}" = --write ]; then
  echo "$found" >"$manifest"
  exit 0
fi
differences=$(diff --unified=0 "$manifest" <(echo "$found") | grep '^[-+][^-+]' || true)
if [ -z "$differences" ]; then
  step "Debian packages: $(echo "$found" | wc -l), the versions of $manifest"
else
  step "Debian packages that differ from $manifest (+ in the image, - in the file):"
  echo "$differences" | head -n 40
fi
