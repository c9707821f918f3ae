"""The guest whose power is cut: a node whose every byte is on one disk, threads that note what was answered to them.

    record.py SEED THREADS KILL_EVERY_S

The disk has the partitions marks, state (ext4), target, target. Thread T notes in block T of the first one how many of
its steps were answered: so the recording of the disk says what had been promised at each of its points. Meanwhile the
server is killed and started again, so that cuts also fall into its recovery. Runs until QEMU is killed.
"""

import mmap
import os
import sys
import time

import cut_disk
import steps
from lib.procs import alive, fork_worker, run


class Marks:
    """One thread's note, written past every cache."""

    def __init__(self, thread):
        self.offset = thread * cut_disk.MARK_BYTES
        self.file = os.open(cut_disk.part("/dev/vdb", cut_disk.MARKS), os.O_WRONLY | os.O_DIRECT)
        self.buffer = mmap.mmap(-1, cut_disk.MARK_BYTES)
        self.thread = thread

    def note(self, count):
        """So many steps were answered."""
        self.buffer[: cut_disk.MARK.size] = cut_disk.MARK.pack(cut_disk.MARK_MAGIC, self.thread, count)
        os.pwrite(self.file, self.buffer, self.offset)


def work(seed, thread, top):
    """Carries out steps without end."""
    os.umask(0o022)
    marks = Marks(thread)
    steps.make_folders(top)
    marks.note(0)
    program = steps.Steps(seed, thread)
    while True:
        program.carry_out(program.next(), top)
        marks.note(program.count)
        if program.count % 25 == 0:
            print("answered %d %d" % (thread, program.count), flush=True)


def main():
    """Makes the node, starts the threads, kills the server now and then."""
    seed, threads, kill_every_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    cut_disk.make("/dev/vdb")
    node = cut_disk.node("/dev/vdb", "a")
    node.create()
    run(["sed", "-i", "s/^checkpoint_s .*/checkpoint_s = 1/", node.config])
    # The node's own files are there before anything is promised.
    os.sync()
    node.start()
    node.mount()
    workers = [fork_worker(work, seed, thread, str(node.path / ("t%d" % thread))) for thread in range(threads)]
    print("running", flush=True)
    while True:
        time.sleep(kill_every_s)
        assert all(alive(pid) for pid in workers), "a thread got an error"
        node.kill()
        node.start()
        node.check_mounts()
        print("server restarted", flush=True)


main()
