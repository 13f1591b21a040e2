#!/bin/bash
# demo.sh: the main job, seen step by step: an image made of Debian's packages, two
# containers on snapshots of it, an image that is pulled, changed and committed, and
# nothing left. First on this kernel, then on a dm-thin pool: in a User-Mode Linux kernel,
# unless this one has dm-thin itself.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."
[ "$(id -u)" = 0 ] || { echo "demo.sh: needs root (namespaces, mounts, devices)" >&2; exit 1; }
began=$SECONDS
thinrun=$PWD/thinrun
cache=${XDG_CACHE_HOME:-$HOME/.cache}/thinrun-lab
tar=$cache/debian-bookworm.tar

tests/deps.sh e2fsprogs
tests/demo/debian.sh
mkdir -p .build/bin
CGO_ENABLED=0 "${GO:-go}" build -trimpath -buildvcs=false -o .build/bin/ ./tests/lab/labexec ./tests/demo/registry
registry=$PWD/.build/bin/registry

echo
echo "== on this kernel, $(uname -r)"
said=$(mktemp)
trap 'rm -f "$said"' EXIT
tests/demo/job.sh "$thinrun" "$tar" "$registry" | tee "$said"

if grep -q '(devmapper)' "$said"; then
	echo
	echo "(this kernel has dm-thin: that was the real thing)"
else
	tests/lab/kernels.sh
	echo
	echo "== on dm-thin, in a kernel of its own ($(linux.uml --version), User-Mode Linux)"
	.build/bin/labexec -vm uml -mem 1G -disk 6G -timeout 20m tests/demo/job.sh "$thinrun" "$tar" "$registry"
fi
echo
echo "done in $((SECONDS - began)) s"
