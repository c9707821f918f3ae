#!/usr/bin/env bash
# Makes what run.py and container.sh boot: a small Debian root file system (an ext4 image and a folder), Debian's
# kernel and a tiny initramfs. Prints the folder they are in, on stdout, as the last line.
#
#   packaging/vm/build.sh
#
# The result is kept under ~/.cache/weft/vm/KEY, where KEY is a hash of this script and of the kernel's version, so a
# second call takes no time; images of other keys that nobody used for 30 days are removed. Packages come from wherever
# this machine's own apt takes them. Needs root and what packaging/test-deps.sh installs; exit code 3: this machine
# cannot make one, and the last line of stderr says why.
set -euo pipefail
# shellcheck source=packaging/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/weft/vm
# What the root file system holds beyond the essential packages.
PACKAGES=(
    systemd systemd-sysv udev dbus kmod procps busybox-static
    python3 fdisk iproute2 netbase nvme-cli
)
# Folders of kernel modules for hardware that a virtual machine never has: over half of the size.
NO_MODULES=(sound drivers/{gpu,media,staging,iio,hid,input,usb,isdn,mtd,hwmon,video,bluetooth,platform,ata,scsi}
    drivers/net/{wireless,ethernet})
# Modules that the initramfs loads, in order: the root disk, the shared folders, the network.
EARLY_MODULES=(virtio_pci virtio_blk virtio_net virtio_rng 9pnet_virtio 9p crc32c_generic ext4)
# Units that only cost time in a test guest.
MASKED=(nvmf-autoconnect.service nvmefc-boot-connections.service e2scrub_reap.service e2scrub_all.timer
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer systemd-pstore.service
    systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-random-seed.service
    systemd-journal-flush.service getty@tty1.service serial-getty@ttyS0.service modprobe@efi_pstore.service
    modprobe@drm.service modprobe@dm_mod.service modprobe@loop.service systemd-logind.service
    systemd-user-sessions.service)
IMAGE_BYTES=$((2 << 30))
UNUSED_DAYS_MAX=30

cannot() {
    warn "no virtual machine: $*"
    exit 3
}

check_machine() {
    local program
    [ "$(id -u)" = 0 ] || cannot "building the image needs root"
    [ "$(uname -m)" = x86_64 ] || cannot "the harness knows x86_64 only, this is $(uname -m)"
    for program in apt-get mmdebstrap mke2fs xz; do
        command -v "$program" >/dev/null || cannot "$program is not installed (packaging/test-deps.sh installs it on Debian)"
    done
}

# The package that holds Debian's kernel, behind its meta package.
kernel_package() {
    apt-cache depends linux-image-amd64 2>/dev/null | awk '$1 == "Depends:" {print $2; exit}'
}

apt_source() {
    local path
    for path in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
        if [ -s "$path" ]; then
            printf '%s\n' "$path"
            return 0
        fi
    done
    cannot "apt has no sources in /etc/apt"
}

make_root() {
    local root=$1 suite source unit
    # shellcheck source=/dev/null
    suite=$(. /etc/os-release && printf '%s\n' "$VERSION_CODENAME")
    source=$(apt_source)
    # shellcheck disable=SC2016
    mmdebstrap --quiet --mode=root --variant=minbase \
        --include="$(IFS=,; printf '%s' "${PACKAGES[*]}")" \
        --aptopt='APT::Install-Recommends "false"' \
        --aptopt='Acquire::Check-Valid-Until "false"' \
        --dpkgopt='force-unsafe-io' \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook='rm -f "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/*' \
        "$suite" "$root" "$source" || cannot "mmdebstrap could not make a root file system, see above"
    for unit in "${MASKED[@]}"; do
        ln -sf /dev/null "$root/etc/systemd/system/$unit"
    done
    printf 'vm\n' >"$root/etc/hostname"
    printf '127.0.0.1 localhost vm\n' >"$root/etc/hosts"
    : >"$root/etc/resolv.conf"
    chroot "$root" passwd -qd root
    mkdir -p "$root/host"
}

add_modules() {
    local work=$1 root=$2 kernel=$3 package=$4
    (cd "$work" && apt-get -q -o APT::Sandbox::User=root download "$package" >/dev/null) ||
        cannot "apt-get could not download $package"
    dpkg-deb -x "$work/$package"_*.deb "$work/kernel"
    (cd "$work/kernel/lib/modules/$kernel/kernel" && rm -rf "${NO_MODULES[@]}")
    mkdir -p "$root/lib/modules"
    mv "$work/kernel/lib/modules/$kernel" "$root/lib/modules/"
    chroot "$root" depmod "$kernel"
}

