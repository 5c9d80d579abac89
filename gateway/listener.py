"""The socket that clients reach us by."""

import socket
from collections.abc import Iterator
from contextlib import suppress

import click


def bound(host: str, port: int) -> socket.socket:
    """A socket bound to that address.

    Raises:
        ClickException: it cannot be bound; the message says what to do.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise click.ClickException(
            f"Cannot listen on {host}:{port} ({error.strerror}). Choose another port with --port, or 0 for a free one."
        ) from None
    return listener


def accepted(listener: socket.socket) -> Iterator[socket.socket]:
    """Who waits to be accepted by a listener that does not block; closing it would reset their connections."""
    with suppress(OSError):  # nobody is left, or no file can be opened
        while True:
            yield listener.accept()[0]
