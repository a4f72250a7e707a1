#!/usr/bin/env bash
# Names the images of a release, and pushes them with PUSH=1.
#   IMAGE_PREFIX=registry.example/owner/nagaya   VERSION=v0.2.0 (the git tag)
. "$(dirname "$0")/lib.sh"

[ -n "${IMAGE_PREFIX:-}" ] || die "IMAGE_PREFIX is not set. It says where the images go, for example registry.example/owner/nagaya."
[ -n "${VERSION:-}" ] || die "VERSION is not set. It becomes the images' tag, for example v0.2.0."
NAGAYA_PROFILE=release scripts/server-image.sh
NAGAYA_PROFILE=release scripts/conformance-image.sh
for pair in "server:nagaya/server:latest" "workspace:$IMAGE" "conformance:${CONFORMANCE_IMAGE:-nagaya/conformance:latest}"; do
  name=$IMAGE_PREFIX/${pair%%:*}:$VERSION
  step "$name"
  docker tag "${pair#*:}" "$name"
  [ "${PUSH:-}" != 1 ] || docker push --quiet "$name"
done
