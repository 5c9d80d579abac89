"""Our own strict grammar of the URLs that pictures are fetched from. Pure: no I/O.

Parsers disagree about odd URLs: of `http://good.example\\@127.0.0.1/` urllib says that the host is 127.0.0.1, urllib3
says good.example (CVE-2026-24779). So a URL is parsed once, here; whatever two parsers could read differently is
refused; and only the parts found here are dialled.
"""

import re
from collections.abc import Collection
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from string import ascii_lowercase, ascii_uppercase
from typing import Literal, cast
from urllib.parse import quote, urljoin

import idna
from msgspec import Struct

from gateway.images.address import Address

MAX_LENGTH = 8192
DEFAULT_PORTS = {"http": 80, "https": 443}

Scheme = Literal["http", "https"]


class UrlError(ValueError):
    """A URL that is not fetched. Its text goes on from "The URL"."""


class Target(Struct, frozen=True):
    """Where to fetch from. `host` is ASCII and lower-case.

    `address` is set when the host is an IP address, or stands for one whatever the DNS says, as `localhost` does.
    """

    scheme: Scheme
    host: str
    port: int
    path_and_query: str
    address: Address | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path_and_query}"


# ASCII matters: without it, ignoring case lets the long s through as the "s" of "https".
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#.*)?",
    re.IGNORECASE | re.ASCII,
)
_AUTHORITY = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^\[\]:]*)(?P<colon>:(?P<port>.*))?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\x9f\\\s\ud800-\udfff]")
_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)  # str.lower() would make a k of the Kelvin sign
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC = re.compile(r"(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)\.?$")
_LOCAL = re.compile(r"(?:^|\.)localhost\.?$")  # RFC 6761: loopback by definition, and never asked for
_LOOPBACK = IPv4Address("127.0.0.1")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNQUOTED = "%/:@!$&'()*+,;=-._~?[]"
_MAX_NAME = 253


def parse(url: str, ports: Collection[int] = (80, 443)) -> Target:
    """Reads a URL; its fragment is dropped, its path percent-encoded where it was not.

    Raises:
        UrlError: the URL is outside the grammar, or its port is not one of `ports`.
    """
    _check_characters(url)
    found = _URL.fullmatch(url)
    if not found:
        raise UrlError("must begin with http:// or https:// and a host")
    scheme = cast("Scheme", found["scheme"].lower())
    host, address, port = _parse_authority(found["authority"])
    port = DEFAULT_PORTS[scheme] if port is None else port
    if port not in ports:
        raise UrlError(f"has a port that is not fetched from; allowed: {', '.join(map(str, sorted(ports)))}")
    query = f"?{found['query']}" if found["query"] else ""
    return Target(scheme, host, port, _encode((found["path"] or "/") + query), address)


def join(target: Target, location: str, ports: Collection[int] = (80, 443)) -> Target:
    """Where a redirect from `target` leads; `location` is absolute, scheme-relative or relative.

    Raises:
        UrlError: the location is outside the grammar, its port is not one of `ports`, or it leads from https to http.
    """
    _check_characters(location)
    try:
        absolute = location if _SCHEME.match(location) else urljoin(str(target), location)
    except ValueError:
        raise UrlError("has a host that cannot be read") from None
    joined = parse(absolute, ports)
    if (target.scheme, joined.scheme) == ("https", "http"):
        raise UrlError("leads from https to http")
    return joined


def _check_characters(url: str) -> None:
    if not url:
        raise UrlError("is empty")
    if _FORBIDDEN.search(url):
        raise UrlError("contains a space, a control character or a backslash; percent-encode it")
    if len(url.encode()) > MAX_LENGTH:
        raise UrlError(f"is longer than {MAX_LENGTH} bytes")


def _parse_authority(authority: str) -> tuple[str, Address | None, int | None]:
    if "@" in authority:
        raise UrlError("contains a user name or password, which are not sent; use a URL that needs no login")
    if "%" in authority:
        raise UrlError("has a '%' in its host, which is not read")
    found = _AUTHORITY.fullmatch(authority)
    if not found:
        raise UrlError("has a host that cannot be read")
    host, address = parse_host(found["host"])
    return host, address, _parse_port(found["port"]) if found["colon"] else None


def _parse_port(text: str) -> int:
    if not _PORT.fullmatch(text):
        raise UrlError("has a port that is no number from 1 to 65535")
    return int(text)


def parse_host(text: str) -> tuple[str, Address | None]:
    """A host as URLs have it, in ASCII and lower-case, with its address where it needs no lookup.

    Raises:
        UrlError: it is outside the grammar.
    """
    if text.startswith("["):
        address = _parse_v6(text[1:-1])
        return str(address), address
    if not text:
        raise UrlError("has no host")
    name = ".".join(map(_parse_label, text.removesuffix(".").translate(_LOWER).split(".")))
    if text.endswith("."):
        name += "."
    if _NUMERIC.search(name):
        return name, _parse_v4(name)
    if len(name) > _MAX_NAME:
        raise UrlError(f"has a host of more than {_MAX_NAME} characters")
    return name, meant_by(name)


def meant_by(name: str) -> Address | None:
    """What the name, in lower-case, stands for by definition, whatever the DNS says of it."""
    return _LOOPBACK if _LOCAL.search(name) else None


def _parse_label(label: str) -> str:
    """One label in ASCII. Internationalised ones must be valid as they stand: mapping is what parsers differ in."""
    if not label.isascii() or label.startswith("xn--"):
        try:
            return idna.alabel(label).decode("ascii")
        except UnicodeError:
            raise UrlError("has a host that is no valid internationalised domain name") from None
    if not _LABEL.fullmatch(label):
        raise UrlError("has a host that is no valid domain name")
    return label


def _parse_v4(text: str) -> IPv4Address:
    """What ends in a number is an IPv4 address, and only four plain decimal numbers are one (inet_aton reads more)."""
    try:
        return IPv4Address(text)
    except AddressValueError:
        raise UrlError("has a numeric host that is no plain IPv4 address such as 93.184.215.14") from None


def _parse_v6(text: str) -> IPv6Address:
    try:
        return IPv6Address(text)
    except AddressValueError:
        raise UrlError("has a host in brackets that is no IPv6 address") from None


def _encode(text: str) -> str:
    return quote(_STRAY_PERCENT.sub("%25", text), safe=_UNQUOTED)
