"""Which URLs are followed: the grammar, the ports, the hosts and the literal addresses that may be. Pure: no I/O.

A rule for hosts is one host ("img.example.com", "93.184.215.14") or, with a dot in front, a domain and all below it
(".example.com"). What is denied is denied even where it is allowed too; no allowed hosts at all means every host.
Rules are about names: what a name resolves to is the guard's to judge, when it is dialled.
"""

from collections.abc import Collection
from ipaddress import AddressValueError, IPv6Address, ip_network

from gateway.images.address import may_dial
from gateway.images.url import Target, UrlError, join, parse, parse_host


class Policy:
    """Reads URLs and lets those pass that may be followed; with networks in CIDR and hosts as described above."""

    def __init__(
        self,
        *,
        ports: Collection[int],
        networks: Collection[str] = (),
        allowed_hosts: Collection[str] = (),
        denied_hosts: Collection[str] = (),
    ) -> None:
        self._ports = ports
        self.networks = tuple(map(ip_network, networks))
        self._allowed = frozenset(map(host_rule, allowed_hosts))
        self._denied = frozenset(map(host_rule, denied_hosts))

    def parse(self, url: str) -> Target:
        """Where a client's URL leads.

        Raises:
            UrlError: it is not followed. All of its text is about the URL as it stands, and may be told.
        """
        return self._checked(parse(url, self._ports))

    def join(self, target: Target, location: str) -> Target:
        """Where a redirect from `target` leads.

        Raises:
            UrlError: it is not followed.
        """
        return self._checked(join(target, location, self._ports))

    def _checked(self, target: Target) -> Target:
        host = target.host.removesuffix(".")
        if _covers(self._denied, host) or (self._allowed and not _covers(self._allowed, host)):
            raise UrlError("names a host that pictures are not fetched from")
        if target.address is not None and not may_dial(target.address, self.networks):
            raise UrlError("leads to an address that is not public; only public ones are fetched")
        return target


def host_rule(text: str) -> str:
    """A rule for hosts in the form in which hosts are compared.

    Raises:
        UrlError: it is none.
    """
    host = text.removeprefix(".")
    return text.removesuffix(host) + _canonical(host)


def _canonical(host: str) -> str:
    try:
        return str(IPv6Address(host))
    except AddressValueError:
        return parse_host(host)[0].removesuffix(".")


def _covers(rules: Collection[str], host: str) -> bool:
    labels = host.split(".")
    return host in rules or any("." + ".".join(labels[start:]) in rules for start in range(len(labels)))
