# Makes a piece of metadata in the lab kernel, where no file is kept but below -rw DIR:
#   labexec -vm uml -disk 1G -rw DIR sh generate.sh plain DIR/kernel; gzip -9 DIR/kernel
#   labexec -vm uml -disk 1G -rw DIR sh generate.sh snap DIR/held; gzip -9 DIR/held
set -e
export DM_DISABLE_UDEV=1
cd /tmp
truncate -s 4M meta; truncate -s 64M data
M=$(losetup -f --show meta); D=$(losetup -f --show data)
dmsetup create pool --table "0 131072 thin-pool $M $D 128 0 1 skip_block_zeroing"
dmsetup message pool 0 "create_thin 0"
P=$(dmsetup info -c --noheadings -o minor pool)
w() { # id blocks...
 id=$1; shift
 dmsetup create t --table "0 2097152 thin 254:$P $id"
 N=/dev/dm-$(dmsetup info -c --noheadings -o minor t)
 for b in "$@"; do dd if=/dev/zero of=$N bs=4k count=1 seek=$((b*16)) oflag=direct 2>/dev/null; done
 dmsetup remove t
}
w 0 $(seq 0 3 600) $(seq 8000 11 9500)
for i in $(seq 1 30); do
 o=$(( (i*7) % i )); dmsetup message pool 0 "create_snap $((i*1001)) $((o*1001))"
done
for i in 1 5 9 13 29; do w $((i*1001)) $(seq $i 57 900) 7777; done
dmsetup message pool 0 "delete 2002"
dmsetup message pool 0 "delete 1001"
[ "$1" = snap ] && { dmsetup message pool 0 "reserve_metadata_snap"; w 5005 1 2 3; }
dmsetup status pool
[ "$1" = snap ] || dmsetup remove pool
sync
thin_check meta || true
dmsetup status || true
cp meta $2
