"""A program of file system operations that follows from a seed, and what must be there after a power cut.

The recording guest carries the steps out and notes after each that it was answered. The verifying guest makes the same
steps in memory: with N answers noted, the tree is that after N steps or that after N + 1. A block of a file is
what its last fsync made it, or any of what was written later.
"""

import copy
import errno
import os
import random
import stat

BLOCK = 4096
FOLDERS = ("", "a/", "b/", "b/c/")
LENGTHS = (0, 100, 4000, 4096, 10_000, 65_536, 200_000, 1_300_000)
XATTR = "user.weft-test"


def content(key, length):
    """Bytes that follow from `key`."""
    return random.Random(key).randbytes(length)


class File:
    """A file: its durable content first, then each later content that no fsync covered."""

    def __init__(self):
        self.versions = [b""]
        self.mode = 0o644
        self.xattr = None

    def write(self, offset, data, durable):
        """A write at an offset; durable: an fsync followed."""
        last = self.versions[-1].ljust(offset, b"\0")
        new = last[:offset] + data + last[offset + len(data) :]
        self.versions = [new] if durable else self.versions + [new]

    def cut(self, length):
        """A truncation: at once durable, and of every version."""
        self.versions = [version[:length].ljust(length, b"\0") for version in self.versions]


class Steps:
    """The steps of one thread and, as `tree`, what they have made: path -> File, or a symlink's target as str, or None
    for a folder."""

    def __init__(self, seed, thread):
        self.random = random.Random("%s %s" % (seed, thread))
        self.tree = {folder.rstrip("/"): None for folder in FOLDERS if folder}
        self.count = 0

    def next(self):
        """Chooses the next step, makes it in memory, and returns it."""
        self.count += 1
        files = sorted(path for path, node in self.tree.items() if isinstance(node, File))
        kind = self.random.choices(
            ("put", "patch", "loose", "append", "cut", "rename", "unlink", "link", "symlink", "folder", "chmod", "xattr"),
            (6, 4, 4, 3, 2, 3, 2, 1, 1, 1, 1, 1),
        )[0]
        fresh = "%s%s" % (self.random.choice(FOLDERS), "f%d" % self.random.randrange(12))
        if not files or kind == "put":
            step = ("put", fresh if isinstance(self.tree.get(fresh), (File, type(None))) else files[0], self._length())
        else:
            step = self._on_file(kind, self.random.choice(files), fresh)
        self._make(step)
        return step

    def _length(self):
        return self.random.choices(LENGTHS, (1, 2, 2, 2, 3, 3, 2, 1))[0]

    def _on_file(self, kind, path, fresh):
        length = len(self.tree[path].versions[-1])
        if kind in ("patch", "loose") and length:
            offset = self.random.randrange(length)
            return (kind, path, offset, min(self.random.choice((1, 500, 4096, 20_000, 150_000)), length - offset))
        if kind in ("append", "patch", "loose"):
            return ("patch", path, length, self.random.choice((10, 3000, 40_000)))
        if kind == "cut":
            return ("cut", path, self.random.randrange(2 * length + 1) if self.random.randrange(3) else length // 2)
        if kind == "rename" and path != fresh and self.tree.get(path) is not self.tree.get(fresh):
            return ("rename", path, fresh)
        if kind == "link" and fresh not in self.tree:
            return ("link", path, fresh)
        if kind == "symlink" and fresh not in self.tree:
            return ("symlink", path, fresh)
        if kind == "folder":
            return ("folder", "e%d" % self.random.randrange(4))
        if kind == "chmod":
            return ("chmod", path, self.random.choice((0o600, 0o640, 0o755)))
        if kind == "xattr":
            return ("xattr", path, "value %d" % self.count)
        return ("unlink", path)

    def _make(self, step):
        kind, path, *rest = step
        tree, node = self.tree, self.tree.get(path)
        if kind == "put":
            node = tree.setdefault(path, File())
            node.cut(0)
            node.write(0, content(self._key(), rest[0]), True)
        elif kind in ("patch", "loose"):
            node.write(rest[0], content(self._key(), rest[1]), kind == "patch")
        elif kind == "cut":
            node.cut(rest[0])
        elif kind == "rename":
            tree[rest[0]] = tree.pop(path)
        elif kind == "unlink":
            del tree[path]
        elif kind == "link":
            tree[rest[0]] = node
        elif kind == "symlink":
            tree[rest[0]] = path
        elif kind == "folder":
            if path in tree:
                del tree[path]
            else:
                tree[path] = None
        elif kind == "chmod":
            node.mode = rest[0]
        elif kind == "xattr":
            node.xattr = rest[0]

    def _key(self):
        return self.count * 7919

    def carry_out(self, step, top):
        """Makes the step just chosen on a real file system."""
        kind, path, *rest = step
        path = os.path.join(top, path)
        if kind == "put":
            self._write(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0, rest[0], True)
        elif kind in ("patch", "loose"):
            self._write(path, os.O_WRONLY, rest[0], rest[1], kind == "patch")
        elif kind == "cut":
            os.truncate(path, rest[0])
        elif kind == "rename":
            os.rename(path, os.path.join(top, rest[0]))
        elif kind == "unlink":
            os.unlink(path)
        elif kind == "link":
            os.link(path, os.path.join(top, rest[0]))
        elif kind == "symlink":
            os.symlink(step[1], os.path.join(top, rest[0]))
        elif kind == "folder":
            if step[1] in self.tree:
                os.mkdir(path)
            else:
                os.rmdir(path)
        elif kind == "chmod":
            os.chmod(path, rest[0])
        elif kind == "xattr":
            os.setxattr(path, XATTR, rest[0].encode())

    def _write(self, path, flags, offset, length, durable):
        out = os.open(path, flags, 0o644)
        try:
            data = content(self._key(), length)
            at = 0
            while at < len(data):
                at += os.pwrite(out, data[at:], offset + at)
            if durable:
                os.fsync(out)
        finally:
            os.close(out)


def make_folders(top):
    """What is there before the first step."""
    for folder in FOLDERS:
        os.makedirs(os.path.join(top, folder), exist_ok=True)


def _read(path, length):
    """The blocks of a file, None for one that gives EIO."""
    found = []
    source = os.open(path, os.O_RDONLY)
    try:
        try:
            data = os.pread(source, length, 0) if length else b""
            if len(data) == length:
                return [data[at : at + BLOCK] for at in range(0, length, BLOCK)]
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        for at in range(0, length, BLOCK):
            want = min(BLOCK, length - at)
            try:
                block = os.pread(source, want, at)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                block = None
            assert block is None or len(block) == want, "%s: short read at %d" % (path, at)
            found.append(block)
    finally:
        os.close(source)
    return found


def _content_fits(path, length, versions):
    """Whether every block is that of one of the versions; EIO where they differ. Else the place and why."""
    for index, block in enumerate(_read(path, length)):
        at = index * BLOCK
        want = min(BLOCK, length - at)
        allowed = {version[at : at + want].ljust(want, b"\0") for version in versions}
        if block is None and len(allowed) == 1:
            return "EIO at %d of %d" % (at, length)
        if block is not None and block not in allowed:
            return "wrong bytes at %d of %d: %r, allowed %r" % (at, length, block[:16], [old[:16] for old in allowed])
    return None


def _alternatives(path, before, after, step):
    """What a file may hold: (versions, shortest, longest) each; a step that was in flight makes several."""
    new, old = after[path], before.get(path)
    if step[0] not in ("put", "patch", "loose", "cut") or new is not after[step[1]]:
        return [(new.versions, len(new.versions[0]), len(new.versions[0]))]
    longest = len(new.versions[-1])
    done = {
        # Truncated first, which is answered when it is durable; then it grows.
        "put": ([b""] + new.versions, 0, longest),
        "patch": ((old.versions if old else []) + new.versions, len(old.versions[0]) if old else 0, longest),
        "loose": (new.versions, longest, longest),
        "cut": (new.versions, longest, longest),
    }[step[0]]
    untouched = [(old.versions, len(old.versions[0]), len(old.versions[0]))] if old else []
    return untouched + [done]


def _old(node):
    """The alternatives of a file when the step in flight did not happen."""
    return [(node.versions, len(node.versions[0]), len(node.versions[0]))]


def _attributes(node, paths):
    """What stat and getxattr must say of a file, its number of links being that of its paths."""
    return (node.mode, node.xattr, paths[id(node)])


def _link_counts(tree):
    counts = {}
    for node in tree.values():
        counts[id(node)] = counts.get(id(node), 0) + 1
    return counts


def _listing(top):
    found = {}
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            path = os.path.join(folder, name)
            found[os.path.relpath(path, top)] = os.lstat(path)
    return found


def _kind(node):
    return stat.S_IFDIR if node is None else stat.S_IFLNK if isinstance(node, str) else stat.S_IFREG


def verify(seed, thread, answered, top):
    """Holds the tree at `top` against the steps of a thread of which `answered` were answered. Raises AssertionError."""
    steps = Steps(seed, thread)
    for _ in range(answered):
        steps.next()
    before = copy.deepcopy(steps.tree)
    step = steps.next()
    found = _listing(top)
    shapes = [{path: _kind(node) for path, node in tree.items()} for tree in (before, steps.tree)]
    shape = {path: stat.S_IFMT(info.st_mode) for path, info in found.items()}
    if shape not in shapes:
        want = shapes[0]
        wrong = sorted(path for path in set(shape) | set(want) if shape.get(path) != want.get(path))
        raise AssertionError("thread %d, %d answered, next %r: wrong names %s" % (thread, answered, step, wrong[:10]))
    trees = [tree for tree, names in zip((before, steps.tree), shapes) if names == shape]
    counts = [_link_counts(tree) for tree in trees]
    for path, info in sorted(found.items()):
        nodes = [tree[path] for tree in trees]
        where = os.path.join(top, path)
        try:
            if isinstance(nodes[0], str):
                assert os.readlink(where) in nodes, "%s points to %s" % (path, os.readlink(where))
            elif nodes[0] is not None:
                choices = _alternatives(path, before, steps.tree, step) if trees[-1] is steps.tree else _old(before[path])
                _verify_file(where, info, nodes, counts, choices)
        except AssertionError as error:
            raise AssertionError("thread %d, %d answered, next %r: %s" % (thread, answered, step, error)) from None
    return len(found)


def _verify_file(where, info, nodes, counts, alternatives):
    xattr = os.getxattr(where, XATTR).decode() if XATTR in os.listxattr(where) else None
    got = (stat.S_IMODE(info.st_mode), xattr, info.st_nlink)
    want = [_attributes(node, paths) for node, paths in zip(nodes, counts)]
    assert got in want, "%s has mode, xattr, links %s, not %s" % (where, got, want)
    length = info.st_size
    fitting = [versions for versions, shortest, longest in alternatives if shortest <= length <= longest]
    assert fitting, "%s is %d long, not %s" % (where, length, [choice[1:] for choice in alternatives])
    wrong = [_content_fits(where, length, versions) for versions in fitting]
    assert None in wrong, "%s: %s" % (where, "; or ".join(wrong))
