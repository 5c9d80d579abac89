"""HTTP/1.1 as uvicorn lets a protocol of one's own speak it: bounded, with deadlines, and strict on what it reads.

`head.py` reads the head of a request, `connection.py` is one client's connection, `exchange.py` one request on it with
its answer, and `lobby.py` knows who is connected.
"""

from gateway.http1.connection import Connection
from gateway.http1.lobby import Lobby

__all__ = ["Connection", "Lobby"]
