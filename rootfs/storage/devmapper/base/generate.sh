#!/bin/sh
# generate.sh: makes ext4-*.gz, the file systems that a new pool's base device gets. Run
# it by "go generate ./..." only to change them; it needs e2fsprogs 1.47 or newer
# (assume_storage_prezeroed). The output is the same on every machine.
#
# - prezeroed: only the blocks that are not zero are kept, and a container never has its
#   inode tables initialised in the background, which would cost it 160 MB of the pool.
# - a journal of 32 MiB: what a container's journal has passed over stays allocated.
# - no lost+found: image layers bring their own root directory.
# - no reserved blocks: the container's root is not the host's.
# - errors=remount-ro: a container that has lost its disk does not go on writing.
set -eu
export PATH="$PATH:/sbin:/usr/sbin" LC_ALL=C
export E2FSPROGS_FAKE_TIME=1700000000
cd "$(dirname "$0")"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
img=$tmp/img
export MKE2FS_CONFIG=$tmp/conf # the host's own defaults must not show
echo '[fs_types]
ext4 = {
	features = has_journal
}' >"$MKE2FS_CONFIG"
for size in 1G 10G 100G; do
	truncate -s $size "$img"
	mke2fs -q -F -t ext4 -b 4096 -I 256 -i 16384 -m 0 -e remount-ro -J size=32 \
		-U 7a6b3c52-7d55-4a39-9a3e-0d6f6c1e5c10 \
		-O none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum,metadata_csum_seed \
		-E assume_storage_prezeroed=1,lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0,hash_seed=5d8b1b52-4b68-4ef3-8d0c-3f1bd1b6f2a9 \
		"$img"
	debugfs -w -R 'rmdir lost+found' "$img" 2>&1 | sed 1d
	e2fsck -fn "$img" >/dev/null 2>&1
	go run pack.go "$img" ext4-$size.gz
	rm -f "$img"
done
