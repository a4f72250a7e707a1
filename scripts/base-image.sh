#!/usr/bin/env bash
# Provides the Debian base image: pulled if a registry answers, otherwise built from Debian packages (half a minute).
. "$(dirname "$0")/lib.sh"

has_image "$BASE_IMAGE" && exit 0
step "Base image: pulling Debian"
if timeout "${PULL_TIMEOUT:-120}" docker pull -q debian:bookworm-slim >/dev/null 2>&1; then
  docker tag debian:bookworm-slim "$BASE_IMAGE"
  exit 0
fi
step "No registry answers: building the base image from Debian packages"
[ "$(id -u)" = 0 ] || die "Building a Debian base image needs root: run 'sudo scripts/base-image.sh' once, then repeat your command.
Or name an existing image: BASE_IMAGE=… in the environment."
command -v debootstrap >/dev/null || { can_install && apt_install debootstrap; } ||
  die "debootstrap is missing; install it with the system's package tool."
# Not under /tmp, which can be small or mounted noexec.
work=$(mktemp -d -p /var/tmp nagaya-base.XXXXXX)
trap 'rm -rf "$work"' EXIT
root=$work/root
# dpkg syncs every file to disk otherwise (dpkg(1), --force-unsafe-io); a build that loses power starts again anyhow.
DPKG_FORCE=unsafe-io debootstrap --variant=minbase bookworm "$root" >"$work/log" 2>&1 || die "debootstrap failed: $(tail -n 3 "$work/log")"
# Security fixes come from the same mirror's security archive, if it has one.
mirror=$(sed -n 's#^deb \(.*\)/debian/* bookworm main$#\1#p' "$root/etc/apt/sources.list")
if [ -n "$mirror" ] && curl -fsS -m 20 -o /dev/null "$mirror/debian-security/dists/bookworm-security/InRelease"; then
  echo "deb $mirror/debian-security bookworm-security main" >"$root/etc/apt/sources.list.d/security.list"
else
  echo "note: this mirror has no security archive; the image gets no fixes after Debian's last point release" >&2
fi
# As in Debian's own slim images: no manuals and translations, neither those installed nor those of later packages.
cat >"$root/etc/dpkg/dpkg.cfg.d/slim" <<'CONFIG'
path-exclude /usr/share/man/*
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
CONFIG
rm -rf "$root"/usr/share/{man,info,locale}/*
find "$root/usr/share/doc" -mindepth 2 ! -type d ! -name copyright -delete
# Nothing of this host, and nothing that can be fetched again.
rm -rf "$root"/etc/{hostname,resolv.conf} "$root"/var/cache/apt/{archives/*.deb,*.bin} "$root"/var/lib/apt/lists/* "$root"/var/log/*
tar -C "$root" -c . | docker import --change 'CMD ["bash"]' - "$BASE_IMAGE" >/dev/null
