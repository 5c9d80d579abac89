"""Which addresses the gateway may dial: ordinary public ones, and what the configuration adds. Pure: no I/O.

The table is our own. `ipaddress.is_global` is no guard: in CPython 3.11 it calls 64:ff9b::7f00:1 (127.0.0.1 behind
NAT64), 2002:7f00:1:: (the same behind 6to4), fec0::1, ff02::1 and 224.0.0.1 global.

Sources: IANA's special-purpose address registries for IPv4 and IPv6, of which nothing is allowed, not even what they
mark as globally reachable (no web server lives there); RFC 5214 for ISATAP.
"""

from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_DENIED_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this host; 0.0.0.0 dials loopback
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # carrier-grade NAT, and Alibaba's metadata service
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # Azure's host agent: public by its number, answers inside every Azure machine
            "169.254.0.0/16",  # link-local, and the clouds' metadata services
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # IETF protocol assignments, and Oracle's metadata service
            "192.0.2.0/24",  # documentation
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # AMT
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private
            "192.175.48.0/24",  # AS112
            "198.18.0.0/15",  # benchmarking
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
        ),
    )
)

# Everything outside is loopback, mapped or translated IPv4, unique local, link-local, multicast or not yet assigned.
_GLOBAL_V6 = IPv6Network("2000::/3")
_DENIED_V6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # IETF protocol assignments, Teredo's embedded IPv4 among them
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4: an IPv4 address is embedded
            "2620:4f:8000::/48",  # AS112
            "3fff::/20",  # documentation
        ),
    )
)
_ISATAP_MARKS = (0x0000_5EFE, 0x0200_5EFE)  # upper half of an interface identifier whose lower half is an IPv4 address


def may_dial(address: Address, allowed: Collection[Network]) -> bool:
    """Whether the gateway may connect to the address: it is public, or inside one of the `allowed` networks."""
    return is_public(address) or any(address in network for network in allowed)


def is_public(address: Address) -> bool:
    """Whether the address is an ordinary public one. When in doubt it is not."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _DENIED_V4)
    if address.scope_id is not None or address not in _GLOBAL_V6 or _is_isatap(address):
        return False
    return not any(address in network for network in _DENIED_V6)


def _is_isatap(address: IPv6Address) -> bool:
    return (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP_MARKS
