"""What can go wrong between us and a server; what takes too long is a TimeoutError."""


class TransferError(Exception):
    """A request was not answered, or not to the end."""


class NotConnected(TransferError):
    """There is no connection to the server, so nothing was sent."""


class BrokenOff(TransferError):
    """The connection ended before the answer did."""


class Garbled(TransferError):
    """What came is no HTTP/1.1, or only the beginning of it."""
