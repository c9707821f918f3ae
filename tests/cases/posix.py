"""Proof 4, pjdfstest: at least nine of ten tests that apply to Linux pass; the others stand in a list with a reason."""

import ctypes
import errno
import grp
import mmap
import os
import pwd
import re
import stat
import struct
import subprocess
import tempfile
import time
from pathlib import Path

from lib.base import ROOT, Failed, case, check
from lib.procs import fork_worker, join_workers, run
from lib.trees import PJDFSTEST, tool

EXPECTED = ROOT / "tests" / "pjdfstest-expected.txt"
LINE = re.compile(r"^([a-z0-9_:]+)\s+(ok|FAILED|skipped)\s*$", re.M)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CONFIG = """\
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [%s]
"""
LEAST = 0.90


def load_expected():
    """`test: reason` lines: what is known to fail."""
    found = {}
    for line in EXPECTED.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, reason = line.partition(": ")
            check(reason.strip(), "no reason in", EXPECTED.name, "for", name)
            found[name.strip()] = reason.strip()
    return found


def _users():
    """Two ordinary users that are on this machine, each with its own group."""
    chosen = []
    for name in ("nobody", "daemon", "bin", "games", "mail"):
        try:
            user = pwd.getpwnam(name)
            chosen.append('["%s", "%s"]' % (name, grp.getgrgid(user.pw_gid).gr_name))
        except KeyError:
            continue
    check(len(chosen) >= 2, "fewer than two of the users nobody, daemon, bin, games, mail are on this machine")
    return ", ".join(chosen[:2])


@case(timeout_s=600, peer=True)
def pjdfstest(ctx):
    """pjdfstest: 90 % of what applies passes, and exactly the listed tests fail."""
    program = tool("pjdfstest", PJDFSTEST)
    config = ctx.work / "pjdfstest.toml"
    config.write_text(CONFIG % _users())
    fs = ctx.fs()
    place = fs.path / "pjdfstest"
    place.mkdir()
    place.chmod(0o755)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as second:
        Path(second).chmod(0o755)
        result = run([program, "-c", config, "-p", place, "-s", second], timeout_s=550, ok=None, cwd=ctx.work)
    out = COLOUR.sub("", result.out)
    (ctx.work / "pjdfstest.txt").write_text(out)
    tests = LINE.findall(out)
    check(len(tests) > 200, "pjdfstest ran only", len(tests), "tests:\n" + out[-2000:])
    check("total" in out.strip().splitlines()[-1] or "failed" in out, "no summary:\n" + out[-500:])
    names = {word: {name for name, verdict in tests if verdict == word} for word in ("ok", "FAILED", "skipped")}
    applies = len(names["ok"]) + len(names["FAILED"])
    ctx.figure("pjdfstest.passed", len(names["ok"]), "tests")
    ctx.figure("pjdfstest.failed", len(names["FAILED"]), "tests")
    ctx.figure("pjdfstest.not_linux", len(names["skipped"]), "tests")
    ctx.figure("pjdfstest.share", 100.0 * len(names["ok"]) / applies, "%")
    for line in re.findall(r"(?m)^\S+\s+FAILED\n(?:\t.*\n)?", out):
        ctx.note(line.strip())
    check(len(names["ok"]) >= LEAST * applies, "only", len(names["ok"]), "of", applies, "pass")
    if fs.is_peer:
        fs.close()
        return
    expected = load_expected()
    surprises = ["fails unexpectedly: " + name for name in sorted(names["FAILED"] - set(expected))]
    surprises += ["passes, but is listed as failing: " + name for name in sorted(names["ok"] & set(expected))]
    surprises += ["is listed and is no test: " + name for name in sorted(set(expected) - {name for name, _ in tests})]
    if surprises:
        raise Failed("%d surprises\n%s" % (len(surprises), "\n".join(surprises)))
    fs.close()


KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE = 0x01, 0x02, 0x08, 0x10
LIBC = ctypes.CDLL(None, use_errno=True)
MIB = 1 << 20


