#!/bin/sh
# kernels.sh [qemu]: Debian's kernels, where labexec looks for them: User-Mode Linux, and
# with "qemu" also the cloud kernel and what runs it.
set -eu
deps=$(dirname "$(readlink -f "$0")")/../deps.sh
cache=${XDG_CACHE_HOME:-$HOME/.cache}/thinrun-lab
mkdir -p "$cache/uml"

# Links only; running this again after an upgrade renews them.
command -v linux.uml >/dev/null || "$deps" user-mode-linux
ln -sfn "$(readlink -f "$(command -v linux.uml)")" "$cache/uml/linux"
ln -sfn "/usr/lib/uml/modules/$(linux.uml --version)" "$cache/uml/modules"
[ "${1:-}" = qemu ] || exit 0

# Unpacked, not installed: nobody boots it here.
"$deps" qemu-system-x86 kmod
package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
version=${package#linux-image-}
if [ ! -d "$cache/qemu/$version" ]; then
	tmp=$(mktemp -d "$cache/unpack.XXXXXX")
	trap 'rm -rf "$tmp"' EXIT
	(cd "$tmp" && apt-get download -q "$package" >&2 && dpkg-deb -x ./*.deb .)
	depmod -b "$tmp" "$version"
	mkdir -p "$cache/qemu"
	mv "$tmp/boot/vmlinuz-$version" "$cache/qemu/linux-$version"
	mv "$tmp/lib/modules/$version" "$cache/qemu/$version"
fi
ln -sfn "linux-$version" "$cache/qemu/linux"
ln -sfn "$version" "$cache/qemu/modules"
