"""Rot: bits flipped in real target files are found by the scrub, which names the file; reads give right bytes or EIO.

Uses the filled node of `damage`: every block of its files begins with the file's name and the block's number, so a block
on a target is known for what it is.
"""

import errno
import json
import os
import random
import re
import time

from cases.damage import BLOCK, MARK, Node, _flip
from lib.base import case, check, eventually
from lib.cluster import MIB
from lib.procs import run

HEAD = re.compile(re.escape(MARK) + rb"(file\d+):(\d{6});")


def _stored(node):
    """Where the blocks of files lie: (path, block) -> (target number, device offset). Blocks met twice are left out."""
    paths, found, twice = {name.rsplit("/", 1)[1]: name for name in node.want}, {}, set()
    for number, target in enumerate(node.fs.targets):
        with open(target, "rb") as source:
            for base in range(0, os.path.getsize(target), 4 * MIB):
                piece = source.read(4 * MIB)
                for match in HEAD.finditer(piece):
                    key = paths[match.group(1).decode()], int(match.group(2))
                    twice |= {key} & found.keys()
                    found[key] = number, base + match.start()
    return {key: place for key, place in found.items() if key not in twice}


def _change(path, offset, change):
    with open(path, "r+b") as target:
        target.seek(offset)
        old = target.read(BLOCK)
        target.seek(offset)
        target.write(change(old))


