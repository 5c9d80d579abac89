"""The grammar of URLs, and what redirects may lead to."""

from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from urllib.parse import urlsplit

import idna
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from yarl import URL

from gateway.images.address import is_public
from gateway.images.url import DEFAULT_PORTS, Target, UrlError, join, parse

SCHEMES = [
    "file:///etc/passwd", "ftp://good.example/", "gopher://good.example/", "dict://good.example/", "data:,x",
    "jar:http://good.example/!/", "unix:/var/run/docker.sock", "http+unix://%2Fvar%2Frun%2Fdocker.sock/",
    "javascript:alert(1)", "blob:http://good.example/x", "s3://bucket/key", "http:127.0.0.1/", "http:/good.example/",
    "//127.0.0.1/", "/etc/passwd", "good.example/a.png", "null", "http", "http:", "http\u017f://good.example/",
]  # fmt: skip
HOSTS = [
    "http://", "http:///127.0.0.1/", "http://:80/", "http://?x", "http://#x", "http://./", "http://a..b/", "http://.a/",
    "http://%6c%6f%63alhost/", "http://127.0.0.1%00.good.example/", "http://[fe80::1%25eth0]/", "http://[fe80::1%eth0]/",
    "http://[::1", "http://::1/", "http://[]/", "http://[::1]x/", "http://[1.2.3.4]/", "http://[v1.x]/", "http://a[b/",
    "http://good\u3002example/", "http://soft\u00adhyphen.example/", "http://xn--a/", "http://xn--/", "http://xn--ß.example/",
    "http://-a.example/", "http://a-.example/", "http://a,b.example/", "http://a'b/", "http://a<b/", "http://a|b/",
    "http://" + "a" * 64 + ".example/", "http://" + "a." * 127 + "example/", "http://☃.example/", "http://\uff2b.example/",
    "http://\u212aelvin.example/", "http://\u212a/", "http://BÜCHER.example/", "http://İ.example/", "http://STRAẞE.example/",
]  # fmt: skip
NUMERIC_HOSTS = [
    "http://0/", "http://2130706433/", "http://0x7f000001/", "http://0x7f.1/", "http://0177.0.0.1/",
    "http://00000177.0.0.1/", "http://127.1/", "http://127.0.1/", "http://127.0.0.1./", "http://1.2.3.4.5/",
    "http://256.1.1.1/", "http://good.example.1/", "http://good.0x/",
    "http://\uff11\uff12\uff17.\uff10.\uff10.\uff11/", "http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460/",
    "http://127.0.0.\u0660/",
]  # fmt: skip
CREDENTIALS = [
    "http://user:pw@good.example/", "http://user@good.example/", "http://@good.example/", "http://a@b@good.example/",
    "http://good.example:80@127.0.0.1/", "http://good.example%40@127.0.0.1/",
]  # fmt: skip
PORTS = [
    "http://good.example:22/", "http://good.example:6379/", "http://good.example:0/", "http://good.example:99999/",
    "http://good.example:080/", "http://good.example:80:80/", "http://good.example:/", "http://good.example:+80/",
    "http://good.example:\uff18\uff10/", "http://good.example:80a/", "http://[2606:4700::1]:22/", "http://good.example:-80/",
]  # fmt: skip
CHARACTERS = [
    "", " ", "http://good.example\\@127.0.0.1/", "http://127.0.0.1\\@good.example/", "http://127.1.1.1:80\\@127.2.2.2:80/",
    "http:\\\\good.example\\", "http://good.example\t/", "http://good.example/\r\nX: y", " http://good.example/",
    "http://good.example/ ", "http://good.example/\u00a0", "http://good.example/a b", "http://good.example/\u2028",
    "http://good.example/\0", "http://good.example/\x7f", "http://good.example/\ud800", "\ufeff http://good.example/",
]  # fmt: skip
PRIVATE_LITERALS = [
    "http://127.0.0.1/", "http://127.255.255.254/", "http://0.0.0.0/", "http://[::1]/", "http://[::]/",
    "http://[::ffff:127.0.0.1]/", "http://[::127.0.0.1]/", "http://[::ffff:0:127.0.0.1]/", "http://[64:ff9b::7f00:1]/",
    "http://[64:ff9b:1::7f00:1]/", "http://[2002:7f00:1::]/", "http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/",
    "http://[2607:f8b0::5efe:a00:1]/", "http://[fec0::1]/", "http://[fc00::1]/", "http://[fd00:ec2::254]/",
    "http://[ff02::1]/", "http://[100::1]/", "http://[5f00::1]/", "http://[3fff::1]/",
    "http://169.254.169.254/latest/meta-data/", "http://100.64.0.1/", "http://10.0.0.1/", "http://172.31.255.255/",
    "http://192.168.0.1/", "http://198.18.0.1/", "http://224.0.0.1/", "http://255.255.255.255/",
]  # fmt: skip


