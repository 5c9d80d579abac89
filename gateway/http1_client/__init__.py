"""HTTP/1.1 towards engines: one server, as many connections as there are requests, each step of them bounded.

`client.py` is what callers use, `dialling.py` makes connections, `connection.py` is one of them, `response.py` what a
server answers on it, and `faults.py` what can go wrong.
"""

from gateway.http1_client.client import Client
from gateway.http1_client.faults import BrokenOff, Garbled, NotConnected, TransferError
from gateway.http1_client.response import Response

__all__ = ["BrokenOff", "Client", "Garbled", "NotConnected", "Response", "TransferError"]
