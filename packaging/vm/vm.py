#!/usr/bin/env python3
"""Boots test guests from what build.sh made, runs a script in them, returns its output and status.

    packaging/vm/vm.py [OPTION...] SCRIPT [ARGUMENT...]

The guests are emulated (QEMU/TCG, no KVM needed): good for correctness, never for speed. They are thrown away
afterwards; the image stays as it was. Exit status: the script's (of several guests the highest), 124 when it ran out of
time, 125 when a guest went down without a status, 3 when this machine cannot have guests.

In the guest: $VM_ID is 0..N-1, $VM_COUNT is N, `vm-barrier NAME` waits for all guests, the names vm0, vm1, ... are the
guests' addresses 10.0.0.(VM_ID + 1) on eth0 (card C: 10.0.C.x). NVMe drives need `modprobe nvme poll_queues=N`; the
kernel names them in any order, their serial numbers are vmID-0, vmID-1, ...

Tests use the classes `Guests`, `Machine` and `Drive` (tests/lib/guest.py).
"""

import argparse
import functools
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
QEMU = "qemu-system-x86_64"
MIB = 1 << 20
OUT_OF_TIME, NO_STATUS, CANNOT = 124, 125, 3
# What hurts under TCG, taken out: five-level page tables, byte-wise string instructions (QEMU runs them byte by byte),
# and a multiplication for checksums that is slower emulated than a table.
CPU = "max,la57=off,erms=off,fsrm=off,pclmulqdq=off"
KERNEL_WORDS = (
    "console=ttyS0 quiet panic=-1 mitigations=off nokaslr audit=0 net.ifnames=0 random.trust_cpu=on"
    " rcupdate.rcu_expedited=1 systemd.show_status=0"
)


class CannotRun(Exception):
    """This machine cannot have guests; the text says why."""


