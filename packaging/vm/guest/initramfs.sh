#!/bin/busybox sh
# shellcheck shell=dash
# The guest's first program: loads what the root disk and the shared folder need, mounts the root disk and hands over
# to start.sh, which run.py has put into the control folder.
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
while read -r module; do
    insmod "$module"
done </modules.list
mount -t ext4 -o noatime /dev/vda /new || poweroff -f
mount -t tmpfs -o mode=755 run /new/run
mkdir /new/run/vm
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none vmctl /new/run/vm || poweroff -f
for dir in dev proc sys; do
    mount --move "/$dir" "/new/$dir"
done
exec switch_root /new /bin/sh /run/vm/start.sh
