"""Weft frames in Python: enough of the wire to speak to a server properly, and to speak to it badly.

Written from netrdma/wire/doc/format.md and not from the code, so that it is a second opinion. `Fuzz` makes what the
hostile case sends: noise, real frames with bytes changed, and frames whose checksums are right and whose contents are
not. Requests that change the file system are only made with inode numbers that do not exist: the point of the case
is that other clients' files stay as they are.
"""

import random
import socket
import struct

MAGIC = int.from_bytes(b"WEFT", "little")
VERSION = 1
HEADER = struct.Struct("<IIHHHHQQIIIIIH10s")
HEADER_BYTES = 64
NO_SLOT = 0xFFFF

HELLO, PING, GOODBYE, CLUSTER_MAP, TARGET_LIST = 1, 2, 3, 4, 5
LOOKUP, GETATTR, SETATTR, READLINK, MAKE, UNLINK, RMDIR, RENAME, LINK = range(0x100, 0x109)
OPEN, RELEASE, READDIR, GETXATTR, SETXATTR, LISTXATTR, REMOVEXATTR = range(0x109, 0x110)
STATFS, WROTE, GETLAYOUT, SETLAYOUT, REOPEN = range(0x110, 0x115)
READ, WRITE, SYNC, TRUNCATE, CHUNKLIST = range(0x200, 0x205)
KINDS = [*range(1, 6), *range(0x100, 0x115), *range(0x200, 0x205)]
HARMLESS = [PING, CLUSTER_MAP, TARGET_LIST, LOOKUP, GETATTR, READLINK, READDIR, GETXATTR, LISTXATTR, STATFS, GETLAYOUT]
HARMLESS += [READ, CHUNKLIST, SYNC, OPEN]


def _table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


TABLE = _table()


def crc32c(data):
    """CRC32C (Castagnoli) of bytes."""
    value = 0xFFFFFFFF
    for byte in data:
        value = (value >> 8) ^ TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


assert crc32c(b"123456789") == 0xE3069283


def frame(kind, body=b"", payload=b"", request=1, epoch=0, deadline_ms=0, shard=0, flags=0, version=VERSION, **lies):
    """A frame. `lies` replace header fields: body_bytes, payload_bytes, body_checksum, reserved."""
    fields = [
        MAGIC,
        version,
        kind,
        flags,
        lies.get("status", 0),
        request,
        epoch,
        lies.get("body_checksum", crc32c(body)),
        lies.get("body_bytes", len(body)),
        lies.get("payload_bytes", len(payload)),
        lies.get("credits", 0),
        deadline_ms,
        shard,
        lies.get("reserved", bytes(10)),
    ]
    tail = HEADER.pack(0, *fields)[4:]
    return struct.pack("<I", crc32c(tail)) + tail + body + payload


def hello(session, shard=0, cluster=bytes(16), versions=(1, 1)):
    """The first frame of a connection."""
    return frame(HELLO, struct.pack("<HHQ16s16sH", versions[0], versions[1], 0, cluster, session, shard))


def caller(slot=NO_SLOT, sequence=0):
    """The front of a metadata body."""
    return struct.pack("<IIHQ", 0, 0, slot, sequence)


def text(value):
    """A string preceded by its length."""
    return struct.pack("<I", len(value)) + value


def harmless(kind, ino, source):
    """The body of a request that changes nothing, about this inode."""
    name = text(bytes(source.randrange(256) for _ in range(source.choice((1, 8, 255, 256)))))
    if kind in (PING,):
        return source.randbytes(source.randrange(64))
    if kind in (CLUSTER_MAP, TARGET_LIST):
        return b""
    if kind == LOOKUP or kind == GETXATTR:
        return caller() + struct.pack("<Q", ino) + name
    if kind == READDIR:
        return caller() + struct.pack("<QQIB", ino, source.choice((0, 1, 1 << 63)), source.choice((0, 1, 65536, 0xFFFFFFFF)), 1)
    if kind == STATFS:
        return caller()
    if kind == READ:
        return struct.pack("<HQQII", source.randrange(5), ino, source.randrange(4), source.randrange(1 << 20), source.randrange(1, 1 << 20))
    if kind == CHUNKLIST:
        return struct.pack("<HQQ", source.randrange(5), ino, source.randrange(4))
    if kind == SYNC:
        return struct.pack("<HQ", source.randrange(5), ino)
    return caller() + struct.pack("<Q", ino)


