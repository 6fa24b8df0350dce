"""Settlements arrive, each once and in their order, however often the store fails; what cannot leave is told."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import pytest

from gateway.limits import outbox as module
from gateway.limits.link import StoreError
from gateway.limits.outbox import Outbox, Settlement
from gateway.limits.redis import RedisStore
from tests.support.gateways import eventually


class FailingStore:
    """Fails the first ``failures`` settlements it is given."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.settled: list[str] = []

    async def settle(self, request_id: str, charges: Any, tokens: int, *, unsure: bool) -> bool:
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise StoreError("connection")
        self.settled.append(request_id)
        return True


def outbox_of(store: FailingStore, errors: list[str], usable: list[bool]) -> Outbox:
    return Outbox(cast(RedisStore, store), lambda: usable[0], lambda error: errors.append(error.reason))


async def test_what_failed_is_sent_again_and_nothing_else() -> None:
    store, errors = FailingStore(7), list[str]()
    outbox = outbox_of(store, errors, [True])
    outbox.start()
    for number in range(20):
        outbox.put(Settlement(f"r{number}", (), 0))
    await outbox.close(10)
    assert sorted(store.settled) == sorted(f"r{number}" for number in range(20))
    assert errors == ["connection"]
    assert len(outbox) == 0


async def test_while_the_store_is_away_nothing_is_tried_and_nothing_is_lost() -> None:
    store, usable = FailingStore(0), [False]
    outbox = outbox_of(store, [], usable)
    outbox.start()
    outbox.put(Settlement("a", (), 0))
    await asyncio.sleep(0.05)
    assert store.settled == []
    usable[0] = True
    outbox.wake()
    await eventually(lambda: store.settled == ["a"])
    await outbox.close(1)


async def test_what_could_not_leave_is_told(caplog: pytest.LogCaptureFixture) -> None:
    outbox = outbox_of(FailingStore(0), [], [False])
    outbox.start()
    for number in range(3):
        outbox.put(Settlement(f"r{number}", (), 0))
    with caplog.at_level(logging.ERROR, "sluice.limits"):
        await outbox.close(0.01)
    assert "3 settlements of limits were not sent" in caplog.text


async def test_a_full_one_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CAPACITY", 2)
    outbox = outbox_of(FailingStore(0), [], [False])
    outbox.put(Settlement("a", (), 0))
    assert not outbox.full
    outbox.put(Settlement("b", (), 0))
    assert outbox.full