def fallocate(fd, mode, offset, count):
    """fallocate(2)."""
    if LIBC.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(count)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def refused(code, what, *args):
    """Fails unless the call ends with this errno."""
    try:
        what(*args)
    except OSError as error:
        check(error.errno == code, what, args, "ended with", errno.errorcode.get(error.errno, error.errno))
        return
    raise Failed("%s%r succeeded, and should end with %s" % (what, args, errno.errorcode[code]))


def taken(fd):
    """KiB that stat says the file takes."""
    return os.fstat(fd).st_blocks // 2


def stretches(fd):
    """Data of the file as lseek finds it: (start, end)."""
    found, at = [], 0
    while True:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            check(error.errno == errno.ENXIO, "SEEK_DATA:", error)
            return found
        at = os.lseek(fd, start, os.SEEK_HOLE)
        found.append((start, at))


@case(timeout_s=120)
def fallocate_modes(ctx):
    """fallocate, FALLOC_FL_KEEP_SIZE, PUNCH_HOLE and ZERO_RANGE: bytes, lengths and space; over a kill -9."""
    fs = ctx.fs(target_bytes=256 * MIB)
    fd = os.open(fs.path / "f", os.O_RDWR | os.O_CREAT)
    fallocate(fd, 0, 0, 20 * MIB)
    check(os.fstat(fd).st_size == 20 * MIB and taken(fd) == 20 * 1024, "given out:", os.fstat(fd))
    fallocate(fd, KEEP_SIZE, 20 * MIB, 4 * MIB)
    check(os.fstat(fd).st_size == 20 * MIB and taken(fd) == 24 * 1024, "beyond the end:", os.fstat(fd))
    os.pwrite(fd, b"z" * (8 * MIB), 0)
    os.fsync(fd)
    check(taken(fd) == 24 * 1024, "writing to what was given out takes nothing more:", taken(fd))
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 4097, 6 * MIB)
    check(taken(fd) == 24 * 1024 - 6 * 1024 + 4, "a hole gives space back:", taken(fd))
    fallocate(fd, ZERO_RANGE, 7 * MIB + 5, 100)
    right = bytearray(b"z" * (8 * MIB) + bytes(12 * MIB))
    right[4097 : 4097 + 6 * MIB] = bytes(6 * MIB)
    right[7 * MIB + 5 : 7 * MIB + 105] = bytes(100)
    os.close(fd)
    fs.kill()
    fs.start()
    check((fs.path / "f").read_bytes() == right, "the bytes are not right after fallocate and kill -9")
    fd = os.open(fs.path / "f", os.O_RDWR)
    fallocate(fd, ZERO_RANGE, 20 * MIB, 100)
    check(os.fstat(fd).st_size == 20 * MIB + 100, "ZERO_RANGE makes a file longer:", os.fstat(fd))
    os.ftruncate(fd, MIB)
    check(taken(fd) == 8, "what a cut leaves:", taken(fd))
    refused(errno.EOPNOTSUPP, fallocate, fd, COLLAPSE_RANGE, 0, 4096)
    refused(errno.ENOSPC, fallocate, fd, 0, 0, 1 << 40)
    check(taken(fd) == 8, "what cannot be given out takes nothing:", taken(fd))
    os.close(fd)
    fs.close()


