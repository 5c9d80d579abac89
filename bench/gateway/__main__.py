"""How fast the way through the gateway is: `python -m bench.gateway`. It takes four minutes.

The gateway has the first processor to itself; a null upstream (nginx, one completion for all) and the load (wrk) share
the second. LiteLLM's proxy, installed into an environment of its own, and a pass-through of uvicorn and aiohttp that
does nothing else are measured in the same run, one worker each, all in turns, so that they meet the same machine;
whoever has not its turn is stopped, for what idles is at work as well.
Figures are medians of the turns.

forwarded   altgate is asked with `Cache-Control: no-store`, LiteLLM has no cache
distinct    altgate looks in its cache, finds nothing and keeps the answer, since each request has another text
cached      both answer from the cache in their process, and the upstream is not asked
decoded     `images.handover = "decoded"`, the default: pictures are decoded and written anew, by processes on the
            gateway's one processor; elsewhere it is "original", since no other gateway looks at a picture
"""

import argparse
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from bench.gateway import servers
from bench.gateway.bodies import NAMES, SIZES, body
from bench.gateway.load import DISTINCT, NO_STORE, Load, Result

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "altgate-bench"
MANY = 16
GATEWAY_CORE, OTHER_CORE = 0, 1

Rows = dict[tuple[str, str, int, str], list[Result]]
"""Results by what was done, with which body, over how many connections, by whom."""


def main() -> None:
    """Measures, and prints the tables."""
    options = _options()
    for program in ("wrk", "nginx", "taskset"):
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            sys.exit(f"{program} is not there: apt-get install wrk nginx-light util-linux")
    with tempfile.TemporaryDirectory() as name, _services(Path(name), options) as services:
        load = Load(Path(name), OTHER_CORE)
        if options.memory:
            _memory(services["altgate"], load, options.memory)
            return
        rows: Rows = defaultdict(list)
        for who in services.keys() - {"direct"}:
            with services[who].turn():
                pass
        for at in range(options.rounds):
            print(f"round {at + 1} of {options.rounds}", file=sys.stderr, flush=True)
            _round(services, load, options.seconds, rows)
        print(_report(rows, services))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each row (%(default)s)")
    parser.add_argument("--seconds", type=int, default=2, help="seconds of a turn (%(default)s)")
    parser.add_argument("--without-litellm", action="store_true", help="measure only ours and the pass-through")
    parser.add_argument("--memory", type=int, metavar="N", help="send N requests with pictures and watch the memory")
    return parser.parse_args()


@contextmanager
def _services(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, servers.Service]]:
    with ExitStack() as stack:
        behind = stack.enter_context(servers.upstream(folder, OTHER_CORE))
        started = {"direct": behind}
        for name, handover in (("altgate", "original"), ("altgate, decoded", "decoded")):
            started[name] = stack.enter_context(servers.altgate(folder / name, GATEWAY_CORE, behind, handover))
        if not options.memory:
            started["bare"] = stack.enter_context(servers.bare(folder / "bare", GATEWAY_CORE, behind))
        if not options.memory and not options.without_litellm:
            program = _litellm()
            for name, cached in (("LiteLLM", False), ("LiteLLM, cached", True)):
                service = servers.litellm(folder / name, GATEWAY_CORE, behind, program, cached=cached)
                started[name] = stack.enter_context(service)
        yield started


