#!/usr/bin/env bash
# Provides the images of the services beside the server: pulled if a registry answers, otherwise built from Debian packages.
#   scripts/service-images.sh [postgres] [redis] [prometheus] [alertmanager]      without names: postgres and redis
. "$(dirname "$0")/lib.sh"

[ $# -gt 0 ] || set -- postgres redis
for name in "$@"; do
  case $name in
    # The versions of Debian 12, so that a volume works with either image.
    postgres) official=postgres:15-bookworm ;;
    redis) official=redis:7-bookworm ;;
    prometheus) official=prom/prometheus:v2.42.0 ;;
    # Always built: the user of compose.yaml may not write in the official image.
    alertmanager) official= ;;
    *) die "service-images.sh $name: accepted: postgres, redis, prometheus, alertmanager" ;;
  esac
  image=nagaya/$name:latest
  has_image "$image" && continue
  if [ -n "$official" ] && [ "${registry:-yes}" = yes ]; then
    step "Image $image: pulling $official"
    if timeout "${PULL_TIMEOUT:-120}" docker pull -q "$official" >/dev/null 2>&1; then
      docker tag "$official" "$image"
      continue
    fi
    registry=no
  fi
  scripts/base-image.sh
  step "Building $image from Debian packages"
  docker build -q --target "$name" --build-arg BASE_IMAGE="$BASE_IMAGE" --build-arg INPUTS=packages \
    -f deploy/services.Dockerfile -t "$image" deploy >/dev/null
done
