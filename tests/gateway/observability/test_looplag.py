from __future__ import annotations

import asyncio
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.observability.looplag import LagWindow, LoopLag


async def test_a_blocked_loop_is_seen() -> None:
    seen: asyncio.Queue[float] = asyncio.Queue()
    lag = LoopLag(seen.put_nowait, interval=0.01)
    lag.start()
    lag.start()
    await seen.get()
    time.sleep(0.3)  # noqa: ASYNC251 - blocking the loop is the point
    worst = max([await seen.get() for _ in range(2)])
    lag.stop()
    assert 0.2 < worst < 30


async def test_stop_ends_it() -> None:
    seen: list[float] = []
    lag = LoopLag(seen.append, interval=0.001)
    lag.start()
    lag.stop()
    lag.stop()
    await asyncio.sleep(0.05)
    assert seen == []


@settings(deadline=None)
@given(samples=st.lists(st.floats(0, 100), min_size=1, max_size=60), size=st.integers(2, 20))
def test_the_window_holds_at_least_half_and_at_most_all_of_its_samples(samples: list[float], size: int) -> None:
    window = LagWindow(size)
    for sample in samples:
        window(sample)
    half = size // 2
    assert max(samples[-1:]) <= window.max <= max(samples)
    assert window.max >= max(samples[-half:])
    assert window.max <= max(samples[-2 * half :])
    assert window.last == samples[-1]
