#!/usr/bin/env python3
"""fsx over one mount, or over two mounts of the same file in turn: random operations against a model in memory.

    tests/fsx_pair.py FILE [THE SAME FILE THROUGH ANOTHER MOUNT] --mode buffered|direct|mmap [--ops N] [--seed S]

Each operation goes through one of the files, chosen at random; what one changed, the other must show as soon as the
call has returned (a store into a mapping: as soon as its msync has). Reads are compared with the model byte by byte, and so
are lengths. On a difference the last operations are printed and the exit code is 1; the same seed does the same again.
"""

import argparse
import collections
import ctypes
import mmap
import os
import random
import sys

BLOCK = 4096
LOG_LINES = 40
PUNCH_HOLE, KEEP_SIZE, ZERO_RANGE = 0x02, 0x01, 0x10

libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def _fallocate(fd, mode, offset, length):
    if libc.fallocate(fd, mode, offset, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "fallocate")


class Difference(Exception):
    """The file is not what the model says."""


class Pair:
    """The file through each mount, and the bytes it must have."""

    def __init__(self, paths, mode, length, most, seed):
        self.paths, self.mode, self.length, self.most = paths, mode, length, most
        self.random = random.Random(seed)
        self.step = BLOCK if mode == "direct" else 1
        self.model = bytearray()
        self.turn = ""
        self.log = collections.deque(maxlen=LOG_LINES)
        self.flags = os.O_RDWR | (os.O_DIRECT if mode == "direct" else 0)
        with open(paths[0], "wb"):
            pass
        self.fds = [os.open(path, self.flags) for path in paths]
        # Anonymous memory begins at a page, which O_DIRECT needs.
        self.buffer = mmap.mmap(-1, most + BLOCK)

    def _note(self, text):
        self.log.append("%s: %s" % (self.turn, text))

    def _range(self, end):
        """A random offset and length within 0..end, in the mode's steps; (0, 0) when there is none."""
        steps = end // self.step
        if steps == 0:
            return 0, 0
        count = self.random.randint(1, min(steps, max(1, self.most // self.step)))
        return self.random.randint(0, steps - count) * self.step, count * self.step

    def _data(self, length):
        return self.random.randbytes(length)

    def _set(self, offset, data):
        if len(self.model) < offset:
            self.model.extend(bytes(offset - len(self.model)))
        self.model[offset : offset + len(data)] = data

    def _check(self, what, offset, found):
        want = self.model[offset : offset + len(found)]
        if bytes(found) != bytes(want):
            at = next(index for index, pair in enumerate(zip(found, want)) if pair[0] != pair[1])
            text = "%s: byte %d is %d, not %d" % (what, offset + at, found[at], want[at])
            raise Difference(text)

    def write(self, fd):
        offset, length = self._range(self.length)
        data = self._data(length)
        self._note("write %d at %d" % (length, offset))
        if self.mode == "direct":
            self.buffer[:length] = data
            with memoryview(self.buffer) as view, view[:length] as part:
                done = os.pwritev(fd, [part], offset)
        else:
            done = os.pwrite(fd, data, offset)
        if done != length:
            raise Difference("%d of %d bytes written" % (done, length))
        self._set(offset, data)

    def read(self, fd):
        offset, length = self._range(self.length)
        self._note("read %d at %d" % (length, offset))
        want = max(0, min(length, len(self.model) - offset))
        if self.mode == "direct":
            with memoryview(self.buffer) as view, view[:length] as part:
                done = os.preadv(fd, [part], offset)
            found = self.buffer[:done]
        else:
            found = os.pread(fd, length, offset)
        if len(found) != want:
            raise Difference("%d bytes read, not %d" % (len(found), want))
        self._check("read", offset, found)

    def map_read(self, fd):
        offset, length = self._range(len(self.model))
        self._note("map and read %d at %d" % (length, offset))
        if length == 0:
            return
        with mmap.mmap(fd, len(self.model), prot=mmap.PROT_READ) as mapped:
            self._check("mapping", offset, mapped[offset : offset + length])

    def map_write(self, fd):
        offset, length = self._range(len(self.model))
        self._note("map, store %d at %d, msync" % (length, offset))
        if length == 0:
            return
        data = self._data(length)
        with mmap.mmap(fd, len(self.model)) as mapped:
            mapped[offset : offset + length] = data
            mapped.flush()
        self._set(offset, data)

    def truncate(self, fd):
        length = self.random.randint(0, self.length // self.step) * self.step
        self._note("truncate to %d" % length)
        os.ftruncate(fd, length)
        if length < len(self.model):
            del self.model[length:]
        else:
            self.model.extend(bytes(length - len(self.model)))

    def punch(self, fd):
        offset, length = self._range(len(self.model))
        self._note("punch a hole of %d at %d" % (length, offset))
        if length:
            _fallocate(fd, PUNCH_HOLE | KEEP_SIZE, offset, length)
            self._set(offset, bytes(length))

    def zero(self, fd):
        offset, length = self._range(self.length)
        self._note("zero %d at %d" % (length, offset))
        if length:
            _fallocate(fd, ZERO_RANGE, offset, length)
            self._set(offset, bytes(length))

    def copy(self, fd):
        source, length = self._range(len(self.model))
        goal, _ = self._range(self.length)
        length = min(length, self.length - goal)
        if length == 0 or abs(goal - source) < length:  # an overlap is EINVAL
            return
        self._note("copy %d from %d to %d" % (length, source, goal))
        # The kernel copies up to the length that it knows; what another mount added it learns by being asked, as cp does.
        os.fstat(fd)
        done = 0
        while done < length:
            count = os.copy_file_range(fd, self.random.choice(self.fds), length - done, source + done, goal + done)
            if count == 0:
                raise Difference("the copy ended after %d of %d bytes" % (done, length))
            done += count
        self._set(goal, self.model[source : source + length])

    def append(self, fd):
        if len(self.model) + self.most > self.length:
            return
        data = self._data(self.random.randint(1, self.most))
        which = self.fds.index(fd)
        self._note("append %d" % len(data))
        other = os.open(self.paths[which], os.O_WRONLY | os.O_APPEND)
        done = os.write(other, data)
        os.close(other)
        if done != len(data):
            raise Difference("%d of %d bytes appended" % (done, len(data)))
        self._set(len(self.model), data)

    def sync(self, fd):
        self._note("fsync")
        os.fsync(fd)

    def reopen(self, fd):
        which = self.fds.index(fd)
        self._note("close and open")
        os.close(fd)
        self.fds[which] = os.open(self.paths[which], self.flags)

    def mix(self):
        """The operations of this mode, and how often each."""
        mapped = 20 if self.mode == "mmap" else 0
        copies = 0 if self.mode == "direct" else 3
        plain = 4 if self.mode == "mmap" else 20
        return [
            (self.write, plain),
            (self.read, plain),
            (self.map_read, mapped),
            (self.map_write, mapped),
            (self.truncate, 5),
            (self.punch, 2),
            (self.zero, 2),
            (self.copy, copies),
            (self.append, 0 if self.mode == "direct" else 2),
            (self.sync, 0.3),
            (self.reopen, 0.5),
        ]

    def run(self, count):
        """Does that many operations, checking the length through the other file after each."""
        acts, weights = zip(*self.mix())
        for number in range(count):
            which = self.random.randrange(len(self.fds))
            fd = self.fds[which]
            act = self.random.choices(acts, weights)[0]
            self.turn = "%d, file %d" % (number, which)
            act(fd)
            length = os.fstat(self.random.choice(self.fds)).st_size
            if length != len(self.model):
                raise Difference("the file has %d bytes, not %d" % (length, len(self.model)))
        for path in self.paths:
            with open(path, "rb") as whole:
                found = whole.read()
            if len(found) != len(self.model):
                raise Difference("%s ends with %d bytes, not %d" % (path, len(found), len(self.model)))
            self._check(path, 0, found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("paths", nargs="+", metavar="FILE")
    parser.add_argument("--mode", choices=("buffered", "direct", "mmap"), default="buffered")
    parser.add_argument("--ops", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--length", type=int, default=256 << 10, help="the file's greatest length in bytes")
    parser.add_argument("--most", type=int, default=64 << 10, help="the greatest length of one operation in bytes")
    args = parser.parse_args()
    pair = Pair(args.paths, args.mode, args.length, args.most, args.seed)
    try:
        pair.run(args.ops)
    except (Difference, OSError) as error:
        print(*pair.log, sep="\n")
        print("seed %d, %s: %s" % (args.seed, args.mode, error))
        return 1
    print("%d operations, %d files, %s: no difference" % (args.ops, len(args.paths), args.mode))
    return 0


if __name__ == "__main__":
    sys.exit(main())
