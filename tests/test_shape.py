"""The boundaries that keep the code small: who may import whom, and how long things may be."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("gateway", "engines", "prompts") for path in (ROOT / folder).rglob("*.py"))
RIM = ("gateway/app.py", "gateway/middleware.py", "gateway/server.py", "gateway/routes/")
DECODING = ("gateway/images/worker.py", "gateway/images/pixels.py", "gateway/images/profile.py")
TORCH = (
    "engines/blip/decoding.py",
    "engines/blip/model.py",
    "engines/cogvlm/model.py",
    "engines/cogvlm/processor.py",
    "engines/cogvlm/vision.py",
    "engines/demo/train.py",
)
PURE = (
    "gateway/images/sniff.py",
    "gateway/images/boxes.py",
    "gateway/images/header.py",
    "gateway/images/handover.py",
    "gateway/images/orientation.py",
    "gateway/images/plan.py",
    "gateway/images/task.py",
    "gateway/images/quarantine.py",
    "gateway/images/data_url.py",
    "gateway/images/address.py",
    "gateway/images/policy.py",
    "gateway/images/url.py",
    "gateway/http1/head.py",
    "gateway/http1/lobby.py",
    "gateway/routing.py",
    "gateway/completion.py",
    "gateway/asked.py",
    "gateway/neutral.py",
    "gateway/promises.py",
    "gateway/mending.py",
    "gateway/directives.py",
    "gateway/turns.py",
    "gateway/breaker.py",
    "gateway/bucket.py",
    "gateway/logs/scrub.py",
    "gateway/logs/settings.py",
    "gateway/launch.py",
    "gateway/workers/messages.py",
    "gateway/workers/share.py",
    "gateway/metrics/counts.py",
    "gateway/metrics/declared.py",
    "gateway/metrics/exposition.py",
    "gateway/metrics/teller.py",
    "gateway/cache/key.py",
    "gateway/cache/selection.py",
    "gateway/cache/stored.py",
    "gateway/redis/address.py",
    "engines/cogvlm/budgets.py",
    "engines/cogvlm/positions.py",
)
CLOCKS_AND_IO = {
    "asyncio",
    "time",
    "datetime",
    "random",
    "secrets",
    "socket",
    "os",
    "pathlib",
    "io",
    "aiohttp",
    "logging",
}


def name(path: Path) -> str:
    """The file's path from the project's root."""
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def tops(path: Path) -> set[str]:
    """The top packages that a file imports."""
    return {module.split(".")[0] for module in imports(path)}


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Every function with the lines of its body, docstring aside."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            yield node.name, ((body[-1].end_lineno or 0) - body[0].lineno + 1) if body else 0


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_every_file_keeps_its_boundaries(path: Path) -> None:
    """The gateway knows no engine's insides, engines know the wire alone, frameworks stay where they belong."""
    file, packages = name(path), tops(path)
    if file.startswith("gateway/"):
        assert not packages & {"torch", "transformers", "vllm", "engines", "numpy"}
    if file.startswith("engines/"):
        foreign = [module for module in imports(path) if module.startswith("gateway") and module != "gateway.wire"]
        assert all(module.startswith("gateway.wire.") for module in foreign), foreign
        assert "torch" not in packages or file in TORCH
    if file.startswith("gateway/") and file not in DECODING:
        assert "PIL" not in packages or file == "gateway/images/encode.py"  # which names its types alone
    if not file.startswith(RIM):
        assert "litestar" not in packages
    if file.startswith("gateway/wire/"):
        assert packages <= {"msgspec", "gateway"} | sys.stdlib_module_names
    if file in PURE:
        assert not packages & CLOCKS_AND_IO


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_every_file_and_function_fits_in_the_head(path: Path) -> None:
    """No file over 400 lines, no function over 50."""
    assert len(path.read_text().splitlines()) <= 400
    assert not [function for function, lines in functions(path) if lines > 50]


def test_nine_functions_in_ten_are_under_twenty_lines() -> None:
    """Small functions are the rule, not the exception."""
    lines = sorted(size for path in SOURCES for _, size in functions(path))

    assert lines[int(len(lines) * 0.9)] < 20


def test_importing_the_gateway_imports_neither_models_nor_decoders() -> None:
    """The gateway's process stays small: no torch, transformers, vllm, numpy, Pillow or engine is loaded in it."""
    heavy = ("torch", "transformers", "vllm", "numpy", "PIL", "engines")
    code = f"import sys, gateway.server, gateway.cli; print([name for name in {heavy} if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert done.stdout == "[]\n"
