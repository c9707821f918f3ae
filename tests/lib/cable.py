"""A network of its own for a mount, with a cable that can be pulled: a network namespace and a pair of interfaces."""

import os
import subprocess

from lib.base import check
from lib.procs import run


class Cable:
    """The server's address `server` is reachable from the namespace `space` while the cable is in."""

    def __init__(self):
        number = os.getpid() % 60_000
        net = "10.%d.%d." % (64 + number // 250 % 64, number % 250)
        self.space = "weft-%d" % number
        self.outside, self.inside = "wfo%d" % number, "wfi%d" % number
        self.server, self.near, self.far = net + "1", net + "5", net + "6"
        self.net = net + "4/30"

    def __enter__(self):
        run(["ip", "netns", "add", self.space])
        run(["ip", "link", "add", self.outside, "type", "veth", "peer", "name", self.inside, "netns", self.space])
        # On lo it stays reachable from this side, cable or not.
        run(["ip", "addr", "add", self.server + "/32", "dev", "lo"])
        # Packets for the far end must not take the way to the world while the cable is out.
        run(["ip", "route", "add", "unreachable", self.net, "metric", "9999"])
        run(["ip", "addr", "add", self.near + "/30", "dev", self.outside])
        run(["ip", "-n", self.space, "addr", "add", self.far + "/30", "dev", self.inside])
        run(["ip", "-n", self.space, "link", "set", self.inside, "up"])
        run(["ip", "-n", self.space, "link", "set", "lo", "up"])
        # Started now: while the cable is out a child of this process would hang at the end of a file of the mount.
        turns = 'while read -r way; do ip link set "$0" "$way"; echo done; done'
        pipe = subprocess.PIPE
        self.hand = subprocess.Popen(["sh", "-c", turns, self.outside], stdin=pipe, stdout=pipe, text=True)
        self.put_in()
        run(["ip", "-n", self.space, "route", "add", self.server, "via", self.near])
        return self

    def __exit__(self, *_):
        self.hand.stdin.close()
        self.hand.wait(10)
        run(["ip", "netns", "del", self.space], ok=None)
        run(["ip", "link", "del", self.outside], ok=None)
        run(["ip", "addr", "del", self.server + "/32", "dev", "lo"], ok=None)
        run(["ip", "route", "del", "unreachable", self.net, "metric", "9999"], ok=None)

    def pull(self):
        """From now on packets of both sides are dropped; no connection hears of it."""
        self._turn("down")

    def put_in(self):
        """They arrive again."""
        self._turn("up")

    def _turn(self, way):
        self.hand.stdin.write(way + "\n")
        self.hand.stdin.flush()
        check(self.hand.stdout.readline() == "done\n", "the link does not go", way)
