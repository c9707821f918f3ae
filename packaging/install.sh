#!/usr/bin/env bash
# make install: programs into PREFIX (default /usr/local), and /sbin/mount.weft, where mount(8) looks for it.
# DESTDIR= for packages; make uninstall takes them away again.
set -euo pipefail
# shellcheck source=packaging/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

PREFIX=${PREFIX:-/usr/local}
DESTDIR=${DESTDIR:-}

install_all() {
    as_root install -D -m 755 "$BIN/weft" "$DESTDIR$PREFIX/bin/weft"
    as_root install -D -m 755 "$BIN/weft-server" "$DESTDIR$PREFIX/sbin/weft-server"
    as_root install -D -m 755 "$BIN/mount-weft" "$DESTDIR$PREFIX/sbin/mount.weft"
    as_root install -D -m 755 "$BIN/weft-load" "$DESTDIR$PREFIX/libexec/weft/weft-load"
    if [ "$PREFIX" != / ] && [ "$PREFIX" != /usr ]; then
        as_root mkdir -p "$DESTDIR/sbin"
        as_root ln -sfn "$PREFIX/sbin/mount.weft" "$DESTDIR/sbin/mount.weft"
    fi
    say "Installed weft, weft-server and mount.weft under $DESTDIR$PREFIX."
}

uninstall_all() {
    as_root rm -f "$DESTDIR$PREFIX/bin/weft" "$DESTDIR$PREFIX/sbin/weft-server" "$DESTDIR$PREFIX/sbin/mount.weft"
    as_root rm -rf "$DESTDIR$PREFIX/libexec/weft"
    if [ -L "$DESTDIR/sbin/mount.weft" ]; then
        as_root rm -f "$DESTDIR/sbin/mount.weft"
    fi
}

need_root
case ${1:-install} in
    install)
        build
        install_all
        ;;
    uninstall) uninstall_all ;;
    *) die "install.sh install|uninstall" ;;
esac
