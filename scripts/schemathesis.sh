#!/usr/bin/env bash
# Installs schemathesis, which tests an API against its description, into the target directory, and prints its path.
. "$(dirname "$0")/lib.sh"

wanted=conformance/schema/requirements.txt
place=$(realpath -m "$TARGET_DIR")/schemathesis/$(sha256sum "$wanted" | cut -c1-16)
program=$place/bin/schemathesis

if ! "$program" --version >/dev/null 2>&1; then
  step "Installing schemathesis (pinned; tests the API against its description)" >&2
  # Debian's Python has the module venv, but ensurepip, which it needs, is in a package of its own.
  python3 -c 'import ensurepip' 2>/dev/null || { can_install && apt_install python3-venv >&2; } ||
    die "python3 with venv is missing. Install it, e.g.: sudo apt-get install python3-venv"
  rm -rf "$place"
  python3 -m venv "$place"
  "$place/bin/pip" install --quiet --disable-pip-version-check --requirement "$wanted" >&2
fi
echo "$program"
