#!/bin/sh
# kernels.sh: Debian's User-Mode Linux kernel, where labexec looks for it.
# The cache directory holds links only; running this again after an upgrade renews them.
set -eu
command -v linux.uml >/dev/null || "$(dirname "$0")/../deps.sh" user-mode-linux
dir=${XDG_CACHE_HOME:-$HOME/.cache}/thinrun-lab/uml
mkdir -p "$dir"
ln -sfn "$(readlink -f "$(command -v linux.uml)")" "$dir/linux"
ln -sfn "/usr/lib/uml/modules/$(linux.uml --version)" "$dir/modules"