@case(timeout_s=120)
def reserved_space(ctx):
    """What fallocate gave out can be written when nothing else can be."""
    fs = ctx.fs(target_count=1, target_bytes=64 * MIB)
    fd = os.open(fs.path / "f", os.O_RDWR | os.O_CREAT)
    fallocate(fd, 0, 0, 16 * MIB)
    with open(fs.path / "filler", "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(MIB))
                os.fsync(filler.fileno())
        except OSError as error:
            check(error.errno == errno.ENOSPC, "filling:", error)
    for at in range(0, 16 * MIB, 100_003):
        os.pwrite(fd, b"w" * 100_003 if at + 100_003 <= 16 * MIB else b"w" * (16 * MIB - at), at)
    os.fsync(fd)
    check(os.pread(fd, 16 * MIB, 0) == b"w" * (16 * MIB), "what was given out holds what was written")
    os.close(fd)
    fs.close()


@case(timeout_s=120)
def holes(ctx):
    """SEEK_DATA, SEEK_HOLE and st_blocks: du, cp and tar see holes as holes; a hole of 8 EiB costs nothing."""
    fs = ctx.fs()
    path = fs.path / "h"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"x" * 4096, MIB)
    os.pwrite(fd, b"y" * 100, 5 * MIB)
    check(taken(fd) == 8, "two blocks of data take", taken(fd), "KiB")
    right = [(MIB, MIB + 4096), (5 * MIB, 5 * MIB + 100)]
    check(stretches(fd) == right, "data is found at", stretches(fd))
    check(os.lseek(fd, 0, os.SEEK_HOLE) == 0, "the file begins with a hole")
    refused(errno.ENXIO, os.lseek, fd, 5 * MIB + 100, os.SEEK_HOLE)
    os.ftruncate(fd, (1 << 63) - 1)
    os.pwrite(fd, b"end", (1 << 63) - 4)
    check(stretches(fd)[2:] == [((1 << 63) - 4096, (1 << 63) - 1)], "data is found at", stretches(fd))
    check(taken(fd) == 12, "and it takes", taken(fd), "KiB")
    os.ftruncate(fd, 5 * MIB + 100)
    os.fsync(fd)
    for copy in (["cp", "--sparse=auto", path, fs.path / "copy"], ["cp", "--sparse=always", path, fs.path / "copy2"]):
        run(copy, timeout_s=30)
        check(os.stat(copy[-1]).st_blocks == 16, copy, "takes", os.stat(copy[-1]).st_blocks, "sectors")
        run(["cmp", path, copy[-1]], timeout_s=30)
    run(["tar", "-C", fs.path, "-Scf", ctx.work / "h.tar", "h"], timeout_s=30)
    check((ctx.work / "h.tar").stat().st_size < MIB, "tar -S stores holes as holes")
    (fs.path / "out").mkdir()
    run(["tar", "-C", fs.path / "out", "-xf", ctx.work / "h.tar"], timeout_s=30)
    run(["cmp", path, fs.path / "out" / "h"], timeout_s=30)
    check(os.stat(fs.path / "out" / "h").st_blocks == 16, "unpacked it takes as much")
    check(run(["du", "-k", path], timeout_s=30).out.split()[0] == "8", "du is right")
    os.close(fd)
    fs.close()


def as_user(fs, uid, *words):
    """Runs a command as an ordinary user without groups; gives its exit code."""
    return run(["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", *words], timeout_s=30, ok=None).code


def linkat(fd, path):
    """Gives an open file a name."""
    source = b"/proc/self/fd/%d" % fd
    if LIBC.linkat(-100, source, -100, os.fsencode(path), 0x400) != 0:
        raise OSError(ctypes.get_errno(), "linkat")


@case(timeout_s=60)
def tmpfile(ctx):
    """O_TMPFILE: its bytes stay over a kill -9, linkat gives it a name, unless it was opened with O_EXCL."""
    fs = ctx.fs()
    unlinkable = os.open(fs.path, os.O_TMPFILE | os.O_EXCL | os.O_RDWR)
    refused(errno.ENOENT, linkat, unlinkable, fs.path / "other")
    os.close(unlinkable)
    fd = os.open(fs.path, os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, b"hello")
    os.fsync(fd)  # a child that is started below closes its copy, and must not wait for the server
    check(os.listdir(fs.path) == [] and os.fstat(fd).st_nlink == 0, "it has a name")
    fs.kill()
    fs.start()
    os.write(fd, b" again")
    linkat(fd, fs.path / "named")
    os.close(fd)
    check((fs.path / "named").read_bytes() == b"hello again", "the bytes are not there under the name")
    fs.close()


@case(timeout_s=60)
def whiteout(ctx):
    """renameat2 with RENAME_WHITEOUT leaves a character device 0, 0."""
    fs = ctx.fs()
    (fs.path / "a").write_bytes(b"x")
    old, new = os.fsencode(fs.path / "a"), os.fsencode(fs.path / "b")
    check(LIBC.renameat2(-100, old, -100, new, 4) == 0, "renameat2:", os.strerror(ctypes.get_errno()))
    left = os.lstat(old)
    check(stat.S_ISCHR(left.st_mode) and left.st_rdev == 0, "what is left is", left)
    check((fs.path / "b").read_bytes() == b"x", "the file moved")
    fs.close()


