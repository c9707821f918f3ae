#!/bin/sh
# The first thing a guest runs from its root disk: becomes systemd, or sets up the little that a script needs and runs
# it. /run/vm is the control folder, which all guests of a run share; /run/vm/env says what the run is.
export PATH=/run/vm:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
# shellcheck source=/dev/null
. /run/vm/env

mount_share() {
    [ -n "$VM_SHARE" ] || return 0
    mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=mmap share /host
}

name_guests() {
    index=0
    while [ "$index" -lt "$VM_COUNT" ]; do
        echo "10.0.0.$((index + 1)) vm$index"
        index=$((index + 1))
    done >>/etc/hosts
    hostname "vm$VM_ID"
    echo "vm$VM_ID" >/etc/hostname
}

become_systemd() {
    units=/run/systemd/system
    mkdir -p $units/multi-user.target.wants
    cp /run/vm/*.service $units/
    ln -s ../vm-net.service ../vm-job.service $units/multi-user.target.wants/
    exec /sbin/init
}

# Without systemd: what it would have mounted and loaded.
set_up() {
    mkdir -p /dev/pts /dev/shm
    mount -t devpts devpts /dev/pts
    mount -t tmpfs shm /dev/shm
    mount -t tmpfs tmp /tmp
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mount -t debugfs debugfs /sys/kernel/debug
    modprobe -a virtio_console configfs fuse
    mount -t configfs configfs /sys/kernel/config
    # shellcheck disable=SC3045
    ulimit -l unlimited
    # As many as systemd would allow.
    ulimit -n 524288
    sh /run/vm/net.sh
}

mount_share || echo "the shared folder cannot be mounted" >/dev/console
name_guests
[ "$VM_MODE" != systemd ] || become_systemd
set_up
exec setsid sh /run/vm/job.sh
