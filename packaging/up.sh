#!/usr/bin/env bash
# make up: from a checkout to a mounted file system. Each stage looks first whether it is done already.
#
#   PORT=7811                        where the server listens (127.0.0.1 only)
#   SIZE=4G                          size of each of the 4 target files (default: free space / 16, 1G to 8G)
#   TARGETS="/dev/nvme0n1 ..."       block devices instead of target files
#   BIN=DIR                          use built programs from DIR
# SIZE and TARGETS count when the file system is made; later runs find what is there.
set -euo pipefail
# shellcheck source=packaging/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

TARGET_COUNT=4
MIB=$((1024 * 1024))
GIB=$((1024 * MIB))

check_machine() {
    [ "$(uname -s)" = Linux ] || die "Weft runs on Linux; this is $(uname -s)"
    if [ ! -c /dev/fuse ]; then
        as_root modprobe fuse 2>/dev/null || true
    fi
    [ -c /dev/fuse ] || die "/dev/fuse is not there: the kernel has no FUSE, or this is a container
    started without it (docker run --device /dev/fuse --cap-add SYS_ADMIN ...)"
    local off=/proc/sys/kernel/io_uring_disabled
    if [ -r "$off" ] && [ "$(cat "$off")" = 2 ]; then
        die "io_uring is switched off on this kernel: sysctl kernel.io_uring_disabled=0"
    fi
}

# Bytes of "4G", "512M" or a plain number.
parse_size() {
    case $1 in
        *[!0-9]*[KMGT] | [KMGT] | '') return 1 ;;
        *[KMGT]) numfmt --from=iec "$1" ;;
        *[!0-9]*) return 1 ;;
        *) printf '%s\n' "$1" ;;
    esac
}

target_bytes() {
    local free bytes
    if [ -n "${SIZE:-}" ]; then
        bytes=$(parse_size "$SIZE") || die "SIZE=$SIZE: say it like 512M or 4G"
    else
        free=$(df --output=avail -B1 "$VAR" | tail -n 1)
        bytes=$((free / 16 / MIB * MIB))
        [ "$bytes" -ge "$GIB" ] || bytes=$GIB
        [ "$bytes" -le $((8 * GIB)) ] || bytes=$((8 * GIB))
    fi
    printf '%s\n' "$bytes"
}

make_folders() {
    local dir
    for dir in "$VAR" "$VAR/state" "$VAR/targets" "$RUN" "$LOG" "$MNT"; do
        # A mount point whose client died cannot even be looked at; it is there all the same.
        [ "$dir" = "$MNT" ] && is_mounted && continue
        mkdir -p "$dir"
    done
}

# The config, when there is none; remembers the targets, so that `make wipe` can say what it erases.
make_config() {
    if [ -s "$CONFIG" ]; then
        if [ -n "${TARGETS:-}${SIZE:-}" ]; then
            say "A file system is there already; TARGETS and SIZE are not looked at (make wipe erases it)."
        fi
        if [ -n "${PORT:-}" ] && [ "$PORT" != "$(port)" ]; then
            die "this file system's server listens on port $(port), not $PORT: see $CONFIG"
        fi
        return 0
    fi
    local -a args=() targets=()
    local index target
    if [ -n "${TARGETS:-}" ]; then
        read -ra targets <<<"$TARGETS"
        for target in "${targets[@]}"; do
            [ -b "$target" ] || die "TARGETS: $target is not a block device"
        done
    else
        for ((index = 0; index < TARGET_COUNT; index++)); do
            targets+=("$VAR/targets/target$index")
        done
    fi
    for target in "${targets[@]}"; do
        args+=(--target "$target")
    done
    local listen=${PORT:-$PORT_DEFAULT}
    "$BIN/weft" gen --dir "$VAR/state" --listen "127.0.0.1:$listen" "${args[@]}" >"$CONFIG.part" ||
        die "weft gen failed, see above"
    printf '%s\n' "$listen" >"$PORT_FILE"
    printf '%s\n' "${targets[@]}" >"$TARGETS_FILE"
    mv "$CONFIG.part" "$CONFIG"
}