@pytest.mark.parametrize(
    ("urls", "words"),
    [
        (SCHEMES, "must begin with http"),
        (HOSTS, "host"),
        (NUMERIC_HOSTS, "host"),
        (CREDENTIALS, "user name or password"),
        (PORTS, "port"),
        (CHARACTERS, "is empty|backslash"),
    ],
)
def test_what_parsers_could_disagree_about_is_refused(urls: list[str], words: str) -> None:
    """Each odd form is refused, with words that say what is wrong."""
    for url in urls:
        with pytest.raises(UrlError, match=words):
            print(repr(url), parse(url))  # shown where it is accepted after all


@pytest.mark.parametrize("url", PRIVATE_LITERALS)
def test_literal_addresses_are_recognised(url: str) -> None:
    """A host that is an address comes out as one, for the guard to refuse."""
    address = parse(url).address
    assert address is not None
    assert not is_public(address)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://good.example", Target("http", "good.example", 80, "/")),
        ("HTTPS://Good.Example/A", Target("https", "good.example", 443, "/A")),
        ("https://good.example:443/", Target("https", "good.example", 443, "/")),
        ("http://good.example:443?a=b", Target("http", "good.example", 443, "/?a=b")),
        ("http://good.example/?a=http://x:22/@y", Target("http", "good.example", 80, "/?a=http://x:22/@y")),
        ("http://good.example#@127.0.0.1/", Target("http", "good.example", 80, "/")),
        ("http://good.example/a#b?c", Target("http", "good.example", 80, "/a")),
        ("http://my_bucket.good.example./", Target("http", "my_bucket.good.example.", 80, "/")),
        ("http://r3---sn-a.good.example/", Target("http", "r3---sn-a.good.example", 80, "/")),
        ("http://bücher.example/", Target("http", "xn--bcher-kva.example", 80, "/")),
        ("http://BüCHER.example/", Target("http", "xn--bcher-kva.example", 80, "/")),
        ("http://xn--bcher-kva.example/", Target("http", "xn--bcher-kva.example", 80, "/")),
        ("http://good.example/é?ü=%41%zz", Target("http", "good.example", 80, "/%C3%A9?%C3%BC=%41%25zz")),
        ("http://good.example/a[1]|<b>", Target("http", "good.example", 80, "/a[1]%7C%3Cb%3E")),
    ],
)
def test_what_is_fetched(url: str, target: Target) -> None:
    """Host and scheme come out lower-case and ASCII, the fragment is gone, path and query keep their meaning."""
    assert parse(url) == target


def test_a_public_ipv6_literal_keeps_its_brackets() -> None:
    """What the client dials is written the way RFC 3986 has it."""
    assert str(parse("https://[2606:4700:0:0::1111]:443/a")) == "https://[2606:4700::1111]/a"


def test_length_is_bounded() -> None:
    """8 KiB are read, a byte more is not; the bytes count, not the characters."""
    start = "http://good.example/"
    assert parse(start + "a" * (8192 - len(start)))
    for path in ("a" * (8193 - len(start)), "é" * 4096):
        with pytest.raises(UrlError, match="longer than 8192 bytes"):
            parse(start + path)


def test_the_configuration_opens_ports() -> None:
    """Ports are those allowed, and the refusal names them."""
    assert parse("http://good.example:8080/", ports=(8080,)).port == 8080
    with pytest.raises(UrlError, match="allowed: 443, 8080"):
        parse("http://good.example/", ports=(8080, 443))


