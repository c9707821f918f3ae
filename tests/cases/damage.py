"""Proof 5, damaged files at start: targets, databases and logs cut, bit-flipped, swapped, lost, of another cluster.

The node is filled, made durable, stopped and copied aside. Then, for each of its files and each kind of damage, the
copy is put back, damaged, and the server started. Allowed is one of two things: it does not start, ends with an exit
code (never a signal or a panic) and names the file; or it serves, and every file reads back right or gives EIO.
Which files there are is found by looking, so this holds whatever the formats are.
"""

import errno
import mmap
import os
import random
import shutil
import time

from lib.base import Failed, case, check, eventually
from lib.cluster import MIB, Cluster, program
from lib.procs import run, spawn, tail

BLOCK = 4096
MARK = b"WEFT-TEST-BLOCK:"
START_S = 30.0
READ_S = 60.0


def _content(name, blocks):
    """Blocks that each begin with a mark, so that they can be found on a target."""
    source = random.Random(name)
    return b"".join(MARK + b"%s:%06d;" % (name.encode(), index) + source.randbytes(BLOCK - len(MARK) - len(name) - 8) for index in range(blocks))


class Node:
    """A filled node and what must be read from it."""

    def __init__(self, ctx, name="a"):
        self.ctx = ctx
        self.fs = Cluster(ctx, name=name, target_bytes=128 * MIB)
        self.want = {}

    def fill(self):
        """Files of all sizes, in folders; all durable; then a clean stop and a copy."""
        fs = self.fs
        fs.create()
        fs.start()
        fs.mount()
        for index, blocks in enumerate((0, 1, 1, 3, 40, 300, 1100)):
            folder = fs.path / ("dir%d" % (index % 3))
            folder.mkdir(exist_ok=True)
            name = "dir%d/file%d" % (index % 3, index)
            self.want[name] = _content("file%d" % index, blocks)
            (fs.path / name).write_bytes(self.want[name])
            run(["sync", fs.path / name])
        (fs.path / "dir0" / "link").symlink_to("file0")
        fs.close()
        fs.save("good")

    def parts(self):
        """The node's own files, relative to its folder, the largest kinds of everything included."""
        found = []
        for top in ("state", "targets"):
            for folder, _, names in os.walk(self.fs.dir / top):
                found += [os.path.relpath(os.path.join(folder, name), self.fs.dir) for name in names]
        return sorted(part for part in found if os.path.getsize(self.fs.dir / part) and not part.endswith(".toml"))

    def refused(self, offset, part):
        """The server ended at start: with a code, without panic, and with the damaged file's name."""
        code, words = self.fs.server.returncode, self.fs.log_since(offset)
        check(0 < code < 128 and code != 101, part, "the server died with", code, "\n" + words[-3000:])
        check("panicked" not in words, part, "panic:\n" + words[-3000:])
        last = [line for line in words.splitlines() if line.startswith("weft-server: ")][-1:]
        check(last, part, "no sentence at the end:\n" + words[-1500:])
        path = self.fs.dir / part
        names = [str(path)] if part.startswith("targets") else [str(path), str(path.parent)]
        check(any(name in last[0] for name in names), part, "is not named by the error:\n" + last[0])
        self.ctx.note(last[0])

    def start(self, part):
        """Starts the server on damaged files; False when it refused, properly."""
        fs, offset = self.fs, self.fs.log_offset()
        fs.server = spawn([program("weft-server"), "--config", fs.config], fs.log, env={"RUST_BACKTRACE": "1"})
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if fs.server.poll() is not None:
                self.refused(offset, part)
                return False
            if "serving" in fs.log_since(offset):
                return True
            time.sleep(0.01)
        fs.kill()
        raise Failed("%s: the server neither served nor ended within %g s:\n%s" % (part, START_S, tail(fs.log)))

    def answers(self, what):
        """Reads everything through a mount: right, or EIO. Returns (right, with EIO)."""
        right, broken = 0, 0
        self.fs.mount(options=["on_timeout=eio", "timeout_ms=10000"])
        begin = time.monotonic()
        for name, want in self.want.items():
            try:
                found = (self.fs.path / name).read_bytes()
            except OSError as error:
                check(error.errno == errno.EIO, what, name, "gives", error)
                broken += 1
                continue
            check(found == want, what, name, "reads back WRONG: silent corruption;", len(found), "bytes of", len(want))
            right += 1
        check(time.monotonic() - begin < READ_S, what, "reading took", time.monotonic() - begin, "s")
        self.fs.check_server()
        self.fs.check_mounts()
        return right, broken

    def attempt(self, part, label, damage):
        """One damage: what became of it, as a word."""
        what = "%s %s:" % (part, label)
        self.fs.load("good")
        damage(self.fs.dir / part)
        if not self.start(part):
            self.ctx.note(what, "refused")
            return "refused"
        right, broken = self.answers(what)
        self.ctx.note(what, right, "right,", broken, "EIO")
        self.fs.unmount()
        self.fs.kill()
        return "eio" if broken else "right"

    def undamaged(self):
        """The copy put back starts, and everything is right."""
        self.fs.load("good")
        self.fs.start()
        right, broken = self.answers("undamaged:")
        check(broken == 0 and right == len(self.want), "the undamaged copy is not right any more")
        self.fs.close()