class Fuzz:
    """Makes hostile bytes; the same seed makes the same bytes."""

    def __init__(self, seed, recorded=()):
        self.random = random.Random(seed)
        self.recorded = list(recorded)
        self.epoch = 0
        self.session = self.random.randbytes(16)
        self.request = 1

    def mutated(self, data):
        """The bytes with some changed, cut, or doubled."""
        source, data = self.random, bytearray(data)
        for _ in range(source.choice((1, 1, 2, 8))):
            what = source.randrange(4)
            at = source.randrange(len(data)) if data else 0
            if what == 0 and data:
                data[at] ^= 1 << source.randrange(8)
            elif what == 1 and data:
                data[at] = source.choice((0, 1, 0x7F, 0x80, 0xFF))
            elif what == 2:
                del data[at : at + source.randrange(1, 9)]
            else:
                data[at:at] = source.randbytes(source.randrange(1, 9))
        return bytes(data)

    def good(self):
        """A proper request that changes nothing."""
        self.request += 1
        kind = self.random.choice(HARMLESS)
        ino = self.random.choice((0, 1, 2, 3, 100, 1 << 47, (1 << 64) - 1))
        return frame(kind, harmless(kind, ino, self.random), request=self.request, epoch=self.epoch)

    def welcomed(self, answer):
        """Takes the server's epoch out of the answer to a hello, when it is one."""
        if len(answer) >= HEADER_BYTES + 36 and HEADER.unpack(answer[:HEADER_BYTES])[3:6:2] == (HELLO, 0):
            self.epoch = struct.unpack_from("<Q", answer, HEADER_BYTES + 28)[0]

    def recorded_frame(self):
        """A recorded frame with its header changed, so that its checksum is wrong whatever it asks for."""
        if not self.recorded:
            return b""
        data = bytearray(self.random.choice(self.recorded))
        data[self.random.randrange(HEADER_BYTES)] ^= 1 << self.random.randrange(8)
        return bytes(data)

    def bad_body(self):
        """A right header around a body that is changed; only kinds that change nothing."""
        self.request += 1
        kind = self.random.choice(HARMLESS)
        body = self.mutated(harmless(kind, self.random.randrange(1 << 64), self.random))
        return frame(kind, body, request=self.request, epoch=self.epoch)

    def bad_change(self):
        """Any kind, a random body about an inode that does not exist."""
        self.request += 1
        source = self.random
        kind = source.choice(KINDS)
        slot = source.choice((0, 1, 255, 256, 65534, NO_SLOT))
        ino = struct.pack("<Q", source.randrange(1 << 40, 1 << 48))
        if kind >= 0x200:
            body = struct.pack("<H", source.randrange(6)) + ino + source.randbytes(source.randrange(64))
        else:
            body = caller(slot, source.choice((0, 1, 2, 1 << 63))) + ino + source.randbytes(source.randrange(300))
        payload = source.randbytes(source.choice((0, 0, 1, 4096))) if kind == WRITE else b""
        return frame(kind, body, payload, request=source.choice((self.request, 0, 1)), epoch=self.epoch)

    def bad_header(self):
        """A header that lies, with its checksum right."""
        source = self.random
        lies = source.choice(
            (
                {"body_bytes": 0xFFFFFFFF},
                {"body_bytes": (256 << 10) + 1},
                {"payload_bytes": 0xFFFFFFFF},
                {"payload_bytes": (4 << 20) + 1},
                {"payload_bytes": 4 << 20},
                {"body_bytes": 256 << 10, "payload_bytes": 4 << 20},
                {"body_checksum": source.randrange(1 << 32)},
                {"reserved": source.randbytes(10)},
                {"status": source.randrange(1 << 16)},
                {"flags": source.randrange(1 << 16)},
                {"version": source.choice((0, 2, 0xFFFF))},
                {"epoch": source.randrange(1 << 64), "shard": source.randrange(1 << 16)},
            )
        )
        kind = source.choice(KINDS + [0, 6, 0xFFFF])
        if kind in (SETATTR, MAKE, UNLINK, RMDIR, RENAME, LINK, SETXATTR, REMOVEXATTR, SETLAYOUT, WROTE, WRITE, TRUNCATE):
            kind = GETATTR
        return frame(kind, harmless(GETATTR, 1, source), request=source.randrange(1 << 64), **lies)

    def greeting(self):
        """How a connection begins: mostly properly."""
        what = self.random.randrange(10)
        if what < 6:
            return hello(self.session, self.random.choice((0, 0, 1, 2, 0xFFFF)))
        if what == 6:
            return hello(self.session, 0, self.random.randbytes(16))
        if what == 7:
            return self.mutated(hello(self.session))
        if what == 8:
            return hello(self.session, 0, bytes(16), self.random.choice(((0, 0), (2, 9), (9, 1))))
        return b""

    def piece(self):
        """The next bytes to send."""
        return self.random.choice(
            (
                lambda: self.random.randbytes(self.random.choice((1, 63, 64, 65, 1000, 70000))),
                self.good,
                self.good,
                lambda: self.mutated(self.good()),
                self.recorded_frame,
                self.bad_body,
                self.bad_body,
                self.bad_change,
                self.bad_header,
            )
        )()


def golden(path):
    """The frames of the wire's golden file: name -> bytes. Each must have the checksum that this module computes."""
    found = {}
    for line in path.read_text().splitlines():
        name, _, digits = line.strip().partition(" ")
        if digits:
            data = bytes.fromhex(digits)
            assert HEADER.unpack(data[:HEADER_BYTES])[0] == crc32c(data[4:HEADER_BYTES]), name
            found[name] = data
    return found


def receive(connection, count, deadline_s=10.0):
    """Exactly `count` bytes, or fewer when the other end closes."""
    connection.settimeout(deadline_s)
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            break
        data += piece
    return data


def greet(port, session):
    """Connects and says hello properly; (socket, kind, status) of the answer."""
    connection = socket.create_connection(("127.0.0.1", port), 10)
    connection.sendall(hello(session))
    fields = HEADER.unpack(receive(connection, HEADER_BYTES))
    receive(connection, fields[9] + fields[10])
    return connection, fields[3], fields[5]
