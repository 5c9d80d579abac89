"""What a second worker is worth on two cores: `python -m bench.workers`. It takes two minutes.

The same null upstream and load as in `bench.gateway` stand behind and before the gateway, which is

one core     one process, kept to the first core, as in `bench.gateway`
both cores   one process on both cores: its pictures are decoded by processes of their own, so they use the second one
two workers  two workers and their owner, on both cores

Load and upstream have the second core, which they share with the gateway where that has both. All are measured in
turns; figures are medians, and the quotients of what was measured in the same turn.
"""

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from bench.gateway import servers
from bench.gateway.bodies import body
from bench.gateway.load import DISTINCT, NO_STORE, Load

CONNECTIONS = 16
FIRST, SECOND, BOTH = 0, 1, "0,1"
SHAPES: dict[str, tuple[int | str, int]] = {"one core": (FIRST, 1), "both cores": (BOTH, 1), "two workers": (BOTH, 2)}
ROWS = (
    ("161 KB, decoded", "decoded", "161 KB", NO_STORE),
    ("161 KB, decoded, no two alike", "decoded", "161 KB", DISTINCT),
    ("161 KB, forwarded", "original", "161 KB", NO_STORE),
    ("text, forwarded", "original", "text", NO_STORE),
    ("text, from the cache", "original", "text", ""),
)

Rates = dict[tuple[str, str], list[float]]
"""Requests a second, in each turn, by row and shape."""


def main() -> None:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each row (%(default)s)")
    parser.add_argument("--seconds", type=int, default=3, help="seconds of a turn (%(default)s)")
    options = parser.parse_args()
    rates: Rates = defaultdict(list)
    with tempfile.TemporaryDirectory() as name, servers.upstream(Path(name), SECOND) as behind:
        turn = _Turn(Path(name), behind, options.seconds)
        for at in range(options.rounds):
            print(f"round {at + 1} of {options.rounds}", file=sys.stderr, flush=True)
            for shape in SHAPES:
                for row, rate in turn.rates(shape, at):
                    rates[row, shape].append(rate)
    print(_report(rates))


class _Turn:
    """Measures one shape of gateway after the other, each alone, before the same upstream."""

    def __init__(self, folder: Path, behind: servers.Service, seconds: int) -> None:
        self._folder = folder
        self._behind = behind
        self._seconds = seconds
        self._load = Load(folder, SECOND)

    def rates(self, shape: str, at: int) -> Iterator[tuple[str, float]]:
        """Every row with its requests a second."""
        core, workers = SHAPES[shape]
        for handover in ("decoded", "original"):
            folder = self._folder / f"{at} {shape} {handover}"
            with servers.altgate(folder, core, self._behind, handover, workers=workers) as service:
                for row, wanted, name, extra in ROWS:
                    if wanted == handover:
                        result = self._load.run(
                            service.url, body(name), connections=CONNECTIONS, seconds=self._seconds, extra=extra
                        )
                        yield row, result.rate


def _report(rates: Rates) -> str:
    lines = [f"| requests a second, {CONNECTIONS} connections | {' | '.join(SHAPES)} | two workers to one core |"]
    lines.append("|---|" + "---|" * (len(SHAPES) + 1))
    for row, *_ in ROWS:
        medians = [f"{statistics.median(rates[row, shape]):.0f}" for shape in SHAPES]
        quotients = [two / one for one, two in zip(rates[row, "one core"], rates[row, "two workers"], strict=True)]
        spread = f"{statistics.median(quotients):.2f} ({min(quotients):.2f} to {max(quotients):.2f})"
        lines.append(f"| {row} | {' | '.join(medians)} | {spread} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