ODD = "htps:/\\@[]%.?#0123456789abfxn-_ \t\n\u3002\u2460\uff11\uff2b\u017fßüمİ\u00ad\u200d\u0660"
AUTHORITIES = st.one_of(
    st.text(ODD, max_size=24),
    st.text("ab.-_0x1:", min_size=1, max_size=16),
    st.text("äßéab.xn-", min_size=1, max_size=12),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
)
Where = tuple[str | None, str | None, int | None]  # scheme, host and port, as written
URLS = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["http://", "https://", "HTTP://", "hTTps://", "http:/", "//", ""]),
    AUTHORITIES,
    st.sampled_from(["", ":80", ":443", ":", ":0"]),
    st.text(ODD, max_size=16).map(lambda text: text and "/" + text) | st.just("?a#b"),
)


def by_urllib(url: str) -> Where:
    """What Python's own parser makes of it."""
    found = urlsplit(url)
    return found.scheme, found.hostname, found.port


def by_yarl(url: str) -> Where:
    """What the parser of aiohttp makes of it."""
    found = URL(url)
    return found.scheme, found.raw_host, found.explicit_port


def by_urllib3(url: str) -> Where:
    """What the parser of requests makes of it."""
    found = import_module("urllib3.util").parse_url(url)
    return found.scheme, (found.host or "").strip("[]"), found.port


def by_httpx(url: str) -> Where:
    """What the parser of httpx makes of it."""
    found = import_module("httpx").URL(url)
    return found.scheme, found.raw_host.decode(), found.port


PARSERS = [
    by_urllib,
    by_yarl,
    *(parser for name, parser in (("urllib3", by_urllib3), ("httpx", by_httpx)) if find_spec(name)),
]


@settings(max_examples=500)
@given(URLS)
@example("http://good.example\\@127.0.0.1/")
@example("http://a.example#@b.example/")
@example("https://[::1]:443?x")
@example("http://a.example/?#b")
@example("http://BüCHER.example:80/ü")
@example("http://ΟΔΟΣ.example/")
def test_other_parsers_agree_about_every_url_accepted(url: str) -> None:
    """What passes means the same to all of them, as the client wrote it and as it is dialled."""
    with suppress(UrlError):
        target = parse(url)
        for parser in PARSERS:
            for text in (url, str(target)):
                scheme, host, port = parser(text)
                assert host is not None
                found = (scheme, _ascii(host), port or DEFAULT_PORTS[target.scheme])
                assert found == (target.scheme, target.host, target.port), parser
        dialled = URL(str(target), encoded=True)
        assert (dialled.raw_host, dialled.raw_path_qs) == (target.host, target.path_and_query)


def _ascii(host: str) -> str:
    """The host as a parser gives it, an address in its shortest form and a name in ASCII."""
    if ":" in host:
        return URL.build(scheme="http", host=host).raw_host or ""
    return ".".join(label if label.isascii() else idna.alabel(label).decode() for label in host.split("."))


@given(URLS)
def test_reading_twice_changes_nothing(url: str) -> None:
    """A target written out and read again is the same target."""
    with suppress(UrlError):
        target = parse(url)
        assert parse(str(target)) == target


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/c.png", "https://good.example/c.png"),
        ("c.png", "https://good.example/a/c.png"),
        ("../c.png?x=1#f", "https://good.example/c.png?x=1"),
        ("?x=1", "https://good.example/a/b?x=1"),
        ("//other.example/c", "https://other.example/c"),
        ("https://other.example/c", "https://other.example/c"),
    ],
)
def test_redirects_are_joined(location: str, expected: str) -> None:
    """Absolute, scheme-relative and relative locations lead where browsers would go."""
    assert str(join(parse("https://good.example/a/b?q"), location)) == expected


@pytest.mark.parametrize(
    "location",
    [
        "", "http://good.example/", "HTTP://good.example/", "file:///etc/passwd", "ftp://good.example/", "data:,x",
        "https://user:pw@good.example/", "//user@good.example/", "https:c.png", "/a b", "\\\\127.0.0.1\\", "/\\evil",
        "https://good.example:22/", "//good.example:22/", "javascript:alert(1)", "//0x7f.1/", "/\r\nSet-Cookie: a=b",
        "//[", "//[x]/", "//a]b/",
    ],
)  # fmt: skip
def test_redirects_keep_to_the_grammar(location: str) -> None:
    """A location is as suspicious as a URL, and never leads from https to http."""
    with pytest.raises(UrlError):
        join(parse("https://good.example/a/b"), location)


def test_redirects_may_lead_to_https() -> None:
    """From http to https is a step up."""
    assert join(parse("http://good.example/"), "https://good.example/").scheme == "https"
