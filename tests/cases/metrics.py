"""What servers tell of themselves: the Prometheus endpoint and `weft top`, held against what was really done."""

import json
import os
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request

from lib.base import case, check, eventually
from lib.cluster import Cluster, free_port, program

LINE = re.compile(r'^([a-z_]+)\{((?:[a-z_]+="[^"]*",?)*)\} (\S+)$')


def _get(port, path="/metrics"):
    with urllib.request.urlopen("http://127.0.0.1:%d%s" % (port, path), timeout=10) as answer:
        return answer.read().decode()


def _numbers(text):
    """{(name, labels): value} of a whole text, each line of which must be as Prometheus has it."""
    typed, numbers = set(), {}
    for line in text.splitlines():
        if line.startswith("# "):
            word, name, rest = line[2:].split(" ", 2)
            check(word in ("HELP", "TYPE") and rest, "not a comment of Prometheus:", line)
            if word == "TYPE":
                check(rest in ("counter", "gauge", "histogram"), line)
                typed.add(name)
            continue
        found = LINE.match(line)
        check(found, "not a line of Prometheus:", line)
        name, labels, value = found.groups()
        family = re.sub("_(bucket|sum|count)$", "", name)
        check(name in typed or family in typed, "no TYPE before", line)
        numbers[(name, frozenset(re.findall(r'([a-z_]+)="([^"]*)"', labels)))] = float(value)
    return numbers


def scraped(port):
    """{(name, labels): value} of what the endpoint says now."""
    return _numbers(_get(port))


def total(numbers, name, **labels):
    """Over all series of a metric that have these labels."""
    wanted = set(labels.items())
    return sum(value for (have, of), value in numbers.items() if have == name and wanted <= of)


def _cluster(ctx, port):
    fs = Cluster(ctx)
    fs.create()
    with open(fs.config, "a") as config:
        config.write('metrics = "127.0.0.1:%d"\n' % port)
    return fs


@case(60)
def metrics_endpoint(ctx):
    """The endpoint's text is as Prometheus reads it, and its numbers are what was done."""
    port = free_port()
    fs = _cluster(ctx, port)
    try:
        fs.start()
        fs.mount()
        before = scraped(port)
        for index in range(50):
            (fs.path / ("file%d" % index)).touch()
        block = b"w" * (4 << 20)
        with open(fs.path / "data", "wb") as out:
            out.write(block)
            os.fsync(out.fileno())
        fs.remount()
        check((fs.path / "data").read_bytes() == block, "wrong bytes")
        after = scraped(port)

        def grew(name, **labels):
            return total(after, name, **labels) - total(before, name, **labels)

        requests = "weft_server_request_seconds_count"
        check(grew(requests, kind="make") == 51, "51 files were made, counted:", grew(requests, kind="make"))
        for kind in ("write", "read", "sync", "lookup"):
            check(grew(requests, kind=kind) > 0, "nothing counted of", kind)
        for name in ("weft_server_received_bytes_total", "weft_server_sent_bytes_total"):
            check(grew(name) >= len(block), name, grew(name))
        for op in ("read", "write"):
            moved = grew("weft_target_io_bytes_total", op=op)
            check(moved >= len(block), op, "moved", moved)
        check(grew("weft_target_io_seconds_count", op="flush") >= 1, "an fsync without a flush")
        check(grew("weft_volume_log_write_seconds_count") >= 1, "names without a write of the log")
        check(total(after, "weft_target_online") == 4, "4 targets are online")

        def used():
            now = scraped(port)
            return total(now, "weft_target_bytes") - total(now, "weft_target_free_bytes")

        eventually("the targets show what they hold", lambda: used() >= len(block))
        busy = grew("weft_shard_busy_seconds_total")
        check(0 < busy < 60, "busy for", busy, "s")
        try:
            _get(port, "/")
            check(False, "/ is there")
        except urllib.error.HTTPError as error:
            check(error.code == 404, error)
    finally:
        fs.close()


@case(60)
def metrics_address_taken(ctx):
    """A port that is taken ends the server with a sentence, before it touches a target."""
    fs = ctx.fs()
    port = fs.port
    other = Cluster(ctx, name="b")
    other.create()
    with open(other.config, "a") as config:
        config.write('metrics = "127.0.0.1:%d"\n' % port)
    ended = subprocess.run(
        [program("weft-server"), "--config", other.config], capture_output=True, text=True, timeout=30
    )
    said = ended.stdout + ended.stderr
    check(ended.returncode != 0, "it started")
    check("metrics" in said and "free HOST:PORT" in said, "it said:", said)


@case(60)
def top(ctx):
    """`weft top` shows the rates and latencies of a load that runs, as text and as JSON."""
    fs = ctx.fs()
    stop = threading.Event()

    def work():
        with open(fs.path / "data", "wb", buffering=0) as out:
            while not stop.is_set():
                out.write(b"t" * (1 << 20))
                os.fsync(out.fileno())
                out.seek(0)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        time.sleep(0.3)
        told = json.loads(fs.weft("top", "--config", fs.config, "--json", "--interval", "1").out)
        text = fs.weft("top", "--config", fs.config, "--interval", "0.5", "--count", "2").out
    finally:
        stop.set()
        worker.join()
    shards = told["shards"]
    check(all(shard["error"] is None for shard in shards), "shards:", shards)
    for key in ("requests_per_s", "busy", "received_bytes_per_s"):
        check(sum(shard[key] for shard in shards) > 0, key, "of", shards)
    kinds = {row["kind"]: row for row in told["requests"]}
    check({"write", "sync"} <= set(kinds), "kinds:", sorted(kinds))
    check(0 < kinds["sync"]["p50_s"] <= kinds["sync"]["longest_s"], kinds["sync"])
    check(len(told["targets"]) == 4, told["targets"])
    check(sum(row["writes"]["bytes_per_s"] for row in told["targets"]) > 0, told["targets"])
    check(sum(row["flushes"]["per_s"] for row in told["targets"]) > 0, told["targets"])
    mount = {row["operation"]: row for row in told["mounts"] if row["mount_point"] == str(fs.path)}
    check(mount["fsync"]["per_s"] > 0 and mount["write"]["bytes_per_s"] > 0, "mount:", mount)
    check(mount["fsync"]["p50_s"] >= kinds["sync"]["p50_s"] / 2, "fsync takes longer at the mount:", mount)
    for head in ("BUSY", "FLUSHES/S", "OPERATION"):
        check(text.count(head) == 2, head, "in", text)
