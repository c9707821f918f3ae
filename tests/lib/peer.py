"""A plain directory in the place of a mount: shows that a case itself is right, and what a peer reaches."""

import shutil
import tempfile
from pathlib import Path


class PeerFs:
    """The same face as `cluster.Cluster`; there is no server, so killing and restarting it does nothing."""

    is_peer = True

    def __init__(self, ctx):
        self.path = Path(tempfile.mkdtemp(prefix="weft-test-", dir=ctx.on))
        self.path.chmod(0o755)

    def kill(self):
        """No server."""

    def stop(self):
        """No server."""

    def start(self):
        """No server."""

    def remount(self):
        """Nothing to mount."""

    def server_pid(self):
        """No server."""
        return None

    def close(self):
        """Removes the directory."""
        shutil.rmtree(self.path)
