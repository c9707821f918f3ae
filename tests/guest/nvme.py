"""A node on two emulated NVMe drives of different logical blocks, near different NUMA nodes."""

import os
from pathlib import Path

import steps
from lib.base import Context, check, eventually
from lib.cluster import Cluster
from lib.procs import run

SECTORS = {"vm0-0": 512, "vm0-1": 4096}
STEPS = 60


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


main()
