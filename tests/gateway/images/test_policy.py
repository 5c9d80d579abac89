"""Which URLs are followed: the operator's rules for hosts."""

import pytest

from gateway.config import ImagesConfig
from gateway.images.policy import Policy, host_rule
from gateway.images.url import UrlError

# Each rule with hosts that it covers and hosts that it does not.
RULES = {
    "img.example.com": (
        ["img.example.com", "IMG.example.com", "img.example.com."],
        ["example.com", "a.img.example.com", "ximg.example.com"],
    ),
    ".example.com": (
        ["example.com", "a.example.com", "a.b.example.com", "A.Example.Com."],
        ["example.org", "badexample.com", "example.com.org"],
    ),
    ".Bücher.example": (["bücher.example", "www.xn--bcher-kva.example"], ["bucher.example"]),
    "93.184.215.14": (["93.184.215.14"], ["93.184.215.15"]),
    "2606:4700:0:0::1111": (["[2606:4700::1111]"], ["[2606:4700::1112]"]),
}


def passes(policy: Policy, host: str) -> bool:
    """Whether the policy lets a URL of that host pass."""
    try:
        return policy.parse(f"https://{host}/a.png").port == 443
    except UrlError:
        return False


@pytest.mark.parametrize("rule", RULES)
def test_rules_cover_hosts(rule: str) -> None:
    """What is allowed is all that is fetched from, what is denied all that is not; names are compared in one form."""
    covered, others = RULES[rule]
    allowing, denying = Policy(ports=(443,), allowed_hosts=(rule,)), Policy(ports=(443,), denied_hosts=(rule,))
    for host in (*covered, *others):
        assert passes(allowing, host) is (host in covered), host
        assert passes(denying, host) is (host in others), host


def test_the_client_is_told_that_it_is_the_host() -> None:
    """The remedy is another one."""
    with pytest.raises(UrlError, match="names a host that pictures are not fetched from"):
        Policy(ports=(443,), denied_hosts=(".example.com",)).parse("https://img.example.com/")


def test_denied_is_denied_even_where_it_is_allowed() -> None:
    """So that a part of a domain can be taken out."""
    policy = Policy(ports=(443,), allowed_hosts=(".example.com",), denied_hosts=(".internal.example.com",))
    assert passes(policy, "img.example.com")
    assert not passes(policy, "a.internal.example.com")


def test_rules_hold_for_redirects() -> None:
    """An allowed host cannot send anybody elsewhere."""
    policy = Policy(ports=(443,), allowed_hosts=("img.example.com",))
    target = policy.parse("https://img.example.com/")
    assert policy.join(target, "/a.png").path_and_query == "/a.png"
    for location in ("https://other.example/", "//other.example/", "https://127.0.0.1/"):
        with pytest.raises(UrlError):
            policy.join(target, location)


def test_an_allowed_host_opens_no_network() -> None:
    """A name may be allowed; a private address is private under any rule."""
    policy = Policy(ports=(443,), allowed_hosts=("127.0.0.1", "localhost"))
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(UrlError, match="not public"):
            policy.parse(f"https://{host}/")


def test_localhost_is_loopback_by_name() -> None:
    """It opens with the network, and no DNS is asked what it means."""
    policy = Policy(ports=(443,), networks=("127.0.0.0/8",))
    assert policy.parse("https://localhost/").host == "localhost"
    assert policy.parse("https://a.localhost/").host == "a.localhost"


@pytest.mark.parametrize(
    "rule", ["", ".", "a b", "*.example.com", "example.com/", "example.com:443", "a@b", "127.1", "a..b"]
)
def test_what_is_no_rule_is_refused(rule: str) -> None:
    """When the configuration is read, with the key and the remedy."""
    with pytest.raises(UrlError):
        host_rule(rule)
    for key in ("allowed_hosts", "denied_hosts"):
        with pytest.raises(ValueError, match=rf"{key}: .*wanted: 'img.example.com'"):
            ImagesConfig(**{key: (rule,)})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "proxy",
    ["", "proxy", "proxy:3128", "https://proxy:3128", "socks5://proxy:1080", "http://proxy", "http://proxy:65536",
     "http://proxy:0", "http://[proxy]:3128"],
)  # fmt: skip
def test_what_is_no_proxy_is_refused(proxy: str) -> None:
    """When the configuration is read; a port is wanted, for proxies have none of their own."""
    for right in ("http://user:pw@proxy.example:3128", "http://[::1]:3128"):
        assert ImagesConfig(proxy=right).proxy
    with pytest.raises(ValueError, match="proxy: a URL is wanted"):
        ImagesConfig(proxy=proxy)