def _litellm() -> Path:
    """LiteLLM's proxy in an environment of its own, which is kept for the next time."""
    program = CACHE / "litellm/bin/litellm"
    if not program.exists():
        print(f"installing LiteLLM into {CACHE}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(CACHE / "litellm")], check=True)
        install = [str(program.with_name("pip")), "install", "--quiet", "--disable-pip-version-check", "litellm[proxy]"]
        subprocess.run(install, check=True)
    return program


def _round(services: dict[str, servers.Service], load: Load, seconds: int, rows: Rows) -> None:
    def turn(what: str, name: str, connections: int, who: str, extra: str = "") -> None:
        if who not in services:
            return
        with services[who].turn() if who != "direct" else nullcontext():
            result = load.run(services[who].url, body(name), connections=connections, seconds=seconds, extra=extra)
        rows[what, name, connections, who].append(result)

    for name in NAMES:
        for connections in (MANY, 1):
            for who in ("direct", "altgate", "bare", "LiteLLM"):
                turn("forwarded", name, connections, who, NO_STORE)
        turn("cached", name, MANY, "altgate")
        turn("cached", name, MANY, "LiteLLM, cached")
    for name in ("text", "161 KB"):
        turn("distinct", name, MANY, "altgate", DISTINCT)
    turn("decoded", "161 KB", MANY, "altgate, decoded", NO_STORE)


# --- the report -----------------------------------------------------------------------------------------------------


def _report(rows: Rows, services: dict[str, servers.Service]) -> str:
    def rate(what: str, name: str, who: str) -> float:
        return _median(rows, (what, name, MANY, who), "rate")

    lines = [_machine(), "", "| requests a second, 16 connections | altgate | LiteLLM | pass-through | ratios |"]
    lines.append("|---|---|---|---|---|")
    for name in NAMES:
        ours = rate("forwarded", name, "altgate")
        lines.append(
            _row(f"{name}, forwarded", ours, rate("forwarded", name, "LiteLLM"), rate("forwarded", name, "bare"))
        )
    for name in NAMES:
        ours = rate("cached", name, "altgate")
        lines.append(_row(f"{name}, from the cache", ours, rate("cached", name, "LiteLLM, cached")))
    for name in ("text", "161 KB"):
        ours = rate("distinct", name, "altgate")
        lines.append(
            _row(f"{name}, no two alike", ours, rate("forwarded", name, "LiteLLM"), rate("forwarded", name, "bare"))
        )
    ours = rate("decoded", "161 KB", "altgate, decoded")
    lines.append(_row("161 KB, decoded", ours, rate("forwarded", "161 KB", "LiteLLM")))
    lines += ["", "| p50 at one connection, ms | direct | altgate adds | pass-through adds | LiteLLM adds |"]
    lines += ["|---|---|---|---|---|", *(_latency(rows, name) for name in NAMES)]
    memory = ", ".join(f"{who} {service.memory / 1e6:.0f} MB" for who, service in services.items() if who != "direct")
    return "\n".join([*lines, "", f"memory at the end: {memory}"])


def _median(rows: Rows, key: tuple[str, str, int, str], field: str) -> float:
    return statistics.median(getattr(result, field) for result in rows[key]) if rows[key] else float("nan")


def _row(title: str, ours: float, theirs: float, bare: float = float("nan")) -> str:
    ratios = [f"{ours / theirs:.1f} x LiteLLM"] if theirs > 0 else []
    ratios += [f"{ours / bare:.2f} of the pass-through"] if bare > 0 else []
    return f"| {title} | {_shown(ours)} | {_shown(theirs)} | {_shown(bare)} | {', '.join(ratios)} |"


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value > 0 else ""


def _latency(rows: Rows, name: str) -> str:
    direct, *others = (
        _median(rows, ("forwarded", name, 1, who), "p50") / 1000 for who in ("direct", "altgate", "bare", "LiteLLM")
    )
    return f"| {name} | {direct:.2f} | " + " | ".join(f"{other - direct:.2f}" for other in others) + " |"


def _machine() -> str:
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", info)
    processor = model[1] if model else platform.processor()
    python = f"Python {platform.python_version()}"
    sizes = ", ".join(f"{name} = {len(body(name)) / 1000:,.1f} kB of JSON" for name in NAMES)
    return f"{processor}, {os.cpu_count()} processors, {python}, Linux {platform.release()}; wrk, nginx; {sizes}"


def _memory(service: servers.Service, load: Load, requests: int) -> None:
    """Prints the memory after every tenth of the requests, and how it grows in the second half of them."""
    picture, sent, seen = body(next(iter(SIZES))), 0, [(0, service.memory)]
    while sent < requests:
        result = load.run(service.url, picture, connections=MANY, seconds=5, extra=NO_STORE)
        sent += result.requests
        seen.append((sent, service.memory))
        print(f"{sent:8} requests: {service.memory / 1e6:.1f} MB", flush=True)
    late = [point for point in seen if point[0] >= sent / 2]
    slope = statistics.linear_regression(*zip(*late, strict=True)).slope * 10_000
    print(f"in the second half: {slope / 1e6:+.2f} MB for 10,000 requests")


if __name__ == "__main__":
    main()
