"""Which addresses may be dialled."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.images.address import is_public, may_dial

from . import registries

REFUSED = [
    "0.0.0.0", "0.255.255.255", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "100.127.255.255",
    "127.0.0.1", "127.255.255.254", "168.63.129.16", "169.254.0.1", "169.254.169.254", "172.16.0.1",
    "172.31.255.255", "192.0.0.8", "192.0.0.9", "192.0.0.192", "192.0.2.1", "192.31.196.1", "192.52.193.1",
    "192.88.99.1", "192.168.0.1", "192.168.255.255", "192.175.48.1", "198.18.0.1", "198.19.255.255", "198.51.100.1",
    "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1",
    "::10.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::808:808",
    "64:ff9b:1::7f00:1", "100::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:2::1", "2001:10::1",
    "2001:20::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::", "2607:f8b0::5efe:a00:1",
    "2607:f8b0::200:5efe:a00:1", "2620:4f:8000::1", "3fff::1", "3fff:fff::1", "4000::1", "5f00::1", "fc00::1",
    "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "2606:4700::1%eth0", "fec0::1", "ff02::1",
]  # fmt: skip

PUBLIC = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "93.184.215.14", "100.63.255.255", "100.128.0.0",
    "126.255.255.255", "128.0.0.0", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0",
    "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255", "2001:200::1",
    "2001:4860:4860::8888", "2606:4700:4700::1111", "2a00:1450:4001:82a::200e", "2003::1", "3ffe::1",
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_ordinary_and_public_is_refused(text: str) -> None:
    """Private, special, translated, embedding and unassigned addresses are never public."""
    assert not is_public(ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_ordinary_addresses_are_public(text: str) -> None:
    """The borders of every block are where the registries put them."""
    assert is_public(ip_address(text))


BLOCKS_V4 = [IPv4Network(line.split()[0]) for line in registries.IPV4.strip().splitlines()]
BLOCKS_V6 = [IPv6Network(line.split()[0]) for line in registries.IPV6.strip().splitlines()]
HOST_AGENT = IPv4Address("168.63.129.16")  # in no registry: a cloud's own


@pytest.mark.parametrize("block", [*BLOCKS_V4, *BLOCKS_V6], ids=str)
def test_no_special_block_is_public(block: IPv4Network | IPv6Network) -> None:
    """From its first address to its last, whatever the registry says about reaching it."""
    addresses = [block[0], block[-1], block[block.num_addresses // 2]]
    assert not any(map(is_public, addresses))


@pytest.mark.parametrize("block", [*BLOCKS_V4, *BLOCKS_V6], ids=str)
def test_what_borders_on_a_special_block_is_judged_by_itself(block: IPv4Network | IPv6Network) -> None:
    """The table refuses no more than the registries do."""
    kind = IPv4Address if isinstance(block, IPv4Network) else IPv6Address
    for number in (int(block[0]) - 1, int(block[-1]) + 1):
        if 0 <= number < 2**block.max_prefixlen:
            assert is_public(kind(number)) is by_registries(kind(number))


def by_registries(address: IPv4Address | IPv6Address) -> bool:
    """The same verdict, made of the registries alone."""
    if isinstance(address, IPv4Address):
        return address != HOST_AGENT and not any(address in block for block in BLOCKS_V4)
    given_to_somebody = address in IPv6Network(registries.GLOBAL_UNICAST)
    return given_to_somebody and not any(address in block for block in BLOCKS_V6)


def near(blocks: list[IPv4Network] | list[IPv6Network], bits: int) -> st.SearchStrategy[int]:
    """Numbers of addresses anywhere, and of those on either side of the borders of blocks."""
    borders = [int(edge) for block in blocks for edge in (block[0], block[-1])]
    beside = st.tuples(st.sampled_from(borders), st.integers(-3, 3)).map(lambda pair: sum(pair) % 2**bits)
    return st.integers(0, 2**bits - 1) | beside


@given(near(BLOCKS_V4, 32).map(IPv4Address))
def test_ipv4_is_judged_as_the_registries_have_it(address: IPv4Address) -> None:
    """For any address."""
    assert is_public(address) is by_registries(address)


@given(near(BLOCKS_V6, 128).map(IPv6Address) | st.integers(2**125, 2**126 - 1).map(IPv6Address))
def test_ipv6_is_judged_as_the_registries_have_it(address: IPv6Address) -> None:
    """For any address but those of ISATAP, which no registry lists."""
    if (int(address) >> 32) & 0xFDFF_FFFF != 0x5EFE:
        assert is_public(address) is by_registries(address)


@given(st.ip_addresses())
def test_public_is_stricter_than_python(address: IPv4Address | IPv6Address) -> None:
    """Whatever passes is global unicast by Python's table too; ours only takes away."""
    if is_public(address):
        assert address.is_global
        assert not address.is_multicast


@given(st.ip_addresses(v=4), st.sampled_from(["::", "::ffff:0:0", "::ffff:0:0:0", "64:ff9b::", "64:ff9b:1::"]))
def test_no_translated_ipv4_is_public(inner: IPv4Address, prefix: str) -> None:
    """An IPv4 address inside an IPv6 one is refused, even where the inner one is public."""
    assert not is_public(IPv6Address(int(IPv6Address(prefix)) | int(inner)))


@given(st.ip_addresses(v=4), st.integers(0, 2**80 - 1))
def test_no_6to4_address_is_public(inner: IPv4Address, rest: int) -> None:
    """2002::/16 leads to the IPv4 address in it."""
    assert not is_public(IPv6Address(0x2002 << 112 | int(inner) << 80 | rest))


@given(st.integers(0, 2**64 - 1), st.sampled_from([0x5EFE, 0x02005EFE]), st.ip_addresses(v=4))
def test_no_isatap_address_is_public(prefix: int, mark: int, inner: IPv4Address) -> None:
    """ISATAP is known by its interface identifier, under any prefix."""
    assert not is_public(IPv6Address(prefix << 64 | mark << 32 | int(inner)))


@given(st.ip_addresses(v=6))
def test_public_ipv6_lies_in_the_assigned_eighth(address: IPv6Address) -> None:
    """Nothing outside 2000::/3 is ever dialled."""
    if is_public(address):
        assert int(address) >> 125 == 1


def test_the_configuration_opens_networks() -> None:
    """What is named may be dialled, its neighbours not, and public addresses as before."""
    allowed = (ip_network("10.1.0.0/16"), ip_network("fd00:1::/32"))
    verdicts = {text: may_dial(ip_address(text), allowed) for text in ("10.1.2.3", "10.2.0.1", "fd00:1::9", "8.8.8.8")}
    assert verdicts == {"10.1.2.3": True, "10.2.0.1": False, "fd00:1::9": True, "8.8.8.8": True}
