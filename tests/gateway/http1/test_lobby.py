"""Who makes room for whom."""

from gateway.http1 import Lobby


class Guest:
    """A connection that notes whether it was closed."""

    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        """Notes it."""
        self.is_closed = True


def test_whoever_has_waited_longest_makes_room() -> None:
    """In the order of their last requests, and nobody twice; who has a request under way is left alone."""
    lobby = Lobby(max_connections=4, keep_alive=1, body_timeout=1)
    first, second, third, busy = guests = [Guest() for _ in range(4)]
    for guest in guests:
        assert lobby.enter()
        lobby.waits(guest)
    for guest in (first, busy):
        lobby.works(guest)
    lobby.waits(first)

    outcomes = [(lobby.enter(), second.is_closed, third.is_closed, first.is_closed) for _ in range(4)]

    assert outcomes == [
        (True, True, False, False),
        (True, True, True, False),
        (True, True, True, True),
        (False, True, True, True),
    ]
    assert not busy.is_closed


def test_who_leaves_makes_room_too() -> None:
    """Idle or not."""
    lobby = Lobby(max_connections=1, keep_alive=1, body_timeout=1)
    for guest in (Guest(), Guest()):
        assert lobby.enter()
        lobby.leave(guest)
