#!/bin/bash
# debian.sh: a small Debian userland out of Debian's packages, as a tar and as a layer that
# a registry can serve. Made once, about half a minute; nothing is said when it is there.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/thinrun-lab
tar=$cache/debian-bookworm.tar
mkdir -p "$cache"

if [ ! -f "$tar" ]; then
	tests/deps.sh mmdebstrap
	echo "making a Debian userland out of Debian's packages (once, about half a minute)" >&2
	log=$(mktemp)
	mmdebstrap --format=tar --mode=root --variant=essential \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		bookworm "$tar.tmp" >"$log" 2>&1 </dev/null || { cat "$log" >&2; rm -f "$log" "$tar.tmp"; exit 1; }
	rm -f "$log"
	mv "$tar.tmp" "$tar"
fi
if [ ! "$tar.gz" -nt "$tar" ]; then
	gzip -1 <"$tar" >"$tar.gz.tmp"
	mv "$tar.gz.tmp" "$tar.gz"
fi
