#!/usr/bin/env bash
# Installs what `make test` needs and is missing: programs by name, then the package that brings them.
set -euo pipefail
# shellcheck source=packaging/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# program, Debian package, Fedora package
NEEDED="
python3 python3 python3
fio fio fio
git git git
rsync rsync rsync
setfattr attr attr
setfacl acl acl
diff diffutils diffutils
tar tar tar
ps procps procps-ng
losetup mount util-linux
mkfs.ext4 e2fsprogs e2fsprogs
stress-ng stress-ng stress-ng
dbench dbench dbench
ss iproute2 iproute
strace strace strace
"

# What the tests in virtual machines need. They skip with a sentence where it cannot be had, so its lack ends nothing.
GUESTS="
qemu-system-x86_64 qemu-system-x86
mmdebstrap mmdebstrap
xz xz-utils
mke2fs e2fsprogs
systemd-nspawn systemd-container
"

install_for_guests() {
    local program debian
    local -a deb=()
    if ! command -v apt-get >/dev/null || [ "$(uname -m)" != x86_64 ]; then
        say "Not Debian on x86_64: the tests in virtual machines will be skipped."
        return 0
    fi
    while read -r program debian; do
        if [ -n "$program" ] && ! command -v "$program" >/dev/null; then
            deb+=("$debian")
        fi
    done <<<"$GUESTS"
    [ "${#deb[@]}" -gt 0 ] || return 0
    (install_packages "${deb[*]}" "") || warn "Without ${deb[*]} the tests in virtual machines will be skipped."
}

main() {
    local program debian fedora
    local -a deb=() rpm=()
    while read -r program debian fedora; do
        [ -n "$program" ] || continue
        if ! command -v "$program" >/dev/null; then
            deb+=("$debian")
            rpm+=("$fedora")
        fi
    done <<<"$NEEDED"
    # The crate pjdfstest links libacl.
    if ! printf '#include <sys/acl.h>\nint main(void) { return 0; }\n' | cc -x c -o /dev/null - -lacl 2>/dev/null; then
        deb+=(gcc libc6-dev libacl1-dev)
        rpm+=(gcc glibc-devel libacl-devel)
    fi
    if [ "${#deb[@]}" -gt 0 ]; then
        install_packages "${deb[*]}" "${rpm[*]}"
    fi
    install_for_guests
    need_rust
    need_cc
    local component
    for component in fmt clippy; do
        cargo "$component" --version >/dev/null 2>&1 && continue
        command -v rustup >/dev/null || die "cargo $component is not installed, and there is no rustup to get it"
        rustup component add "${component/fmt/rustfmt}"
    done
}

main
