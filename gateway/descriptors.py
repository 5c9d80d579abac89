"""How many files, connections among them, this process may have open."""

import logging
import resource

log = logging.getLogger(__name__)


def room_for(connections: int, *, others: int) -> int:
    """How many connections the process can have open besides `others`, at most as many as wanted.

    The system lets a process open few files before it asks for more: so it asks, and no further than it may.
    """
    wanted = connections + others
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _as_number(soft) < wanted:
        soft = min(wanted, hard, key=_as_number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if _as_number(soft) >= wanted:
        return connections
    room = max(1, soft - others)
    log.warning(
        "the system lets this process open %d files: connections are held to %d instead of 'server.max_connections'"
        " = %d; raise its hard limit (ulimit -Hn)",
        soft,
        room,
        connections,
    )
    return room


def _as_number(limit: int) -> float:
    return float("inf") if limit == resource.RLIM_INFINITY else limit
