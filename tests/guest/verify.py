"""Holds disks that a power cut left against what had been promised: /host/cuts.json names them.

For each: the state's file system mounts, the server starts, every tree is what `steps.verify` allows, the file system
takes new files, the server stops cleanly, and `weft fs check` finds nothing. Prints a line for each disk: `NAME good`
or `NAME bad: why`, and ends with 0 when every disk could be judged.
"""

import json
import os
import time
import traceback
from pathlib import Path

import cut_disk
import steps
from lib.cluster import free_port
from lib.procs import fork_worker, join_workers, tail

AT_ONCE = 2


def disks():
    """{serial number: device} of the guest's disks."""
    found = {}
    for path in Path("/sys/block").glob("vd*"):
        serial = path / "serial"
        if serial.exists():
            found[serial.read_text().strip()] = "/dev/" + path.name
    return found


def open_node(disk, name):
    """The recorded node under names and a port of its own."""
    node = cut_disk.node(disk, name)
    node.port = free_port()
    text = node.config.read_text().replace("/run/weft-nodes/a", "/run/weft-nodes/" + name)
    lines = ['listen = "127.0.0.1:%d"' % node.port if line.startswith("listen ") else line for line in text.splitlines()]
    node.config.write_text("\n".join(lines) + "\n")
    return node


def still_usable(node):
    """What was recovered takes new files and durable writes."""
    data = steps.content("new", 700_000)
    path = node.path / "new" / "file"
    path.parent.mkdir()
    with open(path, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    node.remount()
    assert path.read_bytes() == data, "a new file does not read back"


def judge(disk, cut):
    """The verdict on one disk. AssertionError and lib.base.Failed say what is wrong."""
    node = open_node(disk, cut["name"])
    try:
        began = time.monotonic()
        ready_s = node.start()
        node.mount(options=["on_timeout=eio", "timeout_ms=60000"])
        paths = 0
        for thread, answered in enumerate(cut["answered"]):
            paths += steps.verify(cut["seed"], thread, answered, str(node.path / ("t%d" % thread)))
        still_usable(node)
        node.close()
        node.weft("fs", "check", "--config", node.config)
        return "good: %d names, serving after %.1f s, %.1f s in all" % (paths, ready_s, time.monotonic() - began)
    except BaseException:
        print("---- server of %s:\n%s" % (cut["name"], tail(node.log, 30)), flush=True)
        raise


def verdict(disk, cut):
    """Writes the verdict into a file of its own."""
    try:
        words = judge(disk, cut)
    except Exception as error:
        traceback.print_exc()
        words = "bad: %s" % (str(error).splitlines() or [type(error).__name__])[0]
    Path("/run/verdict-" + cut["name"]).write_text(words)


def main():
    """Judges every disk, some at a time."""
    cuts = json.loads(Path("/host/cuts.json").read_text())
    found = disks()
    for begin in range(0, len(cuts), AT_ONCE):
        some = cuts[begin : begin + AT_ONCE]
        join_workers([fork_worker(verdict, found[cut["serial"]], cut) for cut in some], 120, "verdicts")
        for cut in some:
            print(cut["name"], Path("/run/verdict-" + cut["name"]).read_text(), flush=True)


main()