# The kernel inside vmlinuz, unpacked: QEMU boots an ELF vmlinux directly (PVH), which saves unpacking it in the guest
# (2 to 3 s when emulated). Offsets: the kernel's Documentation/x86/boot.rst, setup_sects 0x1f1, payload_offset 0x248.
unpack_kernel() {
    local vmlinuz=$1 vmlinux=$2 sectors offset length start
    sectors=$(od -An -t u1 -j $((0x1f1)) -N 1 "$vmlinuz")
    offset=$(od -An -t u4 -j $((0x248)) -N 4 "$vmlinuz")
    length=$(od -An -t u4 -j $((0x24c)) -N 4 "$vmlinuz")
    start=$(((sectors + 1) * 512 + offset))
    # xz complains about the length that the kernel's build appends to the stream.
    tail -c +$((start + 1)) "$vmlinuz" 2>/dev/null | head -c "$((length))" |
        xz -dc --single-stream >"$vmlinux" 2>/dev/null || true
    [ "$(head -c 4 "$vmlinux" | tail -c 3)" = ELF ] || die "no ELF kernel inside $vmlinuz: see unpack_kernel in $0"
}

# Packed with the image's own busybox, so that this machine needs no cpio.
make_initramfs() {
    local work=$1 root=$2 kernel=$3 tree=$2/run/initramfs module
    mkdir -p "$tree"/{bin,dev,proc,sys,new,modules}
    cp "$root/bin/busybox" "$tree/bin/"
    install -m 755 "$ROOT/packaging/vm/guest/initramfs.sh" "$tree/init"
    for module in "${EARLY_MODULES[@]}"; do
        chroot "$root" modprobe -S "$kernel" --show-depends "$module"
    done | awk '$1 == "insmod" && !seen[$2]++ {print $2}' >"$work/modules"
    while read -r module; do
        cp "$root$module" "$tree/modules/"
        printf '/modules/%s\n' "${module##*/}"
    done <"$work/modules" >"$tree/modules.list"
    chroot "$root" /bin/busybox sh -c 'cd /run/initramfs && find . | busybox cpio -o -H newc' >"$work/initramfs" 2>/dev/null
    rm -rf "$tree"
}

make_all() {
    local goal=$1 work=$2 package=$3 kernel=${3#linux-image-} root=$2/root
    mkdir -p "$root"
    make_root "$root"
    add_modules "$work" "$root" "$kernel" "$package"
    unpack_kernel "$work/kernel/boot/vmlinuz-$kernel" "$work/vmlinux"
    make_initramfs "$work" "$root" "$kernel"
    rm -rf "$root"/var/cache/apt "$root"/var/lib/apt/lists "$work/kernel" "$work/modules" "$work"/*.deb
    truncate -s "$IMAGE_BYTES" "$work/root.ext4"
    # No journal: each guest writes to a copy that is thrown away.
    mke2fs -q -t ext4 -O ^has_journal -m 0 -E lazy_itable_init=1,root_owner=0:0 -d "$root" "$work/root.ext4"
    printf '%s\n' "$kernel" >"$work/kernel-version"
    # Whoever builds the same at the same time and is second throws his away.
    mv -T "$work" "$goal" 2>/dev/null || rm -rf "$work"
}

main() {
    local package key goal work
    check_machine
    package=$(kernel_package)
    if [ -z "$package" ]; then
        apt-get update -q >/dev/null || cannot "apt-get update failed"
        package=$(kernel_package)
    fi
    [ -n "$package" ] || cannot "apt knows no linux-image-amd64"
    key=$(cat "${BASH_SOURCE[0]}" "$ROOT/packaging/vm/guest/initramfs.sh" - <<<"$package" | sha256sum | head -c 16)
    goal=$CACHE/$key
    if [ ! -e "$goal/kernel-version" ]; then
        mkdir -p "$CACHE"
        work=$(mktemp -d "$CACHE/part.XXXXXX")
        # shellcheck disable=SC2064
        trap "rm -rf '$work'" EXIT
        chmod 755 "$work"
        make_all "$goal" "$work" "$package" >&2
        warn "made $goal in $SECONDS s: kernel ${package#linux-image-}, image $(du -m "$goal/root.ext4" | cut -f 1) MiB"
    fi
    touch "$goal"
    find "$CACHE" -mindepth 1 -maxdepth 1 -mtime "+$UNUSED_DAYS_MAX" -exec rm -rf {} +
    printf '%s\n' "$goal"
}

main