@functools.cache
def image():
    """The folder with the guests' image; builds it when it is not there yet."""
    if shutil.which(QEMU) is None:
        raise CannotRun("%s is not installed (packaging/test-deps.sh installs it on Debian)" % QEMU)
    made = subprocess.run([HERE / "build.sh"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if made.returncode == CANNOT:
        raise CannotRun(made.stderr.strip().splitlines()[-1])
    if made.returncode != 0:
        raise RuntimeError("packaging/vm/build.sh failed:\n" + made.stderr[-4000:])
    sys.stderr.write(made.stderr)
    return Path(made.stdout.strip().splitlines()[-1])


def parse_bytes(text):
    """Bytes of a size like 512M or 2G."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    try:
        return int(text[:-1]) * units[text[-1]] if text[-1:] in units else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError("%r is no size: say it like 512M or 2G" % text)


class Drive:
    """A drive of a guest: a sparse file, made when it is not there.

    kind: "nvme" or "virtio". log: a file in which QEMU records each write, flush and discard (format of dm-log-writes;
    see tests/lib/blocklog.py). sector_bytes: the logical block that the guest sees. shared: all guests have it.
    """

    def __init__(self, kind, path, length=None, log=None, sector_bytes=512, shared=False):
        self.kind, self.path, self.log, self.sector_bytes, self.shared = kind, Path(path), log, sector_bytes, shared
        if not self.path.exists():
            with open(self.path, "wb") as made:
                made.truncate(length)

    def backend(self, name):
        """QEMU's words for the file. A killed QEMU loses nothing that the host's page cache has: no cache=none."""
        file = "driver=file,filename=%s,discard=unmap,cache.no-flush=on" % self.path
        if self.shared:
            file += ",locking=off"
        if self.log is None:
            return ["-blockdev", "driver=raw,node-name=%s,discard=unmap,%s" % (name, _below("file", file))]
        Path(self.log).touch()
        log = "driver=file,filename=%s,cache.no-flush=on" % self.log
        words = "driver=blklogwrites,node-name=%s,log-sector-size=%d,discard=unmap" % (name, self.sector_bytes)
        return ["-blockdev", ",".join([words, _below("file", file), _below("log", log)])]

    def frontend(self, name, serial, queues):
        """QEMU's words for the device, without its bus."""
        block = "drive=%s,logical_block_size=%d,physical_block_size=%d" % (name, self.sector_bytes, self.sector_bytes)
        if self.kind == "nvme":
            return "nvme,serial=%s,max_ioqpairs=%d,msix_qsize=%d,discard_granularity=4096,%s" % (serial, queues, queues + 1, block)
        return "virtio-blk-pci,serial=%s,share-rw=%s,%s" % (serial, "on" if self.shared else "off", block)


def _below(name, words):
    """Options of a child node: each key gets the child's name in front."""
    return ",".join("%s.%s" % (name, word) for word in words.split(","))


class Machine:
    """What each guest of a run has. Mem and drive lengths in bytes; drives: one list for each guest."""

    def __init__(self, count=1, cpus=2, mem_bytes=2048 * MIB, numa=1, cards=1, drives=((),), share=None, forward=(), append="", cpu=CPU):
        self.count, self.cpus, self.mem_bytes, self.numa, self.cards = count, cpus, mem_bytes, numa, cards
        self.drives = list(drives) + [()] * (count - len(drives))
        self.share, self.forward, self.append, self.cpu = share, forward, append, cpu
        if cpus % numa or mem_bytes % numa:
            raise ValueError("%d CPUs and the memory must divide among %d NUMA nodes" % (cpus, numa))


class Command:
    """The command line of one guest's QEMU."""

    def __init__(self, machine, index, image_dir, run, shell):
        self.machine, self.index, self.run, self.ports = machine, index, run, 0
        words = "%s vm.id=%d %s" % (KERNEL_WORDS, index, machine.append)
        self.args = [QEMU, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35"]
        self.args += ["-accel", "tcg,thread=multi", "-cpu", machine.cpu, "-m", "%dM" % (machine.mem_bytes // MIB)]
        self.args += ["-kernel", image_dir / "vmlinux", "-initrd", image_dir / "initramfs", "-append", words]
        root = "file=%s,format=raw,if=none,id=root,snapshot=on,cache=unsafe,discard=unmap" % (image_dir / "root.ext4")
        self.args += ["-drive", root, "-device", "virtio-blk-pci,drive=root,bus=pcie.0"]
        self._folder("vmctl", run)
        self.args += ["-device", "virtio-rng-pci,bus=pcie.0"]
        if machine.share:
            self._folder("share", machine.share)
        self._console(shell)
        self._nodes()
        for number, drive in enumerate(machine.drives[index]):
            self._drive(number, drive)
        for card in range(machine.cards):
            self._card(card)

    def _folder(self, name, path):
        words = "local,id=%s,path=%s,security_model=none,multidevs=remap" % (name, path)
        self.args += ["-fsdev", words, "-device", "virtio-9p-pci,fsdev=%s,mount_tag=%s,bus=pcie.0" % (name, name)]

    def _console(self, shell):
        if shell:
            self.args += ["-serial", "mon:stdio"]
            return
        self.args += ["-serial", "file:%s" % (self.run / ("console.%d" % self.index))]
        self.args += ["-device", "virtio-serial-pci,bus=pcie.0", "-device", "virtserialport,chardev=out,name=out"]
        self.args += ["-chardev", "file,id=out,path=%s" % (self.run / ("out.%d" % self.index))]

    def _nodes(self):
        """CPUs and memory; NUMA nodes each have a PCIe root of their own, to put devices on."""
        machine = self.machine
        self.args += ["-smp", "%d,sockets=%d" % (machine.cpus, machine.numa)]
        if machine.numa == 1:
            return
        per = machine.cpus // machine.numa
        for node in range(machine.numa):
            mem = "memory-backend-ram,id=mem%d,size=%d" % (node, machine.mem_bytes // machine.numa)
            cpus = "node,nodeid=%d,memdev=mem%d,cpus=%d-%d" % (node, node, node * per, node * per + per - 1)
            root = "pxb-pcie,id=root%d,bus=pcie.0,bus_nr=%d,numa_node=%d" % (node, node * 32 + 32, node)
            self.args += ["-object", mem, "-numa", cpus, "-device", root]

    def _port(self, name, node):
        """A PCIe port for a device near a node."""
        self.ports += 1
        bus = "pcie.0" if self.machine.numa == 1 else "root%d" % node
        self.args += ["-device", "pcie-root-port,id=%s,bus=%s,chassis=%d,slot=%d" % (name, bus, self.ports, self.ports)]

    def _drive(self, number, drive):
        name, port = "drive%d" % number, "port-drive%d" % number
        self._port(port, number * self.machine.numa // len(self.machine.drives[self.index]))
        serial = "vm%d-%d" % (self.index, number)
        self.args += drive.backend(name) + ["-device", drive.frontend(name, serial, self.machine.cpus + 8) + ",bus=" + port]

    def _card(self, card):
        """A network card. Guest 0 holds a hub for each; the others plug into it over unix sockets."""
        machine, index = self.machine, self.index
        # Relative to QEMU's folder: the name of a socket holds 107 bytes.
        socket = lambda guest: "card.%d.%d" % (card, guest)  # noqa: E731
        if machine.count == 1:
            words = "user,id=nic%d,restrict=on,net=10.0.%d.0/24,host=10.0.%d.254" % (card, card, card)
            for port in machine.forward if card == 0 else ():
                words += ",guestfwd=tcp:10.0.0.253:%d-cmd:bash %s %d" % (port, self.run / "relay.sh", port)
            self.args += ["-netdev", words]
        elif index == 0:
            self.args += ["-netdev", "hubport,id=nic%d,hubid=%d" % (card, card)]
            for guest in range(1, machine.count):
                peer = "peer%d-%d" % (card, guest)
                self.args += ["-netdev", "stream,id=%s,server=on,addr.type=unix,addr.path=%s" % (peer, socket(guest))]
                self.args += ["-netdev", "hubport,id=hub%d-%d,hubid=%d,netdev=%s" % (card, guest, card, peer)]
        else:
            self.args += ["-netdev", "stream,id=nic%d,server=off,addr.type=unix,addr.path=%s" % (card, socket(index))]
        self._port("port-card%d" % card, card * machine.numa // machine.cards)
        mac = "52:54:00:76:%02x:%02x" % (card, index)
        self.args += ["-device", "virtio-net-pci,netdev=nic%d,bus=port-card%d,mac=%s" % (card, card, mac)]


class Guests:
    """The guests of one run, in a folder of their own that they see as /run/vm. Use it with `with`."""

    def __init__(self, machine, script, args=(), mode="script", parent=None):
        """mode: "script", "systemd" (systemd is PID 1, the script a service) or "shell". parent: where the folder goes."""
        self.machine, self.mode = machine, mode
        self.image_dir = image()
        self.run = Path(tempfile.mkdtemp(prefix="weft-vm-", dir=parent))
        self.children = []
        for path in (HERE / "guest").iterdir():
            shutil.copy(path, self.run)
        if mode != "shell":
            shutil.copy(script, self.run / "script")
        env = ["VM_ID=$(sed 's/.*vm\\.id=\\([0-9]*\\).*/\\1/' /proc/cmdline)", "VM_COUNT=%d" % machine.count]
        env += ["VM_MODE=%s" % mode, "VM_SHARE=%s" % ("/host" if machine.share else "")]
        env += ["VM_ARGS=%s" % shlex.quote(shlex.join(map(str, args))), "export VM_ID VM_COUNT"]
        (self.run / "env").write_text("\n".join(env) + "\n")
        (self.run / "relay.sh").write_text('exec 3<>"/dev/tcp/127.0.0.1/$1" || exit\ncat <&3 &\ncat >&3\n')

    def __enter__(self):
        try:
            for index in range(self.machine.count):
                self._start(index)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def _start(self, index):
        command = Command(self.machine, index, self.image_dir, self.run, self.mode == "shell")
        args = list(map(str, command.args))
        if self.mode == "shell":
            self.children.append(subprocess.Popen(args))
            return
        for name in ("console", "out"):
            (self.run / ("%s.%d" % (name, index))).touch()
        with open(self.run / ("qemu.%d" % index), "wb") as words:
            child = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=words, stderr=words, cwd=self.run)
        self.children.append(child)
        # The hub must be there before the others connect.
        end = time.monotonic() + 20
        while index == 0 and len(list(self.run.glob("card.*"))) < self.machine.cards * (self.machine.count - 1):
            if child.poll() is not None or time.monotonic() > end:
                raise RuntimeError("QEMU did not start:\n" + self.words(0))
            time.sleep(0.02)

    def output(self, index=0):
        """What the guest's script has written so far."""
        return (self.run / ("out.%d" % index)).read_text(errors="replace").replace("\r\n", "\n")

    def words(self, index=0):
        """What QEMU itself and the guest's kernel said last."""
        read = lambda name: (self.run / ("%s.%d" % (name, index))).read_text(errors="replace")  # noqa: E731
        return "\n".join((read("qemu") + read("console")).splitlines()[-25:])

    def status(self, index=0):
        """The script's status, None while it runs, NO_STATUS when the guest is gone without one."""
        gone = self.children[index].poll() is not None
        path = self.run / ("status.%d" % index)
        if path.exists():
            return int(path.read_text())
        return NO_STATUS if gone else None

    def running(self):
        """Whether any QEMU runs."""
        return any(child.poll() is None for child in self.children)

    def kill(self):
        """SIGKILL to every QEMU: the guests' power is cut."""
        for child in self.children:
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)
            child.wait()

    def wait(self, timeout_s, look=lambda: None):
        """Waits until all guests are gone; the highest status. `look` is called again and again meanwhile."""
        end = time.monotonic() + timeout_s
        while self.running():
            if time.monotonic() > end:
                self.kill()
                return OUT_OF_TIME
            look()
            time.sleep(0.05)
        look()
        return max(self.status(index) for index in range(self.machine.count))

    def close(self):
        """Ends what runs and removes the folder."""
        self.kill()
        shutil.rmtree(self.run, ignore_errors=True)


class Printer:
    """Passes the guests' output through as it comes; of several guests with the guest's name on each line."""

    def __init__(self, guests, console):
        self.guests = guests
        names = ["console", "out"] if console else ["out"]
        self.at = {(name, index): 0 for name in names for index in range(guests.machine.count)}

    def __call__(self):
        last = not self.guests.running()
        for (name, index), offset in self.at.items():
            with open(self.guests.run / ("%s.%d" % (name, index)), "rb") as source:
                source.seek(offset)
                new = source.read()
            whole = len(new) if last else new.rfind(b"\n") + 1
            self.at[name, index] += whole
            prefix = b"" if self.guests.machine.count == 1 else b"vm%d: " % index
            for line in new[:whole].splitlines(keepends=True):
                sys.stdout.buffer.write(prefix + line.replace(b"\r\n", b"\n"))
        sys.stdout.flush()


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--vms", type=int, default=1, metavar="N", help="guests, running the script at the same time (default 1)")
    option("--cpus", type=int, default=2, metavar="N", help="virtual CPUs (default 2)")
    option("--mem", type=parse_bytes, default="2G", metavar="SIZE", help="memory (default 2G)")
    option("--numa", type=int, default=1, metavar="N", help="spread CPUs, memory, drives and cards over N nodes")
    option("--nvme", type=parse_bytes, action="append", default=[], metavar="SIZE", help="an NVMe drive (repeatable)")
    option("--sector", type=int, choices=(512, 4096), default=512, help="logical block of the NVMe drives")
    option("--disk", type=parse_bytes, action="append", default=[], metavar="SIZE", help="/dev/vdb, ...: a disk all guests share")
    option("--nics", type=int, default=1, metavar="N", help="network cards (default 1)")
    option("--share", metavar="FOLDER", help="host folder, read and write, seen as /host by all guests")
    option("--forward", type=int, action="append", default=[], metavar="PORT", help="10.0.0.253:PORT is this machine's 127.0.0.1:PORT (one guest only)")
    option("--systemd", action="store_true", help="systemd is PID 1, the script runs after multi-user.target")
    option("--append", default="", metavar="WORDS", help="further words for the kernel's command line")
    option("--timeout", type=float, default=300.0, metavar="SECONDS", help="give up after this time (default 300)")
    option("--console", action="store_true", help="show the kernel's console too")
    option("--shell", action="store_true", help="no script: a shell on this terminal")
    option("script", nargs="?")
    option("args", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if not args.shell and not (args.script and os.path.isfile(args.script)):
        parser.error("no script %r (or give --shell)" % args.script)
    if args.forward and args.vms != 1:
        parser.error("--forward works with one guest only")
    return args


def main():
    """Runs the command line; the exit status."""
    args = arguments()
    with tempfile.TemporaryDirectory(prefix="weft-vm-drives-") as folder:
        shared = [Drive("virtio", "%s/disk%d" % (folder, at), size, shared=True) for at, size in enumerate(args.disk)]
        own = lambda guest: [Drive("nvme", "%s/nvme%d-%d" % (folder, guest, at), size, sector_bytes=args.sector) for at, size in enumerate(args.nvme)]  # noqa: E731
        machine = Machine(args.vms, args.cpus, args.mem, args.numa, args.nics, [own(guest) + shared for guest in range(args.vms)])
        machine.share = os.path.abspath(args.share) if args.share else None
        machine.forward, machine.append = args.forward, args.append
        mode = "shell" if args.shell else "systemd" if args.systemd else "script"
        try:
            guests = Guests(machine, args.script, args.args, mode)
        except CannotRun as error:
            print("vm.py: no virtual machine: %s" % error, file=sys.stderr)
            return CANNOT
        with guests:
            if args.shell:
                return guests.children[0].wait()
            status = guests.wait(args.timeout, Printer(guests, args.console))
            if status in (OUT_OF_TIME, NO_STATUS):
                print("vm.py: %s" % ("out of time" if status == OUT_OF_TIME else "a guest went down without a status"), file=sys.stderr)
                for index in range(args.vms):
                    print("--- guest %d:\n%s" % (index, guests.words(index)), file=sys.stderr)
            return status


if __name__ == "__main__":
    sys.exit(main())
