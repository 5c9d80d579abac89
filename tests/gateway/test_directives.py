"""What a client asks for in headers."""

import pytest

from gateway import directives
from gateway.directives import Directives


@pytest.mark.parametrize(
    ("cache_control", "asked"),
    [
        ("", Directives()),
        ("no-cache", Directives(no_cache=True)),
        ("max-age=0, No-Store", Directives(no_store=True, max_age=0)),
        ('Max-Age="60",max-age=5, max-age=-1', Directives(max_age=5)),
        ("max-age, max-age=, max-age=1.5, max-age=x", Directives()),
        (" Only-If-Cached ", Directives(only_if_cached=True)),
        ("no-store,no-cache", Directives(no_cache=True, no_store=True)),
        ("no-stores, private", Directives()),
    ],
)
def test_cache_control_is_read_in_any_case_and_company(cache_control: str, asked: Directives) -> None:
    """Directives that Altgate does not know are ignored."""
    assert directives.read(cache_control=cache_control) == asked


@pytest.mark.parametrize(
    ("prefer", "wait"),
    [
        ("wait=10", 10),
        ("Wait = 10", 10),
        ('wait="10"', 10),
        ("respond-async, wait=100; x=y, handling=lenient", 100),
        ("wait=0", 0),
        ("wait=5, wait=9", 5),
        ("", None),
        ("respond-async", None),
        ("wait", None),
        ("wait=", None),
        ("wait=-1", None),
        ("wait=1.5", None),
        ("wait=soon", None),
        ('wait="5', None),
        ("wait=\u0661", None),
        ("await=5", None),
        ("wait=1234567", None),
    ],
)
def test_prefer_wait_is_whole_seconds(prefer: str, wait: float | None) -> None:
    """Alone or beside other preferences; the first counts, and what is malformed is ignored."""
    asked = directives.read(prefer=prefer)

    assert asked.wait == wait
    assert directives.applied(asked.wait) == ({} if wait is None else {"preference-applied": f"wait={wait}"})


@pytest.mark.parametrize(("longest_wait", "wait"), [(1800, 600), (90, 90)])
def test_nobody_waits_for_ever(longest_wait: float, wait: float) -> None:
    """Not for longer than ten minutes, nor than a start may take; what is applied is what is said."""
    asked = directives.read(prefer="wait=999999", longest_wait=longest_wait)

    assert asked.wait == wait
    assert directives.applied(asked.wait) == {"preference-applied": f"wait={wait}"}
