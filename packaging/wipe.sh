#!/usr/bin/env bash
# make wipe: erases the file system of this checkout. Asks first; YES=1 does not.
set -euo pipefail
# shellcheck source=packaging/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Zeros over the head of a device are enough: without its superblock a target is blank.
HEAD_MIB=16

devices() {
    [ -f "$TARGETS_FILE" ] || return 0
    while IFS= read -r target; do
        if [ -b "$target" ]; then
            printf '%s\n' "$target"
        fi
    done <"$TARGETS_FILE"
}

confirm() {
    [ "${YES:-}" = 1 ] && return 0
    [ -t 0 ] || die "this erases everything stored here: make wipe YES=1"
    local answer device
    say "This erases the file system under $VAR and everything in $MNT."
    for device in $(devices); do
        say "It also erases $device."
    done
    read -r -p "Type yes to go on: " answer
    [ "$answer" = yes ] || die "nothing was erased"
}

main() {
    if [ ! -e "$CONFIG" ] && [ ! -d "$VAR/state" ]; then
        say "There is nothing to wipe."
        return 0
    fi
    confirm
    "$ROOT/packaging/down.sh"
    need_root
    local device
    while IFS= read -r device; do
        say "Erasing $device."
        as_root dd if=/dev/zero of="$device" bs=1M count="$HEAD_MIB" conv=fsync status=none
    done < <(devices)
    as_root rm -rf "$VAR/state" "$VAR/targets" "$RUN" "$LOG" "$CONFIG"
    as_root rmdir "$MNT" 2>/dev/null || true
    say "Erased."
}

main
