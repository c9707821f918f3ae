#!/usr/bin/env bash
# Boots what build.sh made as a systemd container on this machine's own kernel, runs a script in it as a service after
# multi-user.target, and returns the script's output and exit status. At native speed and ready in two seconds: for
# packages, units and daemons that need no kernel but the one that runs here (io_uring and FUSE work).
#
#   packaging/vm/container.sh [--share FOLDER] [--timeout SECONDS] SCRIPT [ARGUMENT...]
#
#   --share FOLDER     host folder, read and write, seen as /host
#   --timeout SECONDS  give up after this time (default 120)
#
# Exit status: the script's, 124 when it ran out of time, 125 without one, 3 when this machine cannot have one. The
# container is thrown away afterwards; it has a network namespace of its own. Needs root and systemd-nspawn.
set -euo pipefail
# shellcheck source=packaging/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

SHARE=()
TIMEOUT_S=120
GROUPS_MADE=()

parse() {
    while [ $# -gt 0 ]; do
        case $1 in
            --share) SHARE=("--bind=$(readlink -f "$2"):/host") && shift 2 ;;
            --timeout) TIMEOUT_S=$2 && shift 2 ;;
            -*) die "container.sh: unknown option $1" ;;
            *) break ;;
        esac
    done
    [ -f "${1-}" ] || die "container.sh: no script ${1-}"
    SCRIPT=("$@")
}

# shellcheck disable=SC2317 # the trap in main calls it
clean() {
    local group
    ! mountpoint -q "$WORK/root" || umount -l "$WORK/root"
    rm -rf "$WORK"
    for group in "${GROUPS_MADE[@]}"; do
        find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null || true
    done
}

# A throw-away copy of the image's folder, with the script as a unit.
prepare() {
    local image=$1 root=$WORK/root
    mkdir "$WORK"/{upper,work,root}
    mount -t overlay overlay -o "lowerdir=$image/root,upperdir=$WORK/upper,workdir=$WORK/work" "$root"
    install -m 755 "${SCRIPT[0]}" "$root/run-script"
    cat >"$root/run-job.sh" <<END
/run-script $(printf "%q " "${SCRIPT[@]:1}")
echo \$? >/run-job.status
systemctl exit 0
END
    cat >"$root/etc/systemd/system/run-job.service" <<END
[Unit]
After=multi-user.target
[Service]
Type=exec
LimitMEMLOCK=infinity
WorkingDirectory=/root
Environment=HOME=/root LANG=C.UTF-8
StandardOutput=file:/run-job.out
StandardError=inherit
ExecStart=/bin/bash /run-job.sh
END
    mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
    ln -s ../run-job.service "$root/etc/systemd/system/multi-user.target.wants/"
}

# nspawn makes its control groups below the caller's: each container gets one of its own.
boot() {
    local name base
    name=$(basename "$WORK" | tr -d .)
    for base in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
        if [ -w "$base/cgroup.procs" ] && mkdir "$base/$name" 2>/dev/null; then
            GROUPS_MADE+=("$base/$name")
        fi
    done
    (
        for base in "${GROUPS_MADE[@]}"; do
            echo "$BASHPID" >"$base/cgroup.procs"
        done
        exec timeout -k 10 "$TIMEOUT_S" systemd-nspawn --quiet -D "$WORK/root" -M "$name" --boot --register=no \
            --keep-unit --console=pipe --private-network --capability=all --bind=/dev/fuse "${SHARE[@]}"
    ) </dev/null >"$WORK/console" 2>&1
}

main() {
    local image status=0
    parse "$@"
    if ! command -v systemd-nspawn >/dev/null; then
        warn "no container: systemd-nspawn is not installed (Debian: apt-get install systemd-container)"
        exit 3
    fi
    image=$("$ROOT/packaging/vm/build.sh") || exit
    WORK=$(mktemp -d "${TMPDIR:-/tmp}/weft-container.XXXXXX")
    trap clean EXIT
    trap 'exit 130' INT TERM
    prepare "$image"
    boot || status=$?
    cat "$WORK/root/run-job.out" 2>/dev/null || true
    if [ "$status" = 124 ]; then
        warn "container.sh: out of time ($TIMEOUT_S s)"
    elif [ -s "$WORK/root/run-job.status" ]; then
        status=$(cat "$WORK/root/run-job.status")
    else
        warn "container.sh: no status; the container said:"
        tail -n 25 "$WORK/console" >&2
        status=125
    fi
    exit "$status"
}

main "$@"
