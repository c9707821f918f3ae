"""What this machine's kernel or hardware cannot show is shown in virtual machines: NVMe, power cuts, NUMA nodes."""

from lib.base import ROOT, Skip, case, check
from lib.guest import drive, finish, guests, need_guests
from lib.procs import run


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
