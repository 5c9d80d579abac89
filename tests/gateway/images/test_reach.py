"""Where nobody goes: URLs, names and redirects that lead to what is not public, and that refusing dials nothing."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address
from pathlib import Path

import aiohttp
import pytest
from msgspec.structs import replace

from gateway import config as configuration
from gateway import wire
from gateway.auth import ANONYMOUS
from gateway.captioning import Captioner
from gateway.config import ImagesConfig
from gateway.errors import PictureError
from gateway.images.connector import BlockedAddressError, Connector, Guard, Resolver, is_own
from gateway.images.fetch import Fetcher
from gateway.parts import Parts
from gateway.values import Seconds
from gateway.wire import ChatRequest
from tests import pictures

from . import isolated
from .conftest import Origin
from .network import BODY, PARAM, FakeDns, answer, assert_unreachable, redirect, refused, watched_dialling
from .refused import REFUSED_AS_WRITTEN, REFUSED_NAMES

ROOT = Path(__file__).parents[3]


@pytest.fixture
def undialled() -> Iterator[None]:
    """Whatever happens, nobody starts a TCP connection."""
    with watched_dialling() as dialled:
        yield
        assert dialled == []


@pytest.fixture
async def public_only() -> AsyncIterator[Fetcher]:
    """A fetcher on its defaults, whose names have no addresses."""
    async with Fetcher(ImagesConfig(), lookup=FakeDns({})) as fetcher:
        yield fetcher


@pytest.mark.usefixtures("undialled")
@pytest.mark.parametrize(("url", "words"), [(url, words) for words, urls in REFUSED_AS_WRITTEN.items() for url in urls])
async def test_what_a_url_says_by_itself_is_refused_in_words(public_only: Fetcher, url: str, words: str) -> None:
    """Before any lookup, and without dialling."""
    error = await refused(public_only, url)
    assert error.code == "invalid_image_url"
    assert words in error.message


async def test_what_a_url_says_by_itself_is_refused_in_no_time(public_only: Fetcher) -> None:
    """Within 5 ms, all but what a busy machine holds up."""
    for url in (url for urls in REFUSED_AS_WRITTEN.values() for url in urls):
        took = []
        for _ in range(3):
            began = time.perf_counter()
            await refused(public_only, url)
            took.append(time.perf_counter() - began)
        assert min(took) < 0.005, url


@pytest.mark.usefixtures("undialled")
async def test_names_with_a_bad_answer_are_refused_whole() -> None:
    """One address that may not be dialled, and none is; the sentence says nothing of it."""
    names = {f"{number}.example": [answers] for number, answers in enumerate(REFUSED_NAMES.values())}
    config = ImagesConfig(connect_timeout=Seconds(0.2))
    async with Fetcher(config, lookup=FakeDns(names)) as fetcher:
        urls = [f"http://{name}/" for name in (*names, "unknown.example")]
        await asyncio.gather(*(assert_unreachable(fetcher, url) for url in urls))


async def test_the_borders_of_what_is_public_are_dialled() -> None:
    """The neighbours of private blocks are the Internet: all their answers are given to who dials."""
    borders = ["100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0", "2606:4700::1111"]
    resolver = Resolver(Guard(()), FakeDns({"borders.example": [borders]}))
    assert [answer["host"] for answer in await resolver.resolve("borders.example", 443)] == borders


async def test_rebinding_gains_nothing(
    origin: Origin, forbidden: Origin, config: ImagesConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name whose answers change is judged by the answer that is dialled, ten thousand times."""
    monkeypatch.setattr("gateway.images.fetch.MAX_DOWNLOADS", 2**10)
    monkeypatch.setattr("gateway.images.fetch.PATIENCE", 60)
    rounds = 10_000
    origin.answers["/"] = answer()
    dns = FakeDns({"rebind.example": [["127.0.0.1"], ["127.0.0.2"], ["127.0.0.2"], ["127.0.0.1"]] * (rounds // 4)})
    urls = [f"http://rebind.example:{(origin, forbidden)[number % 2].port}/?{number}" for number in range(rounds)]
    async with Fetcher(replace(config, connect_timeout=Seconds(0.05)), lookup=dns) as fetcher:
        results = await asyncio.gather(*(fetcher.fetch(url, param=PARAM) for url in urls), return_exceptions=True)
    assert dns.questions == rounds  # one for each connection; `forbidden` sees to it that nobody came there
    assert results.count(BODY) > 0
    assert all(result == BODY or "could not be downloaded" in str(result) for result in results)


LOCATIONS = [
    "http://127.0.0.2:{forbidden}/", "//127.0.0.2:{forbidden}/", "http://169.254.169.254/", "http://[::1]/",
    "http://[::ffff:127.0.0.2]:{forbidden}/", "http://[64:ff9b::7f00:2]:{forbidden}/", "http://2130706434:{forbidden}/",
    "http://0x7f000002:{forbidden}/", "http://private.example:{forbidden}/", "file:///etc/passwd",
    "javascript:alert(1)", "http://user:pw@127.0.0.1:{origin}/ok", "http://127.0.0.1:1/", "/ok ok", "", "http://localhost:{forbidden}./",
    "http://good.example\\@127.0.0.2:{forbidden}/", "//127.0.0.2:{forbidden}\\@127.0.0.1:{origin}/ok",
]  # fmt: skip


async def test_redirects_are_checked_like_urls(origin: Origin, forbidden: Origin, config: ImagesConfig) -> None:
    """Each hop passes all checks again, and the refusal does not say which one failed."""
    origin.answers["/ok"] = answer()
    for status in (301, 302, 303, 307, 308):
        for number, location in enumerate(LOCATIONS):
            place = location.format(forbidden=forbidden.port, origin=origin.port)
            origin.answers[f"/{status}/{number}"] = redirect(place, status)
    urls = [origin.url(path) for path in origin.answers if path != "/ok"]
    hurried = replace(config, connect_timeout=Seconds(0.3))
    async with Fetcher(hurried, lookup=FakeDns({"private.example": [["127.0.0.2"]]})) as fetcher:
        await asyncio.gather(*(assert_unreachable(fetcher, url) for url in urls))
    assert origin.connections == len(urls)


async def test_localhost_is_never_asked_for(origin: Origin, config: ImagesConfig) -> None:
    """Where loopback is opened it leads there, whatever a system's list of hosts or a name server makes of it."""
    origin.answers["/"] = answer()
    dns = FakeDns({name: [["127.0.0.1", "::1"]] for name in ("localhost", "localhost.", "a.localhost")})
    async with Fetcher(config, lookup=dns) as fetcher:
        for host in ("localhost", "LOCALHOST", "localhost.", "a.localhost"):
            assert await fetcher.fetch(f"http://{host}:{origin.port}/", param=PARAM) == BODY
    assert dns.questions == 0


async def test_the_guard_stands_where_sockets_are_made(forbidden: Origin) -> None:
    """aiohttp asks no resolver about literal addresses: even a caller that forgot to check dials nothing."""
    async with aiohttp.ClientSession(connector=Connector(Guard(()), FakeDns({}), patience=0.1)) as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(forbidden.url("/"))


async def test_the_peer_is_checked_before_the_request_is_sent(
    origin: Origin, config: ImagesConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should a connection end elsewhere than it was dialled to, it hears nothing."""

    class OnceOnly(Guard):
        def check(self, address: str, port: int) -> None:
            checked.append((address, port))
            if len(checked) > 1:
                raise BlockedAddressError

    checked: list[tuple[str, int]] = []
    monkeypatch.setattr("gateway.images.download.Guard", OnceOnly)
    async with Fetcher(replace(config, connect_timeout=Seconds(0.5))) as fetcher:
        await assert_unreachable(fetcher, origin.url("/"))
    assert checked == [("127.0.0.1", origin.port)] * 2
    assert origin.heads == []


async def test_proxies_of_the_environment_are_not_used(
    origin: Origin, forbidden: Origin, config: ImagesConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A proxy would see to it that the addresses checked are not the ones dialled; and no login is sent."""
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, forbidden.url("/"))
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    origin.answers["/"] = answer()
    async with Fetcher(config) as fetcher:
        assert await fetcher.fetch(origin.url("/"), param=PARAM) == BODY
    assert "authorization" not in origin.heads[0].lower()


# --- what is no URL of a picture ------------------------------------------------------------------------------------


def asked(*parts: dict[str, object]) -> ChatRequest:
    """A request with those parts of content."""
    return wire.decode_request(json.dumps({"model": "demo", "messages": [{"role": "user", "content": parts}]}).encode())


def part(url: str) -> dict[str, object]:
    """A picture's part of a request's content."""
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.fixture
def closed() -> Captioner:
    """A gateway whose parts are not running: whoever tries to fetch fails."""
    return Parts(configuration.load(None, {}, {})).captioner


@pytest.mark.usefixtures("undialled")
@pytest.mark.parametrize(
    "text",
    [
        "![](http://93.184.215.14/a.png)",
        "![a](http://127.0.0.1/a.png 'a')",
        "<img src='http://93.184.215.14/a.png'>",
        "http://93.184.215.14/a.png",
        '{"type": "image_url", "image_url": {"url": "http://93.184.215.14/a.png"}}',
        "data:image/png;base64,aHR0cDovLzkzLjE4NC4yMTUuMTQvYS5wbmc=",
    ],
)
async def test_urls_in_text_are_text(closed: Captioner, text: str) -> None:
    """Whatever they look like; only a picture's own field is a picture."""
    picture = pictures.png(pictures.SCENES[0])
    job = await closed.prepare(asked({"type": "text", "text": text}, part(pictures.data_url(picture))), ANONYMOUS)
    assert [found.data for found in job.pictures] == [picture]


@pytest.mark.usefixtures("undialled")
async def test_paths_are_not_read(closed: Captioner, tmp_path: Path) -> None:
    """A picture on this machine's disk is none of a client's."""
    file = tmp_path / "a.png"
    file.write_bytes(pictures.png(pictures.SCENES[0]))
    relative = Path("altgate.example.toml")
    for url in (
        str(file),
        file.as_uri(),
        f"file:{file}",
        f"file://localhost{file}",
        f"//localhost{file}",
        str(relative),
    ):
        with pytest.raises(PictureError) as caught:
            await closed.prepare(asked(part(url)), ANONYMOUS)
        assert caught.value.code == "invalid_image_url"


# --- this machine itself --------------------------------------------------------------------------------------------


def test_own_addresses_are_known() -> None:
    """Those of this machine's interfaces, of which loopback is always there; without sending anything."""
    assert is_own(ip_address("127.0.0.1"))
    assert not is_own(ip_address("192.0.2.1"))
    assert not is_own(ip_address("3fff::1"))


async def test_own_public_addresses_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """No firewall stands between a machine and itself, so its public addresses are no way in either."""
    monkeypatch.setattr("gateway.images.connector.is_own", lambda address: str(address) == "93.184.215.14")
    Guard(()).check("93.184.215.15", 443)
    with pytest.raises(BlockedAddressError):
        Guard(()).check("93.184.215.14", 443)


async def test_the_gateway_does_not_fetch_from_itself(origin: Origin, config: ImagesConfig) -> None:
    """Not even where loopback is opened: its own port is refused, at all of its addresses."""
    origin.answers["/"] = answer()
    async with Fetcher(config) as other:
        assert await other.fetch(origin.url("/"), param=PARAM) == BODY
    async with Fetcher(replace(config, connect_timeout=Seconds(0.2)), own_port=origin.port) as itself:
        await assert_unreachable(itself, origin.url("/"))
    assert origin.connections == 1


# --- in a network of its own ----------------------------------------------------------------------------------------


def test_nothing_leaves_a_network_of_its_own(tmp_path: Path) -> None:
    """The same with the system's resolver, a name server of ours and the kernel's count of connections.

    Where no such network may be made, the interpreter's own record of connections stands in for the kernel's count, and
    a table for the name server.
    """
    done = isolated.report(tmp_path, 64, isolated=isolated.can_isolate())
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["refused"] >= 100
    assert report["dialled"] == report["secrets"] == 0
    assert report["slowest"] < 5
    assert report["dialled later"] >= report["fetched"] > 0  # the count counts
