#!/bin/bash
# job.sh THINRUN IMAGE.tar REGISTRY: one line per step, each with what was seen; a step
# that does not hold ends it. Everything it makes is below one directory of its own.
set -euo pipefail
thinrun=$1 tar=$2 registry=$3
work=$(mktemp -d /var/tmp/thinrun-demo.XXXXXX)
T=("$thinrun" --root "$work/state" --storage "$work/storage")
t() { "${T[@]}" "$@"; }
no() { echo "  NO    $*" >&2; exit 1; }
ok() { printf '  ok    %-34s %s\n' "$1" "${2:-}"; }
# expect WHAT WANT GOT
expect() { [ "$2" = "$3" ] || no "$1: want \"$2\", got \"$3\""; ok "$1" "$3"; }
now() { date +%s%N; }
ms() { echo "$((($(now) - $1) / 1000000)) ms"; }

# What a container could leave, as text to compare. The machine may have devices of others.
trace() {
	echo mounts; cat /proc/self/mountinfo
	echo devices; grep -l '^thinrun-' /sys/block/dm-*/dm/name 2>/dev/null || true
	echo loops; grep -lF "$work/" /sys/block/loop*/loop/backing_file 2>/dev/null || true
	echo cgroups; find /sys/fs/cgroup -type d -name 'demo-*' | sort
	echo processes; grep -l "^$thinrun" /proc/[0-9]*/cmdline 2>/dev/null || true
}
finish() {
	status=$?
	[ -z "${registrypid:-}" ] || kill "$registrypid"
	for id in demo-one demo-two demo-change; do t delete --force "$id" 2>/dev/null || true; done
	for name in debian changed "${ref:-debian}"; do t image rm "$name" 2>/dev/null || true; done
	t pool destroy 2>/dev/null || true
	if [ -n "${LAB_DISKS:-}" ]; then umount "$work" 2>/dev/null || true; fi
	rm -rf --one-file-system "$work"
	exit $status
}
trap finish EXIT
if [ -n "${LAB_DISKS:-}" ]; then # the lab's scratch disk, where this kernel's storage is
	mke2fs -q -t ext4 "${LAB_DISKS%% *}"
	mount "${LAB_DISKS%% *}" "$work"
fi
trace >"$work/before"

s=$(now)
line=$(t image import debian "$tar" 2>"$work/why") || no "image import: $(cat "$work/why")"
ok "image import" "$line, in $(ms "$s")"
driver=$(sed 's/.*(\(.*\))/\1/' <<<"$line")
if [ "$driver" = devmapper ]; then
	ok "the pool was made on first use" "$(t pool status | sed -n 's/  */ /; 1p') $(t pool status | sed -n 's/  */ /; 2p')"
else
	ok "storage" "$(sed -n 's/^thinrun: storage: //p' "$work/why")"
fi
trace >"$work/image" # the pool may stay; the containers may not

s=$(now)
expect "run: output of a container" "hello from demo-job" "$(t run --image debian demo-job sh -c 'echo hello from $(hostname)')"
ok "  made, run, waited for, deleted" "$(ms "$s")"

mounts=$(sha256sum </proc/self/mountinfo)
t run --detach --image debian --hostname one --memory 64M --pids-limit 40 demo-one sleep infinity </dev/null >/dev/null 2>&1
t run --detach --image debian --hostname two demo-two sleep infinity </dev/null >/dev/null 2>&1
in1() { t exec demo-one "$@"; }
expect "own hostname" one "$(in1 hostname)"
expect "own pid 1" sleep "$(in1 cat /proc/1/comm)"
root=$(in1 sh -c 'while read -r _ _ _ _ at _ rest; do if [ "$at" = / ]; then echo "${rest#*- }"; fi; done </proc/self/mountinfo' | cut -d' ' -f1,2)
if [ "$driver" = devmapper ]; then
	case $root in "ext4 /dev/dm-"*) ok "its root" "$root" ;; *) no "its root: $root" ;; esac
else
	case $root in overlay*) ok "its root" "$root" ;; *) no "its root: $root" ;; esac
fi
limit() { in1 sh -c "cat /sys/fs/cgroup/$1 2>/dev/null || cat /sys/fs/cgroup/$2"; }
expect "its memory limit" 67108864 "$(limit memory.max memory/memory.limit_in_bytes)"
expect "its pids limit" 40 "$(limit pids.max pids/pids.max)"
expect "its network devices" lo "$(in1 ls /sys/class/net | xargs)"

in1 sh -c 'echo of one >/etc/mine'
t exec demo-two sh -c 'echo of two >/etc/mine'
expect "what one wrote, seen by one" "of one" "$(in1 cat /etc/mine)"
expect "what two wrote, seen by two" "of two" "$(t exec demo-two cat /etc/mine)"
expect "a third sees neither" absent "$(t run --image debian demo-third sh -c 'test -e /etc/mine || echo absent')"
[ "$mounts" = "$(sha256sum </proc/self/mountinfo)" ] || no "the host's mount table changed"
ok "the host's mount table" "unchanged, byte for byte, while they run"

expect "state" running "$(t state demo-one | sed -n 's/.*"status": "\(.*\)",/\1/p')"
code=0; t exec demo-one sh -c 'exit 7' || code=$?
expect "exec passes the exit code on" 7 "$code"
pid=$(t state demo-one | sed -n 's/.*"pid": \(.*\),/\1/p')
t kill demo-one KILL
tail --pid="$pid" -f /dev/null # until it is gone
expect "kill" stopped "$(t state demo-one | sed -n 's/.*"status": "\(.*\)",/\1/p')"
t delete demo-one
t delete --force demo-two
expect "list is empty" "" "$(t list --quiet)"
trace >"$work/after"
diff "$work/image" "$work/after" >&2 || no "something is left of the containers"
ok "left of the containers" "no mount, device, loop, cgroup, process"
expect "left in the state directory" 0 "$(find "$work/state" -mindepth 1 | wc -l)"

t image rm debian

mkfifo "$work/ref"
"$registry" "$tar.gz" >"$work/ref" &
registrypid=$!
read -r ref <"$work/ref" # when it listens
s=$(now)
line=$(t image pull --quiet "$ref" 2>"$work/why") || no "image pull: $(cat "$work/why")"
ok "image pull" "$line, in $(ms "$s")"
expect "run: the image's own command" "pulled from a registry" "$(t run --image "$ref" demo-pulled)"
t run --detach --image "$ref" demo-change sleep infinity </dev/null >/dev/null 2>&1
t exec demo-change sh -c 'echo changed >/etc/pulled; rm /etc/motd'
s=$(now)
t image commit demo-change changed >/dev/null
ok "image commit of it, as it runs" "in $(ms "$s")"
t delete --force demo-change
expect "run: the result" changed "$(t run --image changed demo-result)"
expect "  what was removed" gone "$(t run --image changed demo-result sh -c 'test -e /etc/motd || echo gone')"
expect "  and the image that was pulled" "pulled from a registry" "$(t run --image "$ref" demo-pulled)"
s=$(now)
t image pull --quiet "$ref" again >/dev/null 2>"$work/why" || no "image pull: $(cat "$work/why")"
ok "image pull once more" "nothing to fetch, in $(ms "$s")"
for name in again changed "$ref"; do t image rm "$name"; done
kill "$registrypid"
wait "$registrypid" 2>/dev/null || true
registrypid=
if [ "$driver" = devmapper ]; then t pool destroy; fi
trace >"$work/end"
diff "$work/before" "$work/end" >&2 || no "something is left of the storage"
ok "left of image and pool" "nothing"
