"""A node on two emulated NVMe drives of different logical blocks, near different NUMA nodes."""

import mmap
import os
import random
import re
from pathlib import Path

import steps
from lib.base import Context, check, eventually
from lib.cluster import Cluster, program
from lib.procs import run

SECTORS = {"vm0-0": 512, "vm0-1": 4096}
STEPS = 60
FILE_BYTES = 4 << 20
READS = 300


def ok(name):
    """Says that a check went well."""
    print("ok", name, flush=True)


def drives():
    """Loads the driver, and returns the drives' names in the order of their serial numbers."""
    run(["modprobe", "nvme", "poll_queues=2"])
    eventually("the drives", lambda: len(list(Path("/sys/block").glob("nvme*n1"))) == len(SECTORS), 20)
    found = {(path / "device" / "serial").read_text().strip(): path.name for path in Path("/sys/block").glob("nvme*n1")}
    names = [found[serial] for serial in sorted(SECTORS)]
    for index, (name, sector) in enumerate(zip(names, SECTORS.values())):
        queue = Path("/sys/block", name, "queue")
        check(int((queue / "logical_block_size").read_text()) == sector, name, "has other sectors than", sector)
        near = int(Path("/sys/block", name, "device", "device", "numa_node").read_text())
        check(near == index, name, "is near NUMA node", near)
    return names


def io_counts(name):
    """(reads, writes) that the block layer has counted for a drive."""
    fields = Path("/sys/block", name, "stat").read_text().split()
    return int(fields[0]), int(fields[4])


def store_alone(names):
    """A store alone on each drive, polled; its writes of 1 MiB are longer than the drive takes at once."""
    for name, passthrough, way in zip(names, ("off", "on"), ("polled", "polled-passthrough")):
        args = ["--device", "/dev/" + name, "--force", "--verify", "--data", "4M", "--expect-path", way]
        run([program("weft-load"), "store", *args, "--io-poll", "on", "--passthrough", passthrough], quiet=False)
    ok("store alone")


def format_drives(node):
    """`weft target format`: refuses what is in use, and makes it anew when forced."""
    node.create()
    ok("fs create")
    for device in node.targets:
        refused = node.weft("target", "format", device, "--config", node.config, ok=(1,))
        check("--force" in refused.out, "the refusal does not say what to do:", refused.out)
        node.weft("target", "format", device, "--config", node.config, "--force")
        shown = node.weft("target", "show", device).out
        check(str(512 << 20) in shown, "target show says", shown)
    ok("target format")


def fill_and_verify(node, names):
    """Files through a mount survive kill -9, a stop, and come from both drives."""
    program = steps.Steps("nvme", 0)
    top = str(node.path / "t")
    steps.make_folders(top)
    before = [io_counts(name) for name in names]
    for _ in range(STEPS):
        program.carry_out(program.next(), top)
    verify = lambda: steps.verify("nvme", 0, program.count, top)  # noqa: E731
    verify()
    ok("write and read")
    node.kill()
    node.start()
    node.remount()
    verify()
    ok("kill -9")
    for _ in range(STEPS):
        program.carry_out(program.next(), top)
    node.close()
    node.weft("fs", "check", "--config", node.config)
    node.start()
    node.mount()
    verify()
    ok("restart")
    for name, (_, writes) in zip(names, before):
        check(io_counts(name)[1] > writes, "nothing was written to", name)
    ok("both drives")


def interrupts():
    """Interrupts of the drives so far."""
    lines = Path("/proc/interrupts").read_text().splitlines()
    return sum(sum(map(int, re.findall(r" (\d+)(?= )", line)[:2])) for line in lines if re.search(r" nvme\d+q", line))


def random_reads(path, count):
    """Reads so many single blocks of a file past the page cache, and checks them."""
    buffer = mmap.mmap(-1, steps.BLOCK)
    source = os.open(path, os.O_RDONLY | os.O_DIRECT)
    data = steps.content("modes", FILE_BYTES)
    for block in random.Random(1).choices(range(FILE_BYTES // steps.BLOCK), k=count):
        at = block * steps.BLOCK
        check(os.preadv(source, [buffer], at) == steps.BLOCK and buffer[:] == data[at : at + steps.BLOCK], "wrong at", at)
    os.close(source)


def set_mode(node, io_poll, passthrough):
    """Restarts the node with these two keys of the config, and mounts."""
    kept = [line for line in node.config.read_text().splitlines() if not line.startswith(("io_poll", "passthrough"))]
    node.config.write_text("\n".join(['io_poll = "%s"' % io_poll, 'passthrough = "%s"' % passthrough] + kept) + "\n")
    offset = node.log_offset()
    node.start()
    node.mount()
    words = node.log_since(offset)
    print("\n".join(line for line in words.splitlines() if "is not used" in line), flush=True)
    return re.findall(r"way=(\w+(?: \{[^}]*\})?)", words)


def measure(path, names, way):
    """(reads of the block layer, interrupts) while a file is read."""
    reads, begun = sum(io_counts(name)[0] for name in names), interrupts()
    random_reads(path, READS)
    reads, begun = sum(io_counts(name)[0] for name in names) - reads, interrupts() - begun
    print("%s: %d reads are %d of the block layer, %d interrupts" % (way, READS, reads, begun), flush=True)
    return reads, begun


def use_mode(node, names, io_poll, passthrough, way):
    """With these settings data really goes that way, says the kernel, and is right."""
    found = set_mode(node, io_poll, passthrough)
    check(found == [way] * len(names), "io_poll", io_poll, "passthrough", passthrough, "gives", found, "not", way)
    path = node.path / ("modes-%s-%s" % (io_poll, passthrough))
    path.write_bytes(steps.content("modes", FILE_BYTES))
    run(["sync", path])
    reads, begun = measure(path, names, way)
    check((reads < READS // 4) == (passthrough == "on"), "passthrough", passthrough, "and", reads, "reads of the block layer")
    if io_poll == "on":
        # Behind its start the store discards all that is free, and a discard of 32 MiB is 64 commands that interrupt.
        eventually("reads without interrupts", lambda: measure(path, names, way)[1] < READS // 4, 60)
    else:
        check(begun >= READS // 4, "io_poll", io_poll, "and", begun, "interrupts")
    node.close()
    ok("io_poll %s passthrough %s" % (io_poll, passthrough))


def use_modes(node, names):
    """Every way to the data; each verifies what the one before it wrote."""
    use_mode(node, names, "off", "off", "Direct")
    use_mode(node, names, "on", "off", "Polled { passthrough: false }")
    use_mode(node, names, "off", "on", "Passthrough")
    use_mode(node, names, "on", "on", "Polled { passthrough: true }")
    set_mode(node, "off", "off")
    for path in sorted(node.path.glob("modes-*")):
        random_reads(path, READS)
    ok("all modes read back")


def main():
    """Makes the node and runs the checks."""
    os.umask(0o022)
    names = drives()
    ok("drives")
    # On the root disk: the metadata's log wants O_DIRECT, which a tmpfs of this kernel has not.
    work = Path("/root/work")
    work.mkdir()
    gen = ["--memory-mib", 160, "--cores", "0,1"]
    node = Cluster(Context(work, False, 0, None), devices=[Path("/dev", name) for name in names], gen=gen)
    format_drives(node)
    node.start()
    node.mount()
    fill_and_verify(node, names)
    node.close()
    use_modes(node, names)
    node.close()
    store_alone(names)


main()
