"""What a child prints: lines for the log, how far its loading is, and in the last line why it could not start."""

import logging
import re
import signal
from collections import deque
from collections.abc import Callable

from gateway.life import Health
from gateway.logs.settings import MODEL

log = logging.getLogger(__name__)

TAIL_LINES = 20
PUBLIC_MARK = "altgate: "  # a child's last line that begins so may be shown to a client
LEVEL = re.compile(r"(?<![A-Z])(DEBUG|INFO|WARNING|ERROR|CRITICAL)(?![A-Z])")  # as Python's programs name theirs
LEVEL_WITHIN = 60  # characters: further on it is a word like any other
LOADING_LINE = re.compile(r"altgate-loading: (?P<phase>[\w ]{1,40}) (?P<progress>[01](\.\d{1,6})?)")  # how far it is


class Output:
    """What the children of one name print. `on_loading` is told how far loading is."""

    def __init__(self, name: str, on_loading: Callable[[Health], None]) -> None:
        self._name = name
        self._on_loading = on_loading
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)

    def begin(self) -> None:
        """Another child begins to print."""
        self._tail.clear()

    def read(self, line: str) -> None:
        """Takes a line, without its end."""
        if loading := LOADING_LINE.fullmatch(line):
            done = min(1.0, float(loading["progress"]))
            self._on_loading(Health(ready=False, phase=loading["phase"], progress=done))
        elif line:
            self._tail.append(line)
            log.log(_level(line), "%s: %s", self._name, line, extra={MODEL: self._name})

    @property
    def last_lines(self) -> str:
        """The last lines, for our log alone."""
        return "\n".join(self._tail)

    def why_it_did_not_start(self, code: int) -> str:
        """What a client may be told when the child ended with that exit code before it was ready."""
        last = self._tail[-1] if self._tail else ""
        if last.startswith(PUBLIC_MARK):
            return last.removeprefix(PUBLIC_MARK).rstrip(".")
        if code == -signal.SIGKILL:
            return "its engine was killed while it started, as happens when memory runs out; free some or use less"
        return f"its engine ended with exit code {code} while it started; the gateway's log has its last lines"


def _level(line: str) -> int:
    """The level that a line says of itself."""
    found = LEVEL.search(line, 0, LEVEL_WITHIN)
    return logging.getLevelNamesMapping()[found[1]] if found else logging.INFO
