"""Administration of the cache, over HTTP and on the command line."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests import pictures
from tests.flows.keys import section, with_key
from tests.flows.raw import Answer, chat, send
from tests.pictures import SCENES, data_url, message
from tests.services import Redis, Server, running_redis, running_server

ROOT = Path(__file__).parents[2]
KEYS = section("ann", "k1", 'team = "a"') + section("bob", "k2", 'team = "b"') + section("root", "k3", "admin = true")
PNGS = [pictures.png(scene) for scene in SCENES[:3]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A Redis that is not ours alone."""
    with running_redis(tmp_path_factory.mktemp("redis")) as running:
        with redis.Redis(unix_socket_path=str(running.path)) as client:
            client.set("altgate:something:else", "x")
            client.mset({f"theirs:{number}": "x" for number in range(100)})
        yield running


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, store: Redis) -> Iterator[Server]:
    """A gateway with two teams, an administrator and that Redis."""
    settings = f'[cache]\nredis = "{store.url}"\n{KEYS}\n[models.demo]\naliases = ["alias"]\n'
    with running_server(tmp_path_factory.mktemp("admin"), settings=settings) as running:
        yield running


def about(gateway: Server, key: str, png: bytes, **fields: Any) -> str:
    """What the cache says of a request about that picture."""
    answer = chat(gateway, with_key(key), messages=[message(data_url(png))], **fields)
    assert answer.status == 200, answer.body
    return answer.headers["x-altgate-cache"]


def admin(gateway: Server, method: str, query: str = "", key: str = "k3") -> Answer:
    """A request to the administration of the cache."""
    return send(gateway, method, f"/admin/cache{query}", headers=with_key(key))


def filled(gateway: Server) -> None:
    """Two teams ask about three pictures, twice."""
    for _ in range(2):
        for key in ("k1", "k2"):
            for png in PNGS:
                about(gateway, key, png)


@pytest.mark.parametrize(
    ("query", "gone"),
    [
        ("?team=a", {("k1", 0), ("k1", 1), ("k1", 2)}),
        ("?team=", set()),
        ("?team=*", set()),
        (f"?digest={hashlib.sha256(PNGS[1]).hexdigest()}", {("k1", 1), ("k2", 1)}),
        (f"?team=b&digest={hashlib.sha256(PNGS[1]).hexdigest()}", {("k2", 1)}),
        ("?model=blip-base", set()),
        ("?model=demo", {(key, at) for key in ("k1", "k2") for at in range(3)}),
        ("?model=alias&team=b", {("k2", 0), ("k2", 1), ("k2", 2)}),
    ],
)
def test_what_is_named_is_removed_and_nothing_else(
    gateway: Server, store: Redis, query: str, gone: set[tuple[str, int]]
) -> None:
    """Of a team, a model or a picture; out of memory and Redis, where others' keys stay."""
    filled(gateway)

    removed = admin(gateway, "DELETE", query)

    assert removed.status == 200, removed.body
    assert removed.json()["memory"]["entries"] == removed.json()["redis"]["entries"] == len(gone)
    assert removed.json()["redis"]["complete"]
    cached = {(key, at): about(gateway, key, PNGS[at]) for key in ("k1", "k2") for at in range(3)}
    assert {each for each, result in cached.items() if result == "miss"} == gone
    with redis.Redis(unix_socket_path=str(store.path)) as client:
        assert len(client.keys("theirs:*")) == 100
        assert client.exists("altgate:something:else")


def test_the_report_counts(gateway: Server) -> None:
    """Hits, misses and what was saved by them, and what is held."""
    filled(gateway)
    before = admin(gateway, "GET").json()
    about(gateway, "k1", PNGS[0])
    about(gateway, "k1", PNGS[0], seed=7)
    about(gateway, "k1", PNGS[0], temperature=1)
    after = admin(gateway, "GET").json()

    assert [after[name] - before[name] for name in ("hits", "misses", "bypasses", "joins")] == [1, 1, 1, 0]
    assert after["saved_tokens"] > before["saved_tokens"]
    assert after["saved_seconds"] > before["saved_seconds"]
    assert after["memory"]["entries"] == after["redis"]["entries"] >= 7
    assert after["redis"]["bytes"] > 0


