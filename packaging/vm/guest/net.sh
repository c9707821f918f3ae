#!/bin/sh
# Names the network cards after the card number in their address and sets 10.0.CARD.(VM_ID + 1).
# shellcheck source=/dev/null
. /run/vm/env
modprobe virtio_net
ip link set lo up
for dir in /sys/class/net/*; do
    mac=$(cat "$dir/address")
    name=${dir##*/}
    case $mac in
        52:54:00:76:*) card=$((0x$(echo "$mac" | cut -d : -f 5))) ;;
        *) continue ;;
    esac
    [ "$name" = "eth$card" ] || ip link set "$name" down name "new$card"
done
for dir in /sys/class/net/new*; do
    [ ! -e "$dir" ] || ip link set "${dir##*/}" name "eth${dir##*/new}"
done
for dir in /sys/class/net/eth*; do
    [ -e "$dir" ] || continue
    ip addr add "10.0.${dir##*/eth}.$((VM_ID + 1))/24" dev "${dir##*/}"
    ip link set "${dir##*/}" up
done
