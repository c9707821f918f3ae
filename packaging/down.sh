#!/usr/bin/env bash
# make down: unmounts and stops the server. Loses nothing; make up finds everything again.
#
#   FORCE=1    unmount even when programs still use it, or when the server does not answer
set -euo pipefail
# shellcheck source=packaging/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

UMOUNT_S=120
DRAIN_S=30

# Prints the programs that hold the mount: working folder, root, open files and maps of every process.
# readlink asks the kernel's name of a file and not the file system, so a dead server cannot make it hang.
holders() {
    local dir link goal
    for dir in /proc/[0-9]*; do
        for link in "$dir/cwd" "$dir/root" "$dir/exe" "$dir"/fd/* "$dir"/map_files/*; do
            goal=$(readlink "$link" 2>/dev/null) || continue
            case $goal in
                "$MNT" | "$MNT"/*)
                    printf '  pid %s (%s): %s\n' "${dir#/proc/}" "$(cat "$dir/comm" 2>/dev/null)" "$goal"
                    break
                    ;;
            esac
        done
    done
}

all_holders() {
    if [ "$(id -u)" = 0 ]; then
        holders
    else
        sudo bash -c "$(declare -p MNT); $(declare -f holders); holders"
    fi
}

no_mount_process() { [ -z "$(mount_pids)" ]; }
server_gone() { ! server_pid >/dev/null; }

unmount() {
    is_mounted || return 0
    if [ -n "${FORCE:-}" ]; then
        as_root umount -l "$MNT"
    elif ! as_root timeout "$UMOUNT_S" umount "$MNT" 2>"$RUN/umount.out"; then
        warn "$MNT cannot be unmounted: $(cat "$RUN/umount.out")"
        local who
        who=$(all_holders)
        if [ -n "$who" ]; then
            warn "It is used by:"
            warn "$who"
            die "end these programs (or leave the folder) and run make down again; make down FORCE=1 unmounts anyway"
        fi
        die "make down FORCE=1 unmounts anyway; what is not yet at the server is lost then"
    fi
    wait_until 30 no_mount_process || warn "the mount's process still runs: pid $(mount_pids | tr '\n' ' ')"
    say "Unmounted $MNT."
}

stop_server() {
    local pid
    pid=$(server_pid) || {
        say "weft-server does not run."
        return 0
    }
    as_root kill -TERM "$pid"
    if ! wait_until "$DRAIN_S" server_gone; then
        warn "weft-server (pid $pid) did not stop within $DRAIN_S s; killing it (nothing that was fsynced is lost)."
        as_root kill -KILL "$pid"
        wait_until 10 server_gone || die "weft-server (pid $pid) does not go away; see $LOG/weft-server.log"
    fi
    as_root rm -f "$SERVER_PID_FILE"
    say "Stopped weft-server."
}

main() {
    if [ ! -d "$VAR/state" ] && ! is_mounted; then
        say "Nothing is up here."
        return 0
    fi
    need_root
    mkdir -p "$RUN"
    unmount
    stop_server
}

main
