"""Proof 2, SQLite: thousands of transactions while the server is killed and restarted; none that was committed is lost.

The writer appends to a side log, outside the mount, after each commit returned. At the end every transaction of the
side log must be in the database, whole; at most the one that was in flight may be there without its line.
"""

import hashlib
import os
import sqlite3
import time

from lib.base import case, check, eventually
from lib.procs import fork_worker, join_workers

ROWS = 3


def _payload(number, row):
    seed = hashlib.sha256(b"%d.%d" % (number, row)).hexdigest()
    return seed * (1 + number % 9)


def _open(path, mode):
    base = sqlite3.connect(str(path), timeout=60, isolation_level=None)
    got = base.execute("pragma journal_mode=%s" % mode).fetchone()[0]
    check(got.lower() == mode, "journal mode is", got)
    base.execute("pragma synchronous=full")
    return base


def _write(path, mode, side, count):
    """The writer: `count` transactions of ROWS rows and a counter; then checkpoint and close."""
    base = _open(path, mode)
    base.execute("create table if not exists t (number integer, row integer, text text, primary key (number, row))")
    base.execute("create table if not exists last (number integer)")
    base.execute("insert into last values (-1)")
    log = os.open(side, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in range(count):
        base.execute("begin immediate")
        for row in range(ROWS):
            base.execute("insert into t values (?, ?, ?)", (number, row, _payload(number, row)))
        if number % 50 == 49:
            base.execute("delete from t where number = ?", (number - 25,))
        base.execute("update last set number = ?", (number,))
        base.execute("commit")
        os.write(log, b"%d\n" % number)
    base.close()


def _committed(side):
    """Transactions in the side log."""
    try:
        return side.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def _verify(path, committed):
    base = sqlite3.connect(str(path), timeout=60)
    verdict = base.execute("pragma integrity_check").fetchall()
    check(verdict == [("ok",)], "integrity_check says", verdict[:5])
    last = base.execute("select number from last").fetchone()[0]
    check(committed - 1 <= last <= committed, "committed", committed, "transactions, the database ends with", last)
    gone = {number - 25 for number in range(49, last + 1, 50)}
    found = {}
    for number, row, text in base.execute("select number, row, text from t"):
        check(text == _payload(number, row), "row", number, row, "has a wrong text")
        found[number] = found.get(number, 0) + 1
    want = {number: ROWS for number in range(last + 1) if number not in gone}
    check(found == want, "transactions missing or too many:", sorted(set(found.items()) ^ set(want.items()))[:5])
    base.close()


def _kill_during(ctx, mode, count, kills):
    fs = ctx.fs()
    path, side = fs.path / "base.db", ctx.work / "side.log"
    begin = time.monotonic()
    writer = fork_worker(_write, path, mode, side, count)
    pause = 0.0
    for kill in range(kills):
        goal = count * (kill + 1) // (kills + 1) + ctx.random.randrange(max(1, count // (4 * kills)))
        eventually("transaction %d" % goal, lambda goal=goal: _committed(side) >= goal, 300)
        time.sleep(ctx.random.random() * 0.02)
        before = time.monotonic()
        fs.kill()
        time.sleep(ctx.random.random() * 0.5)
        fs.start()
        done = _committed(side)
        eventually("a transaction after restart", lambda done=done: _committed(side) > min(done, count - 1), 60)
        pause = max(pause, time.monotonic() - before)
    join_workers([writer], 500, "sqlite writer")
    check(_committed(side) == count, "the writer committed", _committed(side), "of", count)
    ctx.figure("sqlite_%s.rate" % mode, count / (time.monotonic() - begin), "transactions/s")
    ctx.figure("sqlite_%s.longest_pause" % mode, pause, "s")
    _verify(path, count)
    fs.kill()
    fs.start()
    fs.remount()
    _verify(path, count)
    fs.close()


@case(timeout_s=700, peer=True)
def sqlite_wal(ctx):
    """SQLite in WAL mode, 10,000 transactions, server killed 5 times: integrity ok, no committed row missing."""
    _kill_during(ctx, "wal", ctx.scaled(10_000, 1_000), ctx.scaled(5, 2))


@case(timeout_s=700, peer=True)
def sqlite_rollback(ctx):
    """SQLite with a rollback journal, 10,000 transactions, server killed 5 times: the same."""
    _kill_during(ctx, "delete", ctx.scaled(10_000, 1_000), ctx.scaled(5, 2))
