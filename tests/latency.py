#!/usr/bin/env python3
"""How long each operation took: latency.py make|look DIRECTORY SECONDS. Prints p50 p99 p99.9 and the longest in
milliseconds, and how many there were. `make` makes files of ever new names, `look` asks for what the metadata server answers
from memory, a thousand times a second at most."""

import os
import sys
import time


def operations(what, directory):
    number = 0
    while True:
        number += 1
        path = os.path.join(directory, "%s-%d" % (what, number))
        begin = time.monotonic()
        if what == "make":
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        else:
            os.statvfs(directory)
        yield begin, time.monotonic() - begin
        if what == "look":
            time.sleep(0.001)


def main():
    what, directory, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    end = time.monotonic() + seconds
    times = []
    for begin, took in operations(what, directory):
        times.append(took)
        if begin > end:
            break
    times.sort()
    at = [times[int((len(times) - 1) * part)] * 1000 for part in (0.5, 0.99, 0.999, 1)]
    print("%.3f %.3f %.3f %.3f %d" % (*at, len(times)))


if __name__ == "__main__":
    main()