@case(timeout_s=60)
def acls(ctx):
    """setfacl and getfacl: what an entry allows is allowed, mask and chmod, inheritance, umask; there after a restart."""
    fs = ctx.fs()
    user, other = 65534, 1
    f = fs.path / "f"
    f.write_bytes(b"secret")
    f.chmod(0o600)
    fs.path.chmod(0o755)
    check(as_user(fs, user, "cat", f) != 0, "read without a right")
    run(["setfacl", "-m", "u:%d:r" % user, f], timeout_s=30)
    check(as_user(fs, user, "cat", f) == 0, "an entry allows it")
    check(as_user(fs, other, "cat", f) != 0, "another user has no entry")
    check(os.stat(f).st_mode & 0o777 == 0o640, "the mask is shown as the group's bits: %o" % os.stat(f).st_mode)
    f.chmod(0o600)
    check(as_user(fs, user, "cat", f) != 0, "chmod took the mask away")
    f.chmod(0o640)
    check(as_user(fs, user, "cat", f) == 0, "and gives it back")
    for name, written in (("idle", False), ("written", True)):
        f = fs.path / name
        f.write_bytes(b"before")
        f.chmod(0o600)
        with open(f, "r+b", buffering=0) as held:
            held.write(b"more") if written else held.read()
            os.stat(f)
            run(["setfacl", "-m", "u:%d:r" % user, f], timeout_s=30)
            check(as_user(fs, user, "cat", f) == 0, "an entry made while the file is open counts at once:", name)
    d = fs.path / "d"
    d.mkdir()
    run(["setfacl", "-d", "-m", "u:%d:rwx" % user, d], timeout_s=30)
    before = os.umask(0o077)
    (d / "file").write_bytes(b"x")
    (d / "sub").mkdir()
    (fs.path / "plain").write_bytes(b"x")
    os.umask(before)
    check(os.stat(fs.path / "plain").st_mode & 0o777 == 0o600, "the umask counts without a default ACL")
    shown = run(["getfacl", "-pcE", "-n", d / "file", d / "sub"], timeout_s=30).out
    check("user:%d:rwx" % user in shown and "default:user:%d:rwx" % user in shown, "inherited:\n" + shown)
    check(as_user(fs, user, "cat", d / "file") == 0, "an inherited entry allows it")
    fs.unmount()
    fs.stop()
    fs.start()
    fs.mount()
    again = run(["getfacl", "-pcE", "-n", d / "file", d / "sub"], timeout_s=30).out
    check(again == shown, "after a restart:\n" + again)
    run(["setfacl", "-b", f], timeout_s=30)
    check("system.posix_acl_access" not in os.listxattr(f), "setfacl -b leaves", os.listxattr(f))
    run(["cp", "-a", d, fs.path / "copy"], timeout_s=30)
    check(run(["getfacl", "-pcE", "-n", fs.path / "copy" / "file"], timeout_s=30).out in shown, "cp -a keeps ACLs")
    fs.close()