def _cut(fraction):
    def damage(path):
        os.truncate(path, int(os.path.getsize(path) * fraction))

    return damage


def _flip(seed, count, limit=None):
    """Flips `count` bits, among the first `limit` bytes; where the file has content, when it is large."""

    def damage(path):
        source = random.Random(seed)
        length = min(os.path.getsize(path), limit or (1 << 62))
        with open(path, "r+b") as target:
            for _ in range(count):
                at = source.randrange(length)
                target.seek(at)
                old = target.read(1)
                target.seek(at)
                target.write(bytes([old[0] ^ (1 << source.randrange(8))]))

    return damage


def _remove(path):
    path.unlink()


def _noise_at_end(path):
    with open(path, "ab") as target:
        target.write(random.Random(5).randbytes(5000))


def _zero_pages(seed):
    def damage(path):
        source = random.Random(seed)
        pages = max(1, os.path.getsize(path) // BLOCK)
        with open(path, "r+b") as target:
            for page in source.sample(range(pages), min(pages, max(1, pages // 10))):
                target.seek(page * BLOCK)
                target.write(bytes(BLOCK))

    return damage


@case(timeout_s=900)
def damaged_files(ctx):
    """Every file of a stopped node cut, flipped, zeroed or lost: refused by name, or right, or EIO; never wrong."""
    node = Node(ctx)
    node.fill()
    parts = node.parts()
    check(len(parts) >= 5, "found only", parts)
    ctx.note("files:", parts)
    damages = [
        ("cut to nothing", _cut(0)),
        ("cut in half", _cut(0.5)),
        ("first 4 KiB flipped", _flip(1, 3, BLOCK)),
        ("100 bits flipped in the first MiB", _flip(2, 100, MIB)),
        ("a tenth of its pages zeroed", _zero_pages(3)),
        ("noise at its end", _noise_at_end),
        ("lost", _remove),
    ]
    if ctx.quick:
        damages = damages[1:4]
        seen, few = set(), []
        for part in parts:
            kind = (os.path.dirname(part), os.path.splitext(part)[1])
            if kind not in seen:
                seen.add(kind)
                few.append(part)
        parts = few
    outcome = {"refused": 0, "eio": 0, "right": 0}
    complaints = []
    for part in parts:
        # Targets are alike: each damage is tried on one of them, a different one each time.
        for index, (label, damage) in enumerate(damages):
            if part.startswith("targets") and not ctx.quick and not part.endswith(str(index % len(node.fs.targets))):
                continue
            try:
                outcome[node.attempt(part, label, damage)] += 1
            except Failed as failure:
                complaints.append("%s %s: %s" % (part, label, failure))
                node.ctx.note("FAILED", complaints[-1])
                _abandon(node)
    for word, count in outcome.items():
        ctx.figure("damage." + word, count, "damages")
    node.undamaged()
    check(not complaints, "%d damages went wrong:\n" % len(complaints) + "\n".join(complaints))


def _abandon(node):
    """After a failure: the mount and the server of this attempt go, whatever they are doing."""
    from lib.runner import abort_mount

    for mount in list(node.fs.mounts.values()):
        abort_mount(mount.path)
        run(["umount", "-l", mount.path], ok=None)
        mount.child.kill()
        mount.child.wait(timeout=20)
    node.fs.mounts.clear()
    if node.fs.server.poll() is None:
        node.fs.kill()


def _find_blocks(path, name):
    """Offsets on a target of the blocks that hold this file's data."""
    found, base = [], 0
    mark = MARK + name.encode() + b":"
    with open(path, "rb") as source:
        while True:
            piece = source.read(4 * MIB)
            if not piece:
                return found
            for at in range(0, len(piece), BLOCK):
                if piece.startswith(mark, at):
                    found.append(base + at)
            base += len(piece)


def _read_up_to(descriptor, offset, length):
    """What can be read of a range, and the errno at its end. A read that meets an error later on is a short one."""
    found = b""
    while len(found) < length:
        try:
            piece = os.pread(descriptor, length - len(found), offset + len(found))
        except OSError as error:
            return found, error.errno
        if not piece:
            break
        found += piece
    return found, None


def _blocks_lost(path, want, flags):
    """Offsets of the blocks that give EIO when each is read alone; all others must be right."""
    lost, page = [], mmap.mmap(-1, BLOCK)
    descriptor = os.open(path, os.O_RDONLY | flags)
    for offset in range(0, len(want), BLOCK):
        try:
            count = os.preadv(descriptor, [page], offset)
            check(page[:count] == want[offset : offset + BLOCK], "wrong data in the block at", offset)
        except OSError as error:
            check(error.errno == errno.EIO, "read gives", error)
            lost.append(offset)
    os.close(descriptor)
    return lost


@case(timeout_s=300)
def damaged_data(ctx):
    """One bit flipped in the middle of stored data: that file gives EIO there, the rest of it and all others read."""
    node = Node(ctx)
    node.fill()
    hit = 0
    for target in node.fs.targets:
        blocks = _find_blocks(target, "file6")
        if not blocks:
            continue
        node.fs.load("good")
        at = blocks[len(blocks) // 2]
        with open(target, "r+b") as data:
            data.seek(at + 1000)
            old = data.read(1)
            data.seek(at + 1000)
            data.write(bytes([old[0] ^ 4]))
        check(node.start(str(target)), "the server does not start for one bad data block")
        right, broken = node.answers("one bit of file6:")
        check(broken == 1, "one bit of file6 was flipped;", right, "files are right and", broken, "give EIO")
        name = next(name for name in node.want if name.endswith("file6"))
        good = bad = 0
        with open(node.fs.path / name, "rb", buffering=0) as source:
            for offset in range(0, len(node.want[name]), MIB):
                want = node.want[name][offset : offset + MIB]
                found, error = _read_up_to(source.fileno(), offset, len(want))
                check(found == want[: len(found)], "wrong data at", offset)
                check(error in (None, errno.EIO), "read gives errno", error)
                check(error or len(found) == len(want), "only", len(found), "bytes at", offset, "and no error")
                good += not error
                bad += bool(error)
        check(good >= 1 and bad >= 1, "pieces of file6 that read:", good, "that give EIO:", bad)
        for flags in (0, os.O_DIRECT):
            lost = _blocks_lost(node.fs.path / name, node.want[name], flags)
            check(len(lost) == 1, "one block is damaged; those that cannot be read with flags", flags, "are", lost)
        node.fs.unmount()
        node.fs.kill()
        hit += 1
    check(hit >= 2, "the data of file6 was found on", hit, "targets only")
    node.undamaged()


@case(timeout_s=300)
def wrong_cluster(ctx):
    """A target of another cluster is offline by name; two targets exchanged are recognised."""
    node, other = Node(ctx, "a"), Node(ctx, "b")
    node.fill()
    other.fill()
    foreign = lambda path: shutil.copyfile(other.fs.targets[1], path)  # noqa: E731
    check(node.attempt("targets/target1", "of another cluster", foreign) == "eio", "another cluster's target was taken")
    check("target OFFLINE" in node.fs.log_since(0) and "belongs to cluster" in node.fs.log_since(0), "not told")

    def exchange(path):
        spare = path.with_name("spare")
        path.rename(spare)
        path.with_name("target2").rename(path)
        spare.rename(path.with_name("target2"))

    check(node.attempt("targets/target1", "exchanged with target2", exchange) in ("refused", "right"), "exchanged targets")
    node.undamaged()
    config = node.fs.config.read_text()
    node.fs.config.write_text(config.replace(str(node.fs.targets[3]), str(node.fs.targets[2])))
    check(not node.start("targets/target2"), "the same target twice was taken")
    node.fs.config.write_text(config)
    eventually("the node is stopped", lambda: node.fs.server.poll() is not None, 5)
    node.undamaged()