def _one_bit(source):
    """Flips one bit of a block, any."""
    bit = source.randrange(BLOCK * 8)
    return lambda old: old[: bit // 8] + bytes([old[bit // 8] ^ (1 << bit % 8)]) + old[bit // 8 + 1 :]


def _damages(node):
    """What the scrub knows: {(path, block)} of file blocks, and the whole answer."""
    answer = json.loads(node.fs.weft("--json", "target", "scrub", "--status", "--config", node.fs.config, ok=(0, 1)).out)
    blocks = set()
    for row in answer["damages"]:
        for path in row.get("paths", []):
            blocks |= {(path.lstrip("/"), at // BLOCK) for at in range(row["first_byte"], row["end_byte"], BLOCK)}
    return blocks, answer


def _scrub(node, ok):
    """One whole pass, waited for; its text."""
    args = ["target", "scrub", "--now", "--wait", "--mib-per-second", 1000, "--config", node.fs.config]
    return node.fs.weft(*args, ok=(ok,), timeout_s=120).out


@case(timeout_s=600)
def rot_scrub(ctx):
    """Random bits of stored data flipped: EIO there and right bytes elsewhere; the scrub finds each and names its file."""
    node = Node(ctx)
    node.fill()
    places = _stored(node)
    total = sum(len(want) // BLOCK for want in node.want.values())
    check(len(places) > total * 0.9, "found", len(places), "of", total, "blocks on the targets")
    found_s = []
    for turn in range(ctx.scaled(6, 2)):
        node.fs.load("good")
        hit = ctx.random.sample(sorted(places), ctx.scaled(40, 15))
        for key in hit:
            number, offset = places[key]
            # One block in five is lost altogether: it must not pass for a hole.
            lost = ctx.random.random() < 0.2
            _change(node.fs.targets[number], offset, (lambda _: bytes(BLOCK)) if lost else _one_bit(ctx.random))
        check(node.start("targets"), "the server does not start for damaged data")
        begin = time.monotonic()
        text = _scrub(node, 1)
        found_s.append(time.monotonic() - begin)
        known, answer = _damages(node)
        check(known == set(hit), "damaged", sorted(hit), "the scrub names", sorted(known))
        check(sum(row["blocks"] for row in answer["damages"]) == len(hit), "blocks without a name:", answer["damages"])
        for (name, block), (number, _) in ((key, places[key]) for key in hit[:5]):
            # Blocks in a row are one line, so only the begin of a line of a lone block is fixed.
            alone = not {(name, block - 1), (name, block + 1)} & set(hit)
            line = "/%s bytes %d..%d on target %d: checksum mismatch" % (name, block * BLOCK, (block + 1) * BLOCK, number)
            check(not alone or line in text, "no line", repr(line), "in\n" + text)
        right, broken = node.answers("bits flipped:")
        names = {name for name, _ in hit}
        check(broken == len(names) and right == len(node.want) - broken, "EIO from", broken, "files, damaged are", names)
        if turn == 0:
            _heals(node, hit)
        node.fs.unmount()
        node.fs.kill()
    ctx.figure("rot.scrub_s", max(found_s), "s")
    node.undamaged()


def _heals(node, hit):
    """Damage leaves the list when written again or removed, and is listed while a removed file is open."""
    fs = node.fs
    by_name = {}
    for name, block in hit:
        by_name.setdefault(name, []).append(block)
    (first, blocks), (second, _) = sorted(by_name.items())[:2]
    with open(fs.path / first, "r+b", buffering=0) as target:
        for block in blocks:
            os.pwrite(target.fileno(), node.want[first][block * BLOCK : (block + 1) * BLOCK], block * BLOCK)
        os.fsync(target.fileno())
    check((fs.path / first).read_bytes() == node.want[first], first, "is not right after its blocks were written again")
    check(first not in {name for name, _ in _damages(node)[0]}, "what was written again is still listed")
    with open(fs.path / second, "rb"):
        (fs.path / second).unlink()
        states = {row["file"] for row in _damages(node)[1]["damages"] if not row["paths"]}
        check(states == {"deleted, still open"}, "a removed file that is open is named as", states)
    eventually("the removed file's damage is forgotten", lambda: all(r["paths"] for r in _damages(node)[1]["damages"]), 20)


@case(timeout_s=300)
def rot_holes(ctx):
    """A hole reads as zeros, a block that was lost gives EIO, also after scrub and restart."""
    node = Node(ctx)
    fs = node.fs
    fs.create()
    fs.start()
    fs.mount()
    sparse = fs.path / "sparse"
    block = MARK + b"file9:000009;"
    block += ctx.random.randbytes(BLOCK - len(block))
    with open(sparse, "wb") as target:
        os.pwrite(target.fileno(), block, 9 * BLOCK)
        os.ftruncate(target.fileno(), 20 * BLOCK)
        os.fsync(target.fileno())
    fs.close()
    node.want = {"sparse/file9": b""}
    ((number, offset),) = _stored(node).values()
    _change(fs.targets[number], offset, lambda _: bytes(BLOCK))
    fs.start()
    for _ in range(2):
        fs.mount()
        with open(fs.path / "sparse", "rb", buffering=0) as source:
            for at in range(20):
                try:
                    found = os.pread(source.fileno(), BLOCK, at * BLOCK)
                    check(at != 9 and found == bytes(BLOCK), "block", at, "of the sparse file is not a hole")
                except OSError as error:
                    check(at == 9 and error.errno == errno.EIO, "block", at, "gives", error)
        check("/sparse bytes %d..%d on target %d" % (9 * BLOCK, 10 * BLOCK, number) in _scrub(node, 1), "lost, not named")
        fs.unmount()
        fs.stop()
        fs.start()
    fs.close()


@case(timeout_s=600)
def rot_parts(ctx):
    """Bits flipped in superblocks, journals, indexes and the metadata's files: refused by name, right, or EIO."""
    node = Node(ctx)
    node.fill()
    length = os.path.getsize(node.fs.targets[0])

    def within(seed, start, end, count):
        def damage(path):
            source = random.Random(seed)
            for _ in range(count):
                _change(path, source.randrange(start, end) // BLOCK * BLOCK, _one_bit(source))

        return damage

    places = [
        ("targets/target1", "first superblock", 0, BLOCK),
        ("targets/target1", "second superblock", length - BLOCK, length),
        ("targets/target2", "journal", MIB, 5 * MIB),
    ]
    outcome = {"refused": 0, "eio": 0, "right": 0}
    seeds = range(ctx.seed, ctx.seed + ctx.scaled(4, 1))
    for part, label, start, end in places:
        for seed in seeds:
            word = node.attempt(part, "%s, seed %d" % (label, seed), within(seed, start, end, 2))
            outcome[word] += 1
            check(word == "right" or label == "journal", part, label, "is survived, but the outcome is", word)
    for part in node.parts():
        if part.endswith("data.mdb") or part.endswith("log"):
            for seed in seeds:
                outcome[node.attempt(part, "one bit, seed %d" % seed, _flip(seed, 1))] += 1
    ctx.note(outcome)
    # A damaged superblock is written again by the scrub.
    node.fs.load("good")
    for at in (30, length - BLOCK + 30):
        _change(node.fs.targets[1], at - at % BLOCK, lambda old: old[:30] + bytes([old[30] ^ 1]) + old[31:])
        check(node.start("superblock"), "the server does not start with one good superblock")
        text = _scrub(node, 0)
        check("superblocks damaged: 1, written again: 1" in text, "the superblock was not repaired:\n" + text)
        node.fs.stop()
    node.fs.weft("target", "check", "--quick", "--config", node.fs.config, node.fs.targets[1])
    node.undamaged()


@case(timeout_s=300)
def target_check(ctx):
    """`weft target check` by path and number: 0 clean, also after kill -9; 4 with inode, chunk and block; 8 in use."""
    node = Node(ctx)
    node.fill()
    fs, places = node.fs, _stored(node)
    check_args = ["target", "check", "--config", fs.config]
    for number, target in enumerate(fs.targets):
        by_path, by_number = (fs.weft(*check_args, which).out for which in (target, number))
        check(by_path == by_number and "sound" in by_path, by_path, by_number)
    (name, block), (number, offset) = sorted(places.items())[-1]
    _change(fs.targets[number], offset, _one_bit(ctx.random))
    fs.weft(*check_args, "--quick", number)
    answer = json.loads(fs.weft("--json", *check_args, number, ok=(4,)).out)
    (problem,) = answer["problems"]
    at = problem["chunk"] * MIB + problem["first_block"] * BLOCK
    check((at, problem["blocks"], problem["kind"]) == (block * BLOCK, 1, "mismatch"), name, block, problem)
    _change(fs.targets[number], 100, lambda old: old[:5] + b"\1" + old[6:])
    check("superblock" in fs.weft(*check_args, number, ok=(4,)).out, "a damaged superblock is not told")
    fs.load("good")
    fs.start()
    fs.weft(*check_args, 0, ok=(8,))
    fs.mount()
    (fs.path / "late").write_bytes(os.urandom(3 * MIB))
    run(["sync", fs.path / "late"])
    fs.kill()
    told = [json.loads(fs.weft("--json", *check_args, number).out) for number in range(len(fs.targets))]
    check(sum(one["replayed_records"] for one in told) > 0, "nothing in any journal after kill -9")
    fs.start()
    fs.close()
    fs.weft(*check_args, "/no/such/device", ok=(8,))


@case(timeout_s=300)
def scrub_schedule(ctx):
    """A target is scrubbed on its own; killed halfway the pass goes on; --stop and the config's keys do what they say."""
    node = Node(ctx)
    node.fill()
    fs = node.fs
    text = fs.config.read_text()
    text = re.sub(r"(?m)^checkpoint_s.*$", "checkpoint_s = 1", text)
    fs.config.write_text(text + "scrub_mib_per_second = 1\nscrub_interval_days = 3\n")

    def look():
        rows = _damages(node)[1]["targets"]
        return {row["id"]: row for row in rows}

    # `fill` served once, so each target's first pass began then; a slow machine ends it only now.
    fs.start()
    eventually("each target is scrubbed once", lambda: all(r["started_s"] > 0 and not r["running"] for r in look().values()), 60)
    fs.weft("target", "scrub", "--now", "--config", fs.config)
    eventually("a pass is halfway", lambda: all(r["checked_chunks"] > 0 for r in look().values() if r["total_bytes"] > MIB), 30)
    time.sleep(1.5)  # a checkpoint
    before = look()
    fs.kill()
    fs.start()
    after = look()
    for number, row in before.items():
        later = after[number]
        check(later["started_s"] == row["started_s"] and later["bytes_per_second"] == MIB, "another pass", row, later)
        check(not row["running"] or later["checked_bytes"] > 0, "begun anew", row, later)
    fs.weft("target", "scrub", "--stop", "--config", fs.config)
    stopped = look()
    check(not any(row["running"] for row in stopped.values()), "not stopped")
    out = fs.weft("target", "scrub", "--wait", "--mib-per-second", 1000, "--config", fs.config).out
    ended = look()
    for number, row in ended.items():
        check(row["started_s"] == after[number]["started_s"] or stopped[number]["finished_s"], "did not go on", row)
        check(row["finished_s"] >= row["started_s"] and row["checked_bytes"] == row["total_bytes"], "not whole", row, out)
    check("scrub begins" in fs.log_since(0) and "scrub ended" in fs.log_since(0), "the log does not tell of it")
    fs.stop()
    fs.config.write_text(text + "scrub_interval_days = 0\n")
    fs.start()
    fs.stop()


@case(timeout_s=300)
def target_dead(ctx):
    """A node whose disks are gone, all too, emptied or swapped comes up: they are offline by name; one never known is refused."""
    node = Node(ctx)
    node.fill()
    fs = node.fs
    target = fs.targets[1]
    spare = target.with_name("spare")
    target.rename(spare)

    def blank():
        with open(target, "wb") as empty:
            os.truncate(empty.fileno(), 64 * MIB)

    for what, damage, told in (
        ("gone", lambda: None, "No such file"),
        ("blank", blank, "not a weft target"),
    ):
        damage()
        fs.start()
        out = fs.weft("target", "list", "--config", fs.config, ok=(0, 1)).out
        check("target 1 (%s) is OFFLINE" % target in out and told in out, what, "not told:\n" + out)
        right, broken = node.answers("target 1 is %s:" % what)
        check(right >= 2 and broken >= 1, what, right, "right,", broken, "EIO")
        fs.remount()
        (fs.path / what).write_bytes(b"new")
        run(["sync", fs.path / what])
        node.want[what] = b"new"
        fs.close()
    text = fs.config.read_text()
    nowhere = target.with_name("nowhere")
    fs.config.write_text(text.replace(str(fs.targets[0]), str(nowhere)).replace(str(fs.targets[2]), str(fs.targets[0])))
    spare.replace(target)
    fs.start()
    out = fs.weft("target", "list", "--config", fs.config, ok=(0, 1)).out
    check("target 2 (%s) is OFFLINE" % nowhere in out, "names moved, and the missing one is not told:\n" + out)
    fs.stop()
    fs.config.write_text(text.replace(str(fs.targets[0]), "%s\", \"%s" % (fs.targets[0], nowhere)))
    check(not node.start("targets/nowhere"), "a path that never was a target was taken")
    fs.config.write_text(text)
    fs.start()
    right, broken = node.answers("all are back:")
    check(broken == 0 and right == len(node.want), "not whole again")
    fs.close()
    away = [(target, target.with_name(target.name + "-away")) for target in fs.targets]
    for target, elsewhere in away:
        target.rename(elsewhere)
    fs.start()
    out = fs.weft("target", "list", "--config", fs.config, ok=(0, 1)).out
    check(out.count("OFFLINE") == len(fs.targets), "all are gone, and that is not told:\n" + out)
    right, broken = node.answers("all are gone:")
    small = sum(len(want) <= 4096 for want in node.want.values())  # With the names: they need no target.
    check(right == small and broken > 0, right, "right,", broken, "EIO; small are", small)
    (fs.path / "name").symlink_to("served")
    fs.close()
    for target, elsewhere in away:
        elsewhere.rename(target)
    fs.start()
    right, broken = node.answers("all are back again:")
    check(broken == 0 and right == len(node.want) and os.readlink(fs.path / "name") == "served", "not whole again")
    fs.close()


@case(timeout_s=300)
def target_offline(ctx):
    """A target whose index is damaged is offline by name: its files give EIO, the others serve; it comes back whole."""
    node = Node(ctx)
    node.fill()
    fs = node.fs
    show = json.loads(fs.weft("--json", "target", "show", fs.targets[1]).out)
    index = next(fs.state.rglob(show["uuid"])) / "data.mdb"
    good = index.read_bytes()
    index.write_bytes(bytes(len(good)))
    fs.start()
    for command in (("target", "list"), ("node", "status"), ("target", "scrub", "--status")):
        out = fs.weft(*command, "--config", fs.config, ok=(0, 1)).out
        check("target 1 (" in out and "offline" in out.lower() and str(index.parent) in out, "not told:\n" + out)
    right, broken = node.answers("target 1 is offline:")
    check(right >= 2 and broken >= 1, right, "right,", broken, "EIO")
    new = ctx.random.randbytes(6 * MIB)
    (fs.path / "new").write_bytes(new)
    run(["sync", fs.path / "new"])
    big = next(name for name in node.want if name.endswith("file6"))
    try:
        os.truncate(fs.path / big, 5)
        raise AssertionError("a file was cut on three of its four targets")
    except OSError as error:
        check(error.errno == errno.EIO, "truncation gives", error)
    gone = next(name for name in node.want if name.endswith("file5"))
    (fs.path / gone).unlink()
    fs.remount()
    check((fs.path / "new").read_bytes() == new, "a file made meanwhile is not right")
    fs.close()
    index.write_bytes(good)
    fs.start()
    del node.want[gone]
    right, broken = node.answers("target 1 is back:")
    check(broken == 0 and right == len(node.want) and (fs.path / "new").read_bytes() == new, "not whole again")
    check("OFFLINE" not in fs.weft("target", "list", "--config", fs.config).out, "still offline")
    fs.close()
    for number in range(len(fs.targets)):
        fs.weft("target", "check", "--config", fs.config, number)
