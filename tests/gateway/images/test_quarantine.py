"""Pictures that kill their workers: after the second time nobody decodes them for a while."""

import asyncio
import os
import signal
from typing import Any

import pytest

from gateway.images.decoder import Decoder
from gateway.images.pool import NotDecoded, Pool
from gateway.images.quarantine import DURATION, KEPT, Quarantine
from gateway.images.shared import Memory

from .pools import LARGE, Sent, decoded, killed, settled, wanted


async def test_a_picture_that_kills_twice_is_quarantined(two: Pool, sent: Sent) -> None:
    """The third time it is refused at once, by its digest, and no worker sees it; others are not."""
    for _ in range(2):
        work = asyncio.create_task(two.decode(wanted(LARGE), LARGE, "deadly", Memory))
        await killed(sent, signal.SIGSEGV)
        with pytest.raises(NotDecoded):
            await work
    with pytest.raises(NotDecoded) as caught:
        await two.decode(wanted(LARGE), LARGE, "deadly", Memory)
    assert caught.value.reason == "deadly"
    assert len(sent) == 2
    await decoded(two, LARGE, "harmless")


async def test_of_many_copies_at_once_few_kill(two: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were in line before the picture was known are refused when it is their turn."""
    send, killed_by_it = Decoder.send, 0

    def deadly(worker: Decoder, *arguments: Any) -> None:
        nonlocal killed_by_it
        killed_by_it += 1
        os.kill(worker.pid, signal.SIGSEGV)
        send(worker, *arguments)

    await settled(two)
    monkeypatch.setattr(Decoder, "send", deadly)
    work = [two.decode(wanted(LARGE), LARGE, "deadly", Memory) for _ in range(20)]
    results = await asyncio.gather(*work, return_exceptions=True)
    assert {type(result) for result in results} == {NotDecoded}
    assert killed_by_it <= 4  # two strikes, and as many as are at work together


def test_a_quarantine_ends_and_is_bounded() -> None:
    """After some minutes the picture is tried again; of many that kill, the oldest are forgotten."""
    quarantine = Quarantine()
    quarantine.strike("a", 0)
    assert not quarantine.holds("a", 0)
    quarantine.strike("a", 1)
    assert quarantine.holds("a", DURATION)
    assert not quarantine.holds("a", DURATION + 1)
    quarantine.strike("a", 2 * DURATION)
    assert not quarantine.holds("a", 2 * DURATION)
    for number in range(2 * KEPT):
        quarantine.strike(str(number // 2 + 7), 0)
    assert not quarantine.holds("a", 0)
    assert len(quarantine._strikes) == KEPT
