"""The disk of the power-cut cases: its partitions, its marks, and the node that lives on it."""

import os
import struct
from pathlib import Path

from lib.base import Context, eventually
from lib.cluster import Cluster
from lib.procs import run

MIB = 1 << 20
MARK = struct.Struct("<8sQQ")
MARK_MAGIC = b"ANSWERED"
MARK_BYTES = 4096
# Partition numbers, and their lengths in MiB; the first begins at MARKS_OFFSET.
MARKS, STATE, TARGETS = 1, 2, (3, 4)
LENGTHS_MIB = (1, 160, 64, 64)
MARKS_OFFSET = MIB
DISK_MIB = 1 + sum(LENGTHS_MIB) + 1
# What a file system as young as this one needs of a guest's memory.
MEMORY_MIB = 160


def part(disk, number):
    """Path of a partition."""
    return "%s%s%d" % (disk, "p" if disk[-1].isdigit() else "", number)


def make(disk):
    """Partitions the disk and makes the file system for the node's state."""
    lines = ["label: gpt"] + ["size=%dMiB" % length for length in LENGTHS_MIB]
    script = Path("/tmp/partitions")
    script.write_text("\n".join(lines) + "\n")
    with open(script) as source:
        run(["sfdisk", "-q", "--wipe", "always", disk], stdin=source)
    eventually("the partitions of " + disk, lambda: os.path.exists(part(disk, TARGETS[-1])), 20)
    run(["mkfs.ext4", "-q", part(disk, STATE)])


def node(disk, name):
    """The node on a disk: its state mounted, its targets under the names that its config has."""
    top = Path("/run/weft-nodes") / name
    top.mkdir(parents=True)
    run(["mount", part(disk, STATE), top])
    links = []
    for number in TARGETS:
        link = Path("/run/weft-nodes/%s-target%d" % (name, number))
        link.symlink_to(part(disk, number))
        links.append(link)
    work = Path("/tmp/work-%s" % name)
    work.mkdir()
    made = Cluster(Context(work, False, 0, None), devices=links, gen=["--memory-mib", MEMORY_MIB, "--cores", "0,1"])
    # Its own files on the disk under test, its logs not.
    made.state, made.config = top / "state", top / "weft.toml"
    made.dir.mkdir()
    return made
