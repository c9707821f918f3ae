"""A recording of everything written to a guest's drive, and the images that a power cut would have left.

QEMU's driver blklogwrites records writes, flushes and discards in the order in which they were carried out, in the
format of the kernel's dm-log-writes: a block of header, then for each entry a block with position, length and flags
(little-endian, in sectors) and the data. A drive with a volatile cache promises only this: what was written before a
flush that completed is there. So after a cut at entry N the drive holds all that was written before the last flush
below N, and of each later write all of it, nothing of it, or some of its 512-byte sectors.
"""

import os
import struct

ENTRY = struct.Struct("<QQQQ")
SUPER = struct.Struct("<QQQI")
MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD = 1, 2, 4
SECTOR = 512
PIECE = 1 << 20


class Entry:
    """A write or discard of `length` bytes at `offset`, or a flush; the data of a write is at `data_at` in the log."""

    def __init__(self, offset, length, flags, data_at):
        self.offset, self.length, self.flags, self.data_at = offset, length, flags, data_at


def _entries(log, unit):
    """The whole entries of a log. A killed QEMU leaves the header's count behind, and may tear the last entry."""
    end = os.fstat(log.fileno()).st_size
    at = unit
    while at + unit <= end:
        log.seek(at)
        sector, count, flags, _ = ENTRY.unpack(log.read(ENTRY.size))
        if count == 0 and flags == 0:
            return
        data_at = at + unit
        at = data_at + (0 if flags & DISCARD else count * unit)
        if at > end:
            return
        yield Entry(sector * unit, count * unit, flags, data_at)


class Recording:
    """The recording in the file `path`."""

    def __init__(self, path):
        self.log = open(path, "rb")
        magic, version, _, unit = SUPER.unpack(self.log.read(SUPER.size))
        if magic != MAGIC or version != 1:
            raise ValueError("%s is no recording of blklogwrites" % path)
        self.entries = list(_entries(self.log, unit))

    def data(self, entry):
        """What was written."""
        self.log.seek(entry.data_at)
        return self.log.read(entry.length)

    def flushed(self, cut):
        """How many of the first `cut` entries were made durable by a flush among them."""
        for index in range(cut - 1, -1, -1):
            if self.entries[index].flags & FLUSH:
                return index
        return 0

    def _apply(self, image, entry, keep=None):
        """Carries out what `keep(sector index)` allows of a write or discard; without it, all of it."""
        if entry.flags & FLUSH or entry.length == 0:
            return
        data = None if entry.flags & DISCARD else self.data(entry)
        begin = 0
        while begin < entry.length:
            end = min(begin + (SECTOR if keep else PIECE), entry.length)
            if keep is None or keep(begin // SECTOR):
                image.seek(entry.offset + begin)
                image.write(bytes(end - begin) if data is None else data[begin:end])
            begin = end

    def image(self, path, length, cut, fate):
        """Writes the image after a cut at entry `cut` into a sparse file.

        `fate(entry)` decides over a write that no flush covers: it gives a function from a sector's index within the
        write to whether that sector was kept. Returns the number of writes it decided over.
        """
        safe = self.flushed(cut)
        with open(path, "wb") as image:
            image.truncate(length)
            for entry in self.entries[:safe]:
                self._apply(image, entry)
            for entry in self.entries[safe:cut]:
                self._apply(image, entry, fate(entry))
        return cut - safe


def all_lost(_entry):
    """Nothing that was not flushed is there."""
    return lambda _sector: False


def all_kept(_entry):
    """Everything is there, as after a mere crash of the system."""
    return lambda _sector: True


def at_random(random):
    """Of each write all, nothing, a beginning, or any of its sectors."""

    def fate(entry):
        sectors = entry.length // SECTOR
        kind = random.randrange(4)
        if kind < 2:
            return lambda _sector: kind == 1
        if kind == 2:
            upto = random.randrange(sectors + 1)
            return lambda sector: sector < upto
        kept = random.getrandbits(max(sectors, 1))
        return lambda sector: bool(kept >> sector & 1)

    return fate
