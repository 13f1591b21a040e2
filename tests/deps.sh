#!/bin/sh
# deps.sh [PACKAGE...]: installs the Debian packages that are missing, by default those
# that the tests use. Says nothing when all are there.
set -eu
[ $# -gt 0 ] || set -- user-mode-linux e2fsprogs xfsprogs thin-provisioning-tools dmsetup busybox-static strace runc crun skopeo umoci docker-registry

missing=
for p; do
	dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing="$missing $p"
done
[ -n "$missing" ] || exit 0

[ "$(id -u)" = 0 ] || { echo "deps.sh: missing packages:$missing; install them as root: apt-get install$missing" >&2; exit 1; }
echo "installing from Debian:$missing" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
# $missing is a list of words on purpose.
# shellcheck disable=SC2086
install() { apt-get install -yq --no-install-recommends $missing >"$log" 2>&1 </dev/null; }
# The package lists of a fresh machine are empty or old: then, and only then, fetch them.
install || { apt-get update -q >"$log" 2>&1 </dev/null && install; } || { cat "$log" >&2; exit 1; }