@pytest.mark.parametrize("query", ["", "?all=true", "?team=a&all=true", "?team=a&team=b", "?digest=*", "?digest=ABC"])
def test_nothing_is_removed_by_a_slip(gateway: Server, query: str) -> None:
    """What does not say what it means is refused, and told how to say it."""
    refused = admin(gateway, "DELETE", query)

    assert refused.status == 400
    assert refused.error["code"] == "invalid_value"


def test_a_team_has_no_answers_of_its_own_where_all_share_them(tmp_path: Path) -> None:
    """To remove them is refused, and nobody believes that it was done."""
    settings = f"[engines]\npreload = []\n[cache]\nshare_across_teams = true\n{KEYS}"
    with running_server(tmp_path, settings=settings) as sharing:
        refused = admin(sharing, "DELETE", "?team=a")

        assert (refused.status, refused.error["param"]) == (400, "team")
        assert admin(sharing, "DELETE", "?model=demo").status == 200


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize(("key", "status"), [("k1", 403), ("nobody's", 401)])
def test_it_is_for_administrators(gateway: Server, method: str, key: str, status: int) -> None:
    """Whoever may ask for captions may not look at the cache or clear it."""
    assert admin(gateway, method, "?team=a", key).status == status
    assert send(gateway, method, "/v1/admin/cache?team=a", headers=with_key(key)).status == status


def command(*arguments: str, key: str) -> "subprocess.CompletedProcess[str]":
    """What `altgate cache` prints, and how it ends."""
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", "cache", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "ALTGATE_KEY": key},
    )


def test_the_command_line_asks_a_running_gateway(gateway: Server) -> None:
    """With the key from the environment, and the URL with or without what clients put behind it."""
    filled(gateway)

    stats = command("stats", "--url", gateway.root, key="k3")
    cleared = command("clear", "--url", f"{gateway.base_url}/", "--team", "b", key="k3")

    assert (stats.returncode, stats.stderr) == (0, "")
    assert "saved" in stats.stdout
    assert "\nnot in Redis      0\n" in stats.stdout
    assert cleared.returncode == 0, cleared.stderr
    assert cleared.stdout.splitlines()[0].split() == ["memory", "3", "answers,", "0.0", "MiB"]
    assert about(gateway, "k2", PNGS[0]) == "miss"
    assert about(gateway, "k1", PNGS[0]) == "hit"


@pytest.mark.parametrize(
    ("arguments", "key", "words"),
    [
        (["stats"], "k1", "administrator"),
        (["stats"], "", "API key"),
        (["clear"], "k3", "at least one of 'team'"),
        (["stats", "--url", "http://127.0.0.1:9"], "k3", "No gateway answers at http://127.0.0.1:9"),
        (["stats", "--url", "http://user:pw@127.0.0.1:9"], "k3", "No gateway answers at http://127.0.0.1:9 "),
        (["stats", "--url", "nonsense"], "k3", "http://"),
        (["stats", "--url", "http://localhost:abc"], "k3", "http://"),
        (["stats"], "k\u20ac", "characters"),
    ],
)
def test_the_command_line_says_what_is_wrong(gateway: Server, arguments: list[str], key: str, words: str) -> None:
    """In one sentence, without a traceback and without the key."""
    done = command(*([*arguments, "--url", gateway.root] if "--url" not in arguments else arguments), key=key)

    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_redis_that_is_away_is_told(tmp_path: Path) -> None:
    """What could not be looked at is not called removed, and the command ends with an error."""
    with running_redis(tmp_path) as store:
        settings = f'[cache]\nredis = "{store.url}"\n[engines]\npreload = []\n{KEYS}'
        with running_server(tmp_path, settings=settings) as gateway:
            store.kill()
            done = command("clear", "--url", gateway.root, "--team", "a", key="k3")
            told = json.loads(admin(gateway, "GET").body)

    assert (done.returncode, "Run this again" in done.stdout) == (1, True)
    assert told["redis"] == {"entries": 0, "bytes": 0, "complete": False}
