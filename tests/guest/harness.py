"""In each of two guests: they reach each other, wait for each other, see the shared folder and the shared disk."""

import os
import subprocess
import sys

INDEX, COUNT = int(os.environ["VM_ID"]), int(os.environ["VM_COUNT"])
MESSAGE = b"from the last guest".ljust(4096, b".")


def barrier(name):
    """Waits for the other guests."""
    subprocess.run(["vm-barrier", name], check=True)


def ok(name):
    """Says that a check went well."""
    print("ok", name, flush=True)


assert sys.argv[1:] == ["an argument", "$HOME"], sys.argv
ok("arguments")
assert os.access("/host/bin/weft-server", os.X_OK)
assert subprocess.run(["/host/bin/weft", "--version"], check=True, stdout=subprocess.PIPE).stdout.startswith(b"weft ")
ok("programs run")
with open("/dev/vdb", "r+b", buffering=0) as disk:
    if INDEX == COUNT - 1:
        disk.write(MESSAGE)
        os.fsync(disk.fileno())
barrier("written")
with open("/dev/vdb", "rb", buffering=0) as disk:
    assert disk.read(4096) == MESSAGE
ok("shared disk")
if INDEX == 0:
    import socket

    with socket.create_server(("10.0.0.1", 7)) as server:
        barrier("listening")
        server.settimeout(30)
        peer, _ = server.accept()
        assert peer.recv(100) == MESSAGE[:100]
    ok("network")
else:
    import socket

    barrier("listening")
    with socket.create_connection(("vm0", 7), timeout=30) as peer:
        peer.sendall(MESSAGE[:100])
    ok("network")
sys.exit(40 + INDEX)
