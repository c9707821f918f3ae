# shellcheck shell=bash disable=SC2034
# Shared by up.sh, down.sh, wipe.sh and test-deps.sh: where things are, how to say things, what runs.
# Everything the file system needs on this machine is in ROOT/var, and the mount point is ROOT/mnt.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VAR=$ROOT/var
RUN=$VAR/run
LOG=$VAR/log
MNT=$ROOT/mnt
CONFIG=$VAR/weft.toml
# BIN=DIR takes built programs from DIR instead of building them.
BIN_GIVEN=${BIN:-}
BIN=${BIN_GIVEN:-${CARGO_TARGET_DIR:-$ROOT/target}/release}
SERVER_PID_FILE=$RUN/weft-server.pid
PORT_FILE=$RUN/port
TARGETS_FILE=$RUN/targets
PORT_DEFAULT=7811

say() { printf '%s\n' "$*"; }
warn() { printf '%s\n' "$*" >&2; }
die() {
    warn "error: $*"
    exit 1
}

# Runs a command as root: directly, or through sudo.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

need_root() {
    [ "$(id -u)" = 0 ] && return 0
    command -v sudo >/dev/null || die "mounting needs root: run this as root, or install sudo"
    say "Mounting needs root; sudo may ask for your password."
    sudo -v || die "sudo did not let you in: run this as root"
}

# Installs system packages. Usage: install_packages "DEBIAN NAMES" "FEDORA NAMES"
install_packages() {
    local -a names
    if command -v apt-get >/dev/null; then
        read -ra names <<<"$1"
        say "Installing: ${names[*]}"
        as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q ||
            warn "apt-get update failed; trying with the package lists that are there"
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${names[@]}" ||
            die "apt-get could not install ${names[*]}: install them by hand and run this again"
    elif command -v dnf >/dev/null; then
        read -ra names <<<"$2"
        say "Installing: ${names[*]}"
        as_root dnf install -y -q "${names[@]}" ||
            die "dnf could not install ${names[*]}: install them by hand and run this again"
    else
        die "neither apt-get nor dnf is here: install by hand what Debian calls: $1"
    fi
}

# The Rust toolchain: there, and new enough for Cargo.toml's rust-version.
need_rust() {
    local want have
    want=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$ROOT/Cargo.toml" | head -n 1)
    if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
        PATH=$HOME/.cargo/bin:$PATH
    fi
    if ! command -v cargo >/dev/null || ! command -v rustc >/dev/null; then
        die "no Rust toolchain (need $want or newer). Install it with rustup (https://rustup.rs):
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y && . \"\$HOME/.cargo/env\""
    fi
    have=$(rustc --version | cut -d ' ' -f 2)
    if [ "$(printf '%s\n%s\n' "$want" "${have%%-*}" | sort -V | head -n 1)" != "$want" ]; then
        die "Rust $have is too old, $want is needed: rustup update stable"
    fi
}

# A C compiler that can link a program: LMDB is C.
need_cc() {
    if ! printf 'int main(void) { return 0; }\n' | cc -x c -o /dev/null - 2>/dev/null; then
        install_packages "gcc libc6-dev" "gcc glibc-devel"
    fi
}

build() {
    if [ -n "$BIN_GIVEN" ]; then
        [ -x "$BIN/weft-server" ] || die "BIN=$BIN: weft-server is not there"
        return 0
    fi
    need_rust
    need_cc
    say "Building (cargo build --release; the first time takes some minutes) ..."
    (cd "$ROOT" && cargo build --release --quiet) || die "the build failed, see above"
}

# True when PID runs the program NAME of this checkout (or did until it was rebuilt).
# `cmdline` holds the config or the mount point, so another checkout's process is not taken for ours.
runs_here() {
    local pid=$1 name=$2 mine=$3 exe
    [ -n "$pid" ] && [ -d "/proc/$pid" ] || return 1
    exe=$(as_root readlink "/proc/$pid/exe" 2>/dev/null) || return 1
    exe=${exe% (deleted)}
    [ "${exe##*/}" = "$name" ] || return 1
    as_root cat "/proc/$pid/cmdline" 2>/dev/null | tr '\0' '\n' | grep -qxF -- "$mine"
}

# Prints the server's pid when it runs. A stale pid file, also one whose number now belongs to another process, is
# no server.
server_pid() {
    local pid
    [ -f "$SERVER_PID_FILE" ] || return 1
    pid=$(cat "$SERVER_PID_FILE")
    if runs_here "$pid" weft-server "$CONFIG"; then
        printf '%s\n' "$pid"
        return 0
    fi
    return 1
}

# Prints the pids of the processes that serve our mount point.
mount_pids() {
    local dir pid
    for dir in /proc/[0-9]*; do
        pid=${dir#/proc/}
        if runs_here_quick "$dir" && runs_here "$pid" mount-weft "$MNT"; then
            printf '%s\n' "$pid"
        fi
    done
}

# A cheap look before sudo is asked: does the command line name mount-weft?
runs_here_quick() {
    tr '\0' ' ' 2>/dev/null <"$1/cmdline" | grep -q mount-weft
}

# Asks only /proc, so a dead server cannot make it hang.
is_mounted() {
    local want=${MNT//\\/\\134} where
    want=${want// /\\040}
    while read -r _ _ _ _ where _; do
        [ "$where" != "$want" ] || return 0
    done </proc/self/mountinfo
    return 1
}

# True when the mount answers within 5 seconds.
mount_answers() {
    as_root timeout -s KILL 5 stat -f "$MNT" >/dev/null 2>&1
}

# Waits up to $1 seconds until the rest of the arguments succeed as a command.
wait_until() {
    local left=$(($1 * 10))
    shift
    until "$@"; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || return 1
        sleep 0.1
    done
}

port() {
    if [ -f "$PORT_FILE" ]; then
        cat "$PORT_FILE"
    else
        printf '%s\n' "${PORT:-$PORT_DEFAULT}"
    fi
}