make_file_system() {
    local bytes needed free
    bytes=$(target_bytes)
    if [ -z "${TARGETS:-}" ] && ! [ -e "$VAR/targets/target0" ] && [ "$(head -c 5 "$TARGETS_FILE")" != /dev/ ]; then
        needed=$((TARGET_COUNT * bytes + GIB))
        free=$(df --output=avail -B1 "$VAR" | tail -n 1)
        [ "$free" -ge "$needed" ] || die "not enough disk: $TARGET_COUNT targets of $((bytes / MIB)) MiB and 1 GiB to
    spare need $((needed / MIB)) MiB, $((free / MIB)) MiB are free under $VAR: make up SIZE=512M"
    fi
    as_root "$BIN/weft" fs create --config "$CONFIG" --target-bytes "$bytes" --if-missing ||
        die "the file system could not be made, see above"
    as_root "$BIN/weft-server" --config "$CONFIG" --check-config ||
        die "weft-server does not accept $CONFIG, see above"
}

server_answers() {
    "$BIN/weft" ping --config "$CONFIG" >"$RUN/ping.out" 2>&1
}

# Answers, or its launcher (itself, or the sudo above it) is gone.
server_ready_or_gone() {
    server_answers || [ ! -d "/proc/$LAUNCHED" ]
}

start_server() {
    local pid
    LAUNCHED=self
    if pid=$(server_pid); then
        say "weft-server runs already (pid $pid)."
    else
        as_root rm -f "$SERVER_PID_FILE"
        # The shell writes its own pid and becomes the server, so the file is right under sudo as well.
        # shellcheck disable=SC2016
        as_root setsid sh -c 'echo $$ >"$1"; exec "$2" --config "$3" >>"$4" 2>&1' \
            weft-server "$SERVER_PID_FILE" "$BIN/weft-server" "$CONFIG" "$LOG/weft-server.log" \
            </dev/null >/dev/null 2>&1 &
        LAUNCHED=$!
    fi
    if ! wait_until 60 server_ready_or_gone || ! server_pid >/dev/null || ! server_answers; then
        warn "weft-server does not answer. The end of $LOG/weft-server.log:"
        tail -n 15 "$LOG/weft-server.log" >&2 || true
        [ ! -s "$RUN/ping.out" ] || cat "$RUN/ping.out" >&2
        exit 1
    fi
}

mount_it() {
    if is_mounted; then
        if mount_answers; then
            say "Mounted already at $MNT."
            return 0
        fi
        say "The mount at $MNT does not answer (its process died?): mounting it anew."
        as_root umount -l "$MNT"
    fi
    as_root "$BIN/mount-weft" "127.0.0.1:$(port):/" "$MNT" -o "log_file=$LOG/mount.log" || {
        warn "The end of $LOG/mount.log:"
        tail -n 15 "$LOG/mount.log" >&2 || true
        die "the mount failed, see above"
    }
    mount_answers || die "the mount at $MNT does not answer; see $LOG/mount.log"
}

report() {
    local bin=${BIN#"$ROOT/"}
    cat <<END

Weft is up.
  server   pid $(server_pid), 127.0.0.1:$(port), log $LOG/weft-server.log
  targets  $(sed "s|^$ROOT/||" "$TARGETS_FILE" | tr '\n' ' ')
  mounted  $MNT  ($(df -h --output=avail "$MNT" | tail -n 1 | tr -d ' ') free)

Three things to try, here in the checkout:
  cp -a engine mnt/ && diff -r engine mnt/engine && echo same
  dd if=/dev/zero of=mnt/big bs=1M count=256 conv=fsync && $bin/weft fs stat mnt/big
  $bin/weft target list --config var/weft.toml

make down unmounts and stops; make up brings everything back.
END
}

main() {
    need_root
    check_machine
    build
    make_folders
    make_config
    make_file_system
    start_server
    mount_it
    report
}

main
