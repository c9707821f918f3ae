"""Virtual machines for cases: a guest that has our programs and this test library, and runs a script of tests/guest.

A script is a Python program that finds this library and its own folder as modules, and the built programs under
/host/bin (tests/guest/enter.sh). One boot serves many checks: it prints `ok NAME` for each, and ends with 0. See packaging/vm/README.md.
"""

import shutil
import sys

from lib.base import ROOT, Failed, Skip, check
from lib.cluster import program
from lib.procs import run

sys.path.insert(0, str(ROOT / "packaging" / "vm"))

import vm  # noqa: E402

PROGRAMS = ("weft", "weft-server", "mount-weft", "weft-load")


def need_guests():
    """Builds the guests' image when it is not there; skips the case where this machine cannot have guests."""
    try:
        vm.image()
    except vm.CannotRun as error:
        print("no virtual machine: %s" % error, flush=True)
        raise Skip("no-virtual-machine")


def share(ctx):
    """The folder that a guest sees as /host: our programs, stripped (a guest reads slowly), and the test library."""
    folder = ctx.work / "host"
    if not folder.exists():
        (folder / "bin").mkdir(parents=True)
        for name in PROGRAMS:
            run(["strip", "-o", folder / "bin" / name, program(name)])
        for name in ("lib", "guest"):
            shutil.copytree(ROOT / "tests" / name, folder / "tests" / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def drive(ctx, name, kind="nvme", mib=512, **settings):
    """A drive of that name in the case's folder; the file is found again when it is there."""
    folder = ctx.work / "bulk"
    folder.mkdir(exist_ok=True)
    return vm.Drive(kind, folder / name, mib << 20, **settings)


def guests(ctx, script, args=(), **settings):
    """The guests of one boot, to be used with `with`. `script` is a program of tests/guest."""
    machine = vm.Machine(share=share(ctx), **settings)
    return vm.Guests(machine, ROOT / "tests" / "guest" / "enter.sh", [script, *args], parent=ctx.work)


def finish(ctx, booted, timeout_s, want=0):
    """Waits for the end of the guests and checks the status. Returns guest 0's output."""
    status = booted.wait(timeout_s)
    for index in range(booted.machine.count):
        print("---- guest %d:\n%s" % (index, booted.output(index)), flush=True)
    if status != want:
        print("---- QEMU and console:\n%s" % booted.words(), flush=True)
        raise Failed("the guest ended with %d, wanted %d: %s" % (status, want, (booted.output().splitlines() or [""])[-1]))
    return booted.output()


def boot(ctx, script, args=(), timeout_s=120.0, expect=(), **settings):
    """Boots, runs the script to its end, and checks that it said `ok NAME` for each name in `expect`."""
    with guests(ctx, script, args, **settings) as booted:
        out = finish(ctx, booted, timeout_s)
    said = [line[3:] for line in out.splitlines() if line.startswith("ok ")]
    missing = [name for name in expect if name not in said]
    check(not missing, "the guest did not say ok to", ", ".join(missing))
    return out
