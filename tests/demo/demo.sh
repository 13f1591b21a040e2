#!/bin/bash
# demo.sh: the main job, seen step by step: an image made of Debian's packages, two
# containers on snapshots of it, and nothing left. First on this kernel, then on a
# dm-thin pool: in a User-Mode Linux kernel, unless this one has dm-thin itself.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."
[ "$(id -u)" = 0 ] || { echo "demo.sh: needs root (namespaces, mounts, devices)" >&2; exit 1; }
began=$SECONDS
thinrun=$PWD/thinrun
cache=${XDG_CACHE_HOME:-$HOME/.cache}/thinrun-lab
tar=$cache/debian-bookworm.tar

tests/deps.sh mmdebstrap e2fsprogs
if [ ! -f "$tar" ]; then
	echo "making a Debian userland out of Debian's packages (once, about half a minute)"
	mkdir -p "$cache"
	log=$(mktemp)
	mmdebstrap --mode=root --variant=essential \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		bookworm "$tar.tmp" >"$log" 2>&1 </dev/null || { cat "$log" >&2; rm -f "$log" "$tar.tmp"; exit 1; }
	rm -f "$log"
	mv "$tar.tmp" "$tar"
fi

echo
echo "== on this kernel, $(uname -r)"
said=$(mktemp)
trap 'rm -f "$said"' EXIT
tests/demo/job.sh "$thinrun" "$tar" | tee "$said"

if grep -q '(devmapper)' "$said"; then
	echo
	echo "(this kernel has dm-thin: that was the real thing)"
else
	tests/lab/kernels.sh
	mkdir -p .build/bin
	CGO_ENABLED=0 "${GO:-go}" build -trimpath -buildvcs=false -o .build/bin/ ./tests/lab/labexec
	echo
	echo "== on dm-thin, in a kernel of its own ($(linux.uml --version), User-Mode Linux)"
	.build/bin/labexec -vm uml -mem 1G -disk 6G -timeout 3m tests/demo/job.sh "$thinrun" "$tar"
fi
echo
echo "done in $((SECONDS - began)) s"
