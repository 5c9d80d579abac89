"""What watching costs: `python -m bench.observability`. It takes two minutes.

The same gateway twice, with its metrics, its log (JSON, into a file) and its counting of usage, and without them; both
are sent the same requests in turns, past a null upstream, and none is answered from the cache. The gateways have the
first processor to themselves, load and upstream share the second. What is compared is the gateway's processor time for
a request, which bounds the rate of a gateway that is busy and hardly depends on what else runs, and the rate itself.

Then a gateway with 50 models and 100 keys, all of which have been used, is scraped.
"""

import argparse
import asyncio
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.gateway import servers
from bench.gateway.bodies import MODEL, body
from bench.gateway.load import NO_STORE, Load

CORE, OTHER_CORE = 0, 1
CONNECTIONS = 16
MODELS, KEYS, SCRAPES = 50, 100, 30
ADMIN = "ag-key0"
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measures, and prints what it saw."""
    options = _options()
    if options.without:
        _serve_without(options.arguments)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with servers.upstream(folder, OTHER_CORE) as behind:
            print(_cost(folder, behind, options.rounds, options.seconds))
            print(_scrapes(folder, behind))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="turns of each (%(default)s)")
    parser.add_argument("--seconds", type=int, default=4, help="seconds of a turn (%(default)s)")
    parser.add_argument("--without", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    return parser.parse_args()


def _serve_without(arguments: list[str]) -> None:
    """The gateway, in which nobody is told of a request."""
    from gateway import app, middleware  # noqa: PLC0415
    from gateway.cli import main as altgate  # noqa: PLC0415

    untold: Any = lambda inner, _, traces, **__: middleware.Recording(inner, lambda _: None, traces)  # noqa: E731
    app.__dict__["Recording"] = untold
    altgate(arguments)


def _cost(folder: Path, behind: servers.Service, rounds: int, seconds: int) -> str:
    load, request = Load(folder, OTHER_CORE), body("text")
    with _gateway(folder / "with", behind, "gateway.cli", "serve") as told:
        without = ("bench.observability", "--without", "--", "serve")
        with _gateway(folder / "without", behind, *without) as quiet:
            pair = {"with": told, "without": quiet}
            seen: dict[str, list[tuple[float, float]]] = {name: [] for name in pair}
            for turn in range(rounds + 1):
                for name in [*pair] if turn % 2 else [*reversed(pair)]:
                    before = _processor_seconds(pair[name])
                    result = load.run(pair[name].url, request, connections=CONNECTIONS, seconds=seconds, extra=NO_STORE)
                    spent = _processor_seconds(pair[name]) - before
                    if turn:  # the first is to warm up
                        seen[name].append((spent / result.requests * 1e6, result.rate))
    return _table(seen)


def _table(seen: dict[str, list[tuple[float, float]]]) -> str:
    time_ratios = [quiet[0] / told[0] for told, quiet in zip(seen["with"], seen["without"], strict=True)]
    rate_ratios = [told[1] / quiet[1] for told, quiet in zip(seen["with"], seen["without"], strict=True)]
    lines = ["", f"{'':10}{'processor time':>18}{'rate':>12}"]
    for name, turns in seen.items():
        spent, rate = (statistics.median(column) for column in zip(*turns, strict=True))
        lines.append(f"{name:10}{spent:15.0f} us{rate:10.0f}/s")
    for what, ratios in (("processor time, without / with", time_ratios), ("rate, with / without", rate_ratios)):
        low, high = min(ratios), max(ratios)
        lines.append(f"{what}: {statistics.median(ratios):.3f} ({low:.3f} to {high:.3f} in {len(ratios)} turns)")
    return "\n".join(lines)


@contextmanager
def _gateway(folder: Path, behind: servers.Service, *words: str, settings: str = "") -> Iterator[servers.Service]:
    """A gateway in front of the upstream, with what else its configuration holds."""
    folder.mkdir()
    text = servers.ALTGATE.substitute(handover="original", workers=1, model=MODEL, upstream=behind.url)
    usage = f'[usage]\npath = "{folder / "usage.sqlite"}"\n'
    (folder / "altgate.toml").write_text(f"{text}\n{usage}{settings}")
    port = servers.free_port()
    command = [sys.executable, "-m", *words, "--port", str(port)]
    with servers.running(command, folder, port=port, core=CORE, path="/ready") as service:
        yield service


def _processor_seconds(service: servers.Service) -> float:
    fields = Path(f"/proc/{service.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _scrapes(folder: Path, behind: servers.Service) -> str:
    keys = [f"ag-key{number}" for number in range(KEYS)]
    models = [f"model{number}" for number in range(MODELS)]
    settings = "".join(
        f'[keys.k{number}]\ndigest = "sha256:{hashlib.sha256(key.encode()).hexdigest()}"\n{_rights(key)}\n'
        for number, key in enumerate(keys)
    ) + "".join(f'[models.{name}]\nengine = "remote"\nurls = ["{behind.url}/v1"]\n' for name in models)
    with _gateway(folder / "many", behind, "gateway.cli", "serve", settings=settings) as service:
        asyncio.run(_use(service.url, models, keys))
        times, size = zip(*(_scrape(service.url) for _ in range(SCRAPES)), strict=True)
    return (
        f"\na scrape with {MODELS} models and {KEYS} keys in use: {statistics.median(times) * 1000:.1f} ms, "
        f"at most {max(times) * 1000:.1f} ms of {SCRAPES}; {size[-1]} lines"
    )


def _rights(key: str) -> str:
    return "admin = true" if key == ADMIN else ""


async def _use(root: str, models: list[str], keys: list[str]) -> None:
    """Every model by every key: asked twice, so that its answer is found, and in a way that is refused."""
    import aiohttp  # noqa: PLC0415

    async with aiohttp.ClientSession() as session:
        for key in keys:
            asked = [{"model": model, "messages": [{"role": "user", "content": key}]} for model in models]
            wrong = [{"model": model, "messages": [{"role": "user", "content": key}], "n": 99} for model in models]
            for part in (asked, asked, wrong):
                await asyncio.gather(*(_post(session, root, key, request) for request in part))


async def _post(session: Any, root: str, key: str, request: dict[str, Any]) -> None:
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    async with session.post(f"{root}/v1/chat/completions", data=json.dumps(request), headers=headers) as response:
        await response.read()


def _scrape(root: str) -> tuple[float, int]:
    request = urllib.request.Request(f"{root}/metrics", headers={"authorization": f"Bearer {ADMIN}"})
    began = time.perf_counter()
    with urllib.request.urlopen(request) as response:
        text = response.read()
    return time.perf_counter() - began, text.count(b"\n")


if __name__ == "__main__":
    main()
