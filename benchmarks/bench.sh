#!/usr/bin/env bash
# The figures of `make bench`: weft-load on the mount and on a plain directory of the same disk.
#
#   benchmarks/bench.sh [options of weft-load compare]     e.g. --quick, --rounds 5, --only meta, --peer DIR
#   MOUNT=DIR   a directory on a Weft mount (default: ./mnt, brought up with `make up` when nothing is mounted there)
#   LOCAL=DIR   a plain local directory (default: ./var/bench-local)
#   BIN=DIR     use built programs from DIR
# The table goes to standard output and var/bench/last.md; each row of each run is added to var/bench/results.jsonl.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=packaging/lib.sh
. "$ROOT/packaging/lib.sh"
OUT=$VAR/bench
LOCAL=${LOCAL:-$VAR/bench-local}

install_tools() {
    local program
    for program in fio tar find grep timeout; do
        command -v "$program" >/dev/null ||
            install_packages "fio tar findutils grep coreutils" "fio tar findutils grep coreutils"
    done
}

build_load() {
    if [ -n "$BIN_GIVEN" ]; then
        [ -x "$BIN/weft-load" ] || die "BIN=$BIN: weft-load is not there"
        return 0
    fi
    need_rust
    (cd "$ROOT" && cargo build --release --quiet -p weft-load) || die "the build failed, see above"
}

# Prints `--daemon-pid PID` for each Weft process of this checkout, so that others on the machine do not count.
daemon_options() {
    local pid
    for pid in $(server_pid || true) $(mount_pids); do
        printf -- '--daemon-pid %s ' "$pid"
    done
}

main() {
    local -a daemons=()
    install_tools
    build_load
    if [ -z "${MOUNT:-}" ]; then
        if ! is_mounted || ! mount_answers; then
            make --no-print-directory -C "$ROOT" up >&2
            is_mounted || die "make up left nothing mounted at $MNT"
        fi
        MOUNT=$MNT
        read -ra daemons <<<"$(daemon_options)" || true
    fi
    mkdir -p "$LOCAL" "$OUT"
    # Root: the caches are dropped before the cold reads, and the mount's root folder is root's.
    as_root "$BIN/weft-load" compare --mount "$MOUNT" --local "$LOCAL" --json "$OUT/results.jsonl" \
        ${daemons[@]+"${daemons[@]}"} "$@" | tee "$OUT/last.md"
}

main "$@"
