"""What this machine's kernel or hardware cannot show is shown in virtual machines: NVMe, power cuts, NUMA nodes."""

import itertools
import json
import sys

from lib import blocklog
from lib.base import ROOT, Skip, case, check, eventually
from lib.guest import boot, drive, finish, guests, need_guests, share
from lib.procs import run

sys.path.insert(0, str(ROOT / "tests" / "guest"))

import cut_disk  # noqa: E402


@case(timeout_s=150)
def vm_harness(ctx):
    """Two guests on one network with a shared disk: arguments, output and the highest status come back."""
    need_guests()
    shared = drive(ctx, "shared", kind="virtio", mib=16, shared=True)
    with guests(ctx, "harness.py", ["an argument", "$HOME"], count=2, cpus=1, mem_bytes=512 << 20, drives=[[shared], [shared]]) as booted:
        finish(ctx, booted, 120, want=41)
        for index in range(2):
            said = booted.output(index).split("\n")[:-1]
            check(said == ["ok arguments", "ok programs run", "ok shared disk", "ok network"], "guest", index, "said", said)


@case(timeout_s=120)
def vm_container(ctx):
    """packaging/vm/container.sh: systemd boots as PID 1 on this kernel, runs a script, gives output and status."""
    script = ctx.work / "script.sh"
    script.write_text('#!/bin/bash\nsystemctl is-system-running --wait\ntest -c /dev/fuse && cat /host/word && echo "$1"\nexit 7\n')
    (ctx.work / "word").write_text("shared\n")
    args = [ROOT / "packaging" / "vm" / "container.sh", "--share", ctx.work, script, "two words"]
    result = run(args, timeout_s=110, ok=(7, 3, 125))
    if result.code == 3 or "Operation not permitted" in result.out:
        print(result.out, flush=True)
        raise Skip("no-container")
    check(result.code == 7 and result.out.endswith("running\nshared\ntwo words\n"), "it said", result.out)


@case(timeout_s=450)
def vm_nvme(ctx):
    """Two NVMe drives (512 and 4,096-byte sectors) near two NUMA nodes: format, files, kill -9, polling, passthrough."""
    need_guests()
    drives = [drive(ctx, "nvme0", sector_bytes=512), drive(ctx, "nvme1", sector_bytes=4096)]
    expect = ["drives", "fs create", "target format", "write and read", "kill -9", "restart", "both drives"]
    expect += ["io_poll %s passthrough %s" % mode for mode in itertools.product(("off", "on"), ("off", "on"))]
    expect += ["all modes read back", "store alone"]
    boot(ctx, "nvme.py", timeout_s=400, expect=expect, drives=[drives], numa=2)


THREADS = 4


def _record(ctx, disk, answers, timeout_s):
    """Boots the recording guest and cuts its power in mid-write, when that many steps were answered."""
    seed = "cut-%d" % ctx.seed
    with guests(ctx, "record.py", [seed, THREADS, 4], drives=[[disk]]) as booted:
        count = lambda: sum(line.startswith("answered") for line in booted.output().splitlines()) * 25  # noqa: E731
        try:
            eventually("%d answers" % answers, lambda: count() >= answers or not booted.running(), timeout_s)
        finally:
            booted.kill()
            print("---- recorded:\n%s\n%s" % (booted.output(), booted.words()), flush=True)
        check(count() >= answers, "the recording guest went down early")
        return seed, booted.output().count("server restarted")


class Promises:
    """What the threads had been answered at each point of a recording: their marks, found in it."""

    def __init__(self, recording):
        self.at = []
        answered = {}
        for index, entry in enumerate(recording.entries):
            begin, end = cut_disk.MARKS_OFFSET, cut_disk.MARKS_OFFSET + THREADS * cut_disk.MARK_BYTES
            if entry.flags == 0 and entry.offset < end and entry.offset + entry.length > begin:
                data = recording.data(entry)
                for at in range(0, entry.length, cut_disk.MARK_BYTES):
                    magic, thread, count = cut_disk.MARK.unpack_from(data, at)
                    if magic == cut_disk.MARK_MAGIC:
                        answered[thread] = count
            self.at.append([answered.get(thread, -1) for thread in range(THREADS)])

    def first(self):
        """The first entry at which every thread has noted something."""
        return next(index for index, answered in enumerate(self.at) if min(answered) >= 0)


def _choose_cuts(ctx, recording, promises, count):
    """Entries at which the power goes: a third just before a flush, where most is at stake, the end, the rest anywhere."""
    first, last = promises.first(), len(recording.entries)
    flushes = [index for index in range(first + 1, last) if recording.entries[index].flags & blocklog.FLUSH]
    cuts = [last] + ctx.random.sample(flushes, count // 3)
    cuts += [ctx.random.randrange(first + 1, last) for _ in range(count - len(cuts))]
    return sorted(cuts)


@case(timeout_s=700)
def vm_power_cut(ctx):
    """A guest loses power in mid-write, at many points of one recording: what was answered is there, nothing else is."""
    need_guests()
    recorded = drive(ctx, "recorded", kind="virtio", mib=cut_disk.DISK_MIB, log=ctx.work / "bulk-log")
    seed, restarts = _record(ctx, recorded, ctx.scaled(600, 200), 240)
    check(restarts >= 1, "the server was never killed in the recording")
    recording = blocklog.Recording(recorded.log)
    promises = Promises(recording)
    cuts = _choose_cuts(ctx, recording, promises, ctx.scaled(10, 4))
    drives, orders, doubt = [], [], 0
    for number, cut in enumerate(cuts):
        fate = (blocklog.all_lost, blocklog.all_kept)[number] if number < 2 else blocklog.at_random(ctx.random)
        disk = drive(ctx, "cut%d" % number, kind="virtio", mib=cut_disk.DISK_MIB)
        doubt += recording.image(disk.path, cut_disk.DISK_MIB << 20, cut, fate)
        drives.append(disk)
        orders.append({"name": "cut%d" % number, "serial": "vm0-%d" % number, "seed": seed, "answered": promises.at[cut - 1]})
    # The test of the test: a drive that loses what it had said was flushed is found out.
    liar = drive(ctx, "liar", kind="virtio", mib=cut_disk.DISK_MIB)
    recording.image(liar.path, cut_disk.DISK_MIB << 20, cuts[len(cuts) // 2], blocklog.all_lost)
    drives.append(liar)
    orders.append({"name": "liar", "serial": "vm0-%d" % len(cuts), "seed": seed, "answered": promises.at[-1]})
    (share(ctx) / "cuts.json").write_text(json.dumps(orders))
    out = boot(ctx, "verify.py", drives=[drives], timeout_s=400)
    for order in orders:
        said = [line for line in out.splitlines() if line.startswith(order["name"] + " ")]
        want = "bad" if order["name"] == "liar" else "good"
        check(said and said[0].split()[1].startswith(want), order, "is not", want + ":", said)
    ctx.figure("vm_power_cut.answered", sum(promises.at[-1]), "steps")
    ctx.figure("vm_power_cut.in_doubt", doubt, "writes")
