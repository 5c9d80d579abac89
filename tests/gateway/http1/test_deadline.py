"""One timer for all that is waited for: it goes off when it should, however often that changes."""

import asyncio

from gateway.http1.deadline import Deadline


async def test_the_last_deadline_counts() -> None:
    """Whether it is sooner than the one before or later, and none is none."""
    loop = asyncio.get_running_loop()
    lates: list[float] = []
    began = loop.time()
    sooner, later, none, ended = [Deadline(loop, lambda: lates.append(loop.time() - began)) for _ in range(4)]
    sooner.expect(60)
    sooner.expect(0.05)
    later.expect(0.05)
    later.expect(0.2)
    none.expect(0.05)
    none.clear()
    ended.expect(0.05)
    ended.end()

    await asyncio.sleep(0.3)
    first, second = lates

    assert 0.04 < first < 0.2 <= second + 0.002


async def test_it_can_be_used_again_after_it_went_off() -> None:
    """And does not go off by itself."""
    loop = asyncio.get_running_loop()
    late = asyncio.Event()
    deadline = Deadline(loop, late.set)
    for _ in range(2):
        deadline.expect(0.01)
        await late.wait()
        late.clear()

    await asyncio.sleep(0.03)

    assert not late.is_set()
