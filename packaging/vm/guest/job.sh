#!/bin/sh
# Runs the script of the run: its output goes to a virtio port, its status into the control folder. Then the guest ends.
export PATH=/run/vm:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
# shellcheck source=/dev/null
. /run/vm/env
cd /root || exit 1
if [ "$VM_MODE" = shell ]; then
    setsid -c bash -il <>/dev/ttyS0 >&0 2>&1
else
    until out=$(ls /dev/vport*p1 2>/dev/null); do
        sleep 0.1
    done
    cp /run/vm/script /run/script
    chmod 755 /run/script
    eval "set -- $VM_ARGS"
    /run/script "$@" >"$out" 2>&1 </dev/null
fi
status=$?
echo "$status" >"/run/vm/status.$VM_ID.part"
mv "/run/vm/status.$VM_ID.part" "/run/vm/status.$VM_ID"
sync
# Guest 0 is the network of the others: it goes last.
while [ "$VM_ID" = 0 ] && [ "$(find /run/vm -name 'status.[0-9]*' ! -name '*.part' | wc -l)" -lt "$VM_COUNT" ]; do
    sleep 0.1
done
busybox poweroff -f