@case(timeout_s=60, peer=True)
def interface(ctx):
    """Names, times, sizes, kinds, attributes, mappings: the corners of each; there after a restart of server and mount."""
    fs = ctx.fs()
    root = os.fsencode(fs.path)
    names = [b"\xff" * 255] + [bytes([byte]) for byte in range(1, 256) if byte not in b"./"]
    for name in names:
        with open(root + b"/" + name, "wb") as out:
            out.write(name)
    refused(errno.ENAMETOOLONG, os.mkdir, root + b"/" + b"x" * 256)
    os.symlink("s" * 4095, fs.path / "link")
    kinds = {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK, "char": stat.S_IFCHR, "block": stat.S_IFBLK, "file": stat.S_IFREG}
    for name, kind in kinds.items():
        os.mknod(fs.path / name, kind | 0o640, os.makedev(7, 300))
    (fs.path / "times").write_bytes(b"x")
    times = (-(10**18) - 1, 5 * 10**18 + 7)
    os.utime(fs.path / "times", ns=times)
    with open(fs.path / "large", "wb") as out:
        os.ftruncate(out.fileno(), (1 << 63) - 1)
        os.pwrite(out.fileno(), b"end", (1 << 63) - 4)
    values = {"user.large": b"v" * 65536, "user.empty": b"", "trusted.a": b"t", "security.a": b"s"}
    for name, value in values.items():
        os.setxattr(fs.path / "times", name, value)
    with open(fs.path / "mapped", "w+b") as out:
        out.write(b"a" * 8192)
        out.flush()
        with mmap.mmap(out.fileno(), 8192) as shared, mmap.mmap(out.fileno(), 8192, flags=mmap.MAP_PRIVATE) as private:
            shared[5000:5003], private[0:1] = b"xyz", b"p"
            shared.flush()
            check(os.pread(out.fileno(), 3, 5000) == b"xyz", "a shared mapping's change is read")
            check(os.pread(out.fileno(), 1, 0) == b"a", "a private mapping's change stays private")
            os.pwrite(out.fileno(), b"new", 100)
            check(shared[100:103] == b"new", "a write is seen in the mapping")
    if not fs.is_peer:
        fs.unmount()
        fs.stop()
        fs.start()
        fs.mount()
    for name in names:
        with open(root + b"/" + name, "rb") as found:
            check(found.read() == name, "another file under", name)
    check(os.readlink(fs.path / "link") == "s" * 4095, "the symbolic link's target")
    for name, kind in kinds.items():
        made = os.lstat(fs.path / name)
        device = os.makedev(7, 300) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
        check(stat.S_IFMT(made.st_mode) == kind and made.st_rdev == device, name, "is", made)
    timed = os.stat(fs.path / "times")
    check((timed.st_atime_ns, timed.st_mtime_ns) == times, "times are", timed)
    born = int(run(["stat", "-c", "%W", fs.path / "times"], timeout_s=10).out)
    check(abs(born - time.time()) < 600, "the birth time is", born)
    with open(fs.path / "large", "rb") as found:
        check(os.pread(found.fileno(), 3, (1 << 63) - 4) == b"end", "the end of a file of 8 EiB - 1")
    for name, value in values.items():
        check(os.getxattr(fs.path / "times", name) == value, name, "has another value")
    check((fs.path / "mapped").read_bytes()[5000:5003] == b"xyz", "what was mapped")
    fs.close()


