"""Where an engine listens: a private Unix socket, or a TCP port."""

import os
import socket
from pathlib import Path


class Listener:
    """An open socket to listen on: a private Unix socket at `uds`, or a TCP port. Closing removes the path."""

    def __init__(self, *, uds: Path | None, host: str, port: int) -> None:
        self.path = uds
        if uds is None:
            self.socket = socket.create_server((host, port))
            return
        if uds.is_socket():  # left behind by a process that was killed
            uds.unlink()
        self.socket = socket.socket(socket.AF_UNIX)
        allowed = os.umask(0o177)
        try:
            self.socket.bind(str(uds))
        except OSError:
            self.socket.close()
            raise
        finally:
            os.umask(allowed)

    def close(self) -> None:
        """Closes the socket and removes its path."""
        self.socket.close()
        if self.path:
            self.path.unlink(missing_ok=True)