@case(timeout_s=60)
def setuid_cleared(ctx):
    """Write, truncate, O_TRUNC, fallocate and chown by others take setuid and setgid away, a write capabilities."""
    fs = ctx.fs()
    fs.path.chmod(0o777)
    f = fs.path / "s"
    changes = ("open(%r, 'a').write('y')", "import os; os.truncate(%r, 0)", "open(%r, 'w')")
    allocate = "import os; os.posix_fallocate(os.open(%r, os.O_WRONLY), 0, 9000)"
    for change in [change % str(f) for change in (*changes, allocate)]:
        f.write_bytes(b"x")
        f.chmod(0o6777)
        check(as_user(fs, 65534, "/usr/bin/env", "python3", "-c", change) == 0, change)
        check(os.stat(f).st_mode & 0o7777 == 0o777, change, "leaves %o" % os.stat(f).st_mode)
    f.chmod(0o6777)
    os.chown(f, 1, 1)
    check(os.stat(f).st_mode & 0o7777 == 0o777, "chown leaves %o" % os.stat(f).st_mode)
    os.setxattr(f, "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    with open(f, "a") as out:
        out.write("z")
    check("security.capability" not in os.listxattr(f), "a write leaves", os.listxattr(f))
    fs.close()


CAPABILITIES = bytes.fromhex("0100000200200000000000000000000000000000")
# Opens as argv[2] says, waits for a line, writes one block, says so, and again.
LATE_WRITER = """
import mmap, os, sys
block = mmap.mmap(-1, 4096)
block[:] = b"d" * 4096
fd = os.open(sys.argv[1], os.O_WRONLY | int(sys.argv[2]))
print("open", flush=True)
for line in sys.stdin:
    os.write(fd, block)
    print("written", flush=True)
"""


@case(timeout_s=90, peer=True)
def setuid_cleared_late(ctx):
    """A file that gets setuid, setgid and capabilities when it is open loses them with the next write, whatever way."""
    fs = ctx.fs()
    fs.path.chmod(0o755)
    # What one mount does the other one's open file must follow.
    elsewhere = fs.path if fs.is_peer else fs.mount("other").path
    for name, flags in (("buffered", 0), ("append", os.O_APPEND), ("direct", os.O_DIRECT)):
        for user, may_keep in ((65534, False), (0, True), (0, False)):
            if (user, may_keep, name) == (0, False, "buffered"):
                continue  # FUSE does not tell it from root that may
            f = fs.path / ("%s-%d-%s" % (name, user, may_keep))
            f.write_bytes(b"x" * 4096)
            os.chown(f, user, user)
            words = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups"]
            words += [] if may_keep else ["--bounding-set", "-fsetid"]
            words = [str(word) for word in [*words, "/usr/bin/env", "python3", "-c", LATE_WRITER, f, flags]]
            child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            check(child.stdout.readline() == "open\n", f, "is not opened")
            for path in (f, elsewhere / f.name, f):
                path.chmod(0o6775)
                os.setxattr(path, "security.capability", CAPABILITIES)
                child.stdin.write("\n")
                child.stdin.flush()
                check(child.stdout.readline() == "written\n", f, "is not written")
                # Root with CAP_FSETID keeps setuid; capabilities nobody keeps.
                want = 0o6775 if may_keep else 0o775
                modes = ["%o" % (os.stat(seen).st_mode & 0o7777) for seen in (f, elsewhere / f.name)]
                check(modes == ["%o" % want] * 2, "%s by %d leaves %s" % (name, user, modes))
                left = os.listxattr(f) + os.listxattr(elsewhere / f.name)
                check("security.capability" not in left, name, "leaves", left)
            child.stdin.close()
            check(child.wait(30) == 0, f, "ended with", child.returncode)
    fs.close()


@case(timeout_s=60, peer=True)
def setgid_and_groups(ctx):
    """chmod, setfacl, creating and chown judge setgid by all groups of the caller, as any file system of Linux does."""
    fs = ctx.fs()
    fs.path.chmod(0o755)
    user, own, second, foreign = 65534, 65534, 4711, 4712

    def as_member(*words):
        who = ["setpriv", "--reuid", user, "--regid", own, "--groups", "%d,%d" % (second, 4713)]
        check(run([*who, *words], timeout_s=30, ok=None).code == 0, *words)

    def mode(path):
        return os.stat(path).st_mode & 0o7777

    for group, kept in ((own, 0o2000), (second, 0o2000), (foreign, 0)):
        f = fs.path / ("f%d" % group)
        f.write_bytes(b"x")
        os.chown(f, user, group)
        f.chmod(0o755)
        as_member("chmod", "2750", f)
        check(mode(f) == kept | 0o750, "chmod by a member of", group, "leaves %o" % mode(f))
        f.chmod(0o2750)
        as_member("setfacl", "-m", "u:1:rwx", f)
        check(mode(f) == kept | 0o770, "setfacl by a member of", group, "leaves %o" % mode(f))
        d = fs.path / ("d%d" % group)
        d.mkdir()
        os.chown(d, user, group)
        d.chmod(0o2777)
        make = "import os; os.umask(0); os.close(os.open(%r, os.O_CREAT | os.O_WRONLY, 0o2770)); os.mkdir(%r, 0o770)"
        as_member("/usr/bin/env", "python3", "-c", make % (str(d / "f"), str(d / "d")))
        made = [(mode(path), os.stat(path).st_gid) for path in (d / "f", d / "d")]
        check(made == [(kept | 0o770, group), (0o2770, group)], "made in a directory of", group, made)
        as_member("setfacl", "-d", "-m", "u:1:rwx", d)
        check(mode(d) == 0o2777, "a default ACL leaves %o" % mode(d))
    f = fs.path / ("f%d" % own)
    f.chmod(0o6775)
    as_member("chown", ":%d" % second, f)
    check((mode(f), os.stat(f).st_gid) == (0o775, second), "chown to another own group leaves %o" % mode(f))
    fs.close()


@case(timeout_s=60)
def inotify_fires(ctx):
    """inotify: a watcher hears of changes made through the same mount."""
    fs = ctx.fs()
    watch = LIBC.inotify_init1(os.O_NONBLOCK)
    check(watch >= 0 and LIBC.inotify_add_watch(watch, os.fsencode(fs.path), 0xFFF) >= 0, "inotify")
    (fs.path / "f").write_bytes(b"x")
    os.rename(fs.path / "f", fs.path / "g")
    os.chmod(fs.path / "g", 0o600)
    os.unlink(fs.path / "g")
    events, heard = os.read(watch, 65536), set()
    while events:
        mask, length = struct.unpack_from("=4xI4xI", events)
        heard.add(mask & 0xFFF)
        events = events[16 + length :]
    wanted = {"IN_MODIFY": 2, "IN_ATTRIB": 4, "IN_CLOSE_WRITE": 8, "IN_MOVED_FROM": 0x40, "IN_MOVED_TO": 0x80}
    wanted.update({"IN_CREATE": 0x100, "IN_DELETE": 0x200})
    missing = [name for name, mask in wanted.items() if mask not in heard]
    check(not missing, "not heard:", missing)
    os.close(watch)
    fs.close()


@case(timeout_s=60, peer=True)
def readdir_under_change(ctx):
    """A listing shows each name that stays exactly once, whatever comes and goes meanwhile."""
    fs = ctx.fs()
    d = fs.path / "d"
    d.mkdir()
    for at in range(400):
        (d / ("stay%d%s" % (at, "y" * 200))).touch()
    seen, changed = [], 0
    with os.scandir(d) as listing:
        for entry in listing:
            seen.append(entry.name)
            if len(seen) % 4 == 0:
                (d / ("new%d" % changed)).touch()
                if changed > 0:
                    (d / ("new%d" % (changed - 1))).unlink()
                changed += 1
    stayed = [name for name in seen if name.startswith("stay")]
    check(len(stayed) == 400 and len(set(stayed)) == 400, len(stayed), "of 400 names,", len(set(stayed)), "different")
    fs.close()


def _each_part(count, act):
    """`act(number)` for each number below `count`, in 16 processes at once."""

    def part(worker):
        for number in range(worker, count, 16):
            act(number)

    join_workers([fork_worker(part, worker) for worker in range(16)], 1_500, "workers on a huge directory")


def _list_until(d, last):
    """Lists again and again until the file `last` is there: no name comes twice, and none that was there is missing."""
    before, over = set(), False
    while not over:
        over = last.exists()
        names = [entry.name for entry in os.scandir(d)]
        now = set(names)
        check(len(now) == len(names), len(names) - len(now), "names came twice")
        check(before <= now, len(before - now), "names are missing that were listed before, as", sorted(before - now)[:3])
        before = now


@case(timeout_s=3_600)
def huge_directory(ctx):
    """A directory of very many names: made and removed while it is listed, found and whole through another mount.

    WEFT_NAMES=1000000 for the long run.
    """
    count = int(os.environ.get("WEFT_NAMES", ctx.scaled(8_000, 2_000)))
    fs = ctx.fs()
    other = fs.mount("other").path
    d, seen_by_other = fs.path / "d", other / "d"
    d.mkdir()
    begin = time.monotonic()
    _each_part(count, lambda number: os.close(os.open(d / ("name-%d" % number), os.O_CREAT | os.O_EXCL | os.O_WRONLY)))
    ctx.figure("huge_directory.create", count / (time.monotonic() - begin), "names/s")
    made = ctx.work / "made"
    lister = fork_worker(_list_until, seen_by_other, made)
    _each_part(count // 8, lambda number: (d / ("more-%d" % number)).touch())
    made.touch()
    join_workers([lister], 600, "lister")
    _each_part(count // 8, lambda number: (d / ("more-%d" % number)).unlink())
    begin = time.monotonic()
    names = {entry.name for entry in os.scandir(seen_by_other)}
    ctx.figure("huge_directory.list", count / (time.monotonic() - begin), "names/s")
    check(names == {"name-%d" % number for number in range(count)}, len(names), "names listed, not", count)
    for number in ctx.random.sample(range(count), 200):
        check((seen_by_other / ("name-%d" % number)).stat().st_size == 0, "found by name", number)
    check(not (seen_by_other / ("name-%d" % count)).exists(), "and no other")
    begin = time.monotonic()
    listing = os.scandir(seen_by_other)
    first = [next(listing).name for _ in range(100)]
    _each_part(count, lambda number: os.unlink(d / ("name-%d" % number)))
    ctx.figure("huge_directory.remove", count / (time.monotonic() - begin), "names/s")
    rest = [entry.name for entry in listing]
    check(len(set(first + rest)) == len(first + rest) and set(rest) <= names, "a name came twice, or from nowhere")
    check(os.listdir(seen_by_other) == [], "all are gone")
    os.rmdir(seen_by_other)
    fs.close()


@case(timeout_s=60)
def relatime(ctx):
    """A read sets atime when it is older than mtime or ctime, or than a day; noatime keeps it; a new mount knows it."""
    fs = ctx.fs()
    f = fs.path / "f"
    f.write_bytes(b"x" * 10)
    os.utime(f, (1, 1000))
    before = time.time()
    f.read_bytes()
    first = os.stat(f).st_atime_ns
    check(before - 5 < first / 1e9 < time.time() + 5, "read, and atime is", first)
    f.read_bytes()
    check(os.stat(f).st_atime_ns == first, "a second read changed atime from", first, "to", os.stat(f).st_atime_ns)
    fs.unmount()
    fs.mount(options=["noatime"])
    check(os.stat(f).st_atime_ns == first, "a new mount says", os.stat(f).st_atime_ns, "not", first)
    os.utime(f, (1, 1000))
    f.read_bytes()
    check(os.stat(f).st_atime == 1, "noatime, and atime is", os.stat(f).st_atime)
    fs.close()


@case(timeout_s=120)
def small_files(ctx):
    """Files of up to 4 KiB are with the names: whole after kill -9 without fsync, in two mounts, grown, cut and removed."""
    fs = ctx.fs()
    files = {"f%d" % n: os.urandom(n) for n in (1, 100, 3901, 4096, 4097, 70_000)}
    for name, data in files.items():
        (fs.path / name).write_bytes(data)
        said = fs.weft("fs", "stat", fs.path / name).out
        check(("with the names" in said) == (len(data) <= 4096), "a file of", len(data), "bytes:", said)
        check(os.stat(fs.path / name).st_blocks > 0, "a file of", len(data), "bytes without blocks")
    fs.kill()
    fs.start()
    other = fs.mount("other").path
    for name, data in files.items():
        check((other / name).read_bytes() == data, "a file of", len(data), "bytes after a kill, elsewhere")
    with open(other / "f100", "ab") as grown:
        grown.write(b"x" * 4000)
    check((fs.path / "f100").read_bytes() == files["f100"] + b"x" * 4000, "grown elsewhere")
    check("with the names" not in fs.weft("fs", "stat", fs.path / "f100").out, "4,100 bytes are at their target")
    os.truncate(fs.path / "f3901", 50)
    os.truncate(fs.path / "f3901", 9000)
    check((other / "f3901").read_bytes() == files["f3901"][:50].ljust(9000, b"\0"), "cut and made long elsewhere")
    fs.kill()
    fs.start()
    check((other / "f3901").read_bytes() == files["f3901"][:50].ljust(9000, b"\0"), "the same after a kill")
    (fs.path / "none").mkdir()
    fs.weft("fs", "layout", "set", fs.path / "none", "--inline", "0")
    (fs.path / "none" / "f").write_bytes(b"x")
    check("with the names" not in fs.weft("fs", "stat", fs.path / "none" / "f").out, "none are to be with the names")
    for name in files:
        os.unlink(other / name)
    check(sorted(os.listdir(fs.path)) == ["none"], "all are gone")
    fs.close()
