"""What this replica admitted by itself, and the shared store has to learn of before it decides again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.limits.memory import MAX_SUBJECTS, SlidingWindow
from gateway.limits.outbox import Settlement
from gateway.limits.plan import TOKEN_KINDS, WINDOWS, Charge, Kind

CHARGES_PER_BILL: Final = 100
_SUFFIX: Final = "-alone"

Account = tuple[str, tuple[Charge, ...]]


@dataclass(slots=True)
class _Running:
    since_ms: int
    charges: tuple[Charge, ...]
    offered: bool = False


class Journal:
    """Requests that ended are summed up per limit, in bounded memory; those that run are handed over one by one.

    Buckets are left out: they refill by themselves. ``clock`` is monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._running: dict[str, _Running] = {}
        self._taken: dict[str, tuple[Charge, ...]] = {}
        self._owed: dict[str, tuple[Charge, SlidingWindow]] = {}
        self._bills: dict[str, tuple[Charge, ...]] = {}

    def __len__(self) -> int:
        """Entries that the store does not know of."""
        return len(self._running) + len(self._owed) + len(self._bills)

    def admitted(self, request_id: str, charges: Sequence[Charge]) -> None:
        """This replica admitted it without the store."""
        self._running[request_id] = _Running(self._now_ms(), tuple(charges))

    def ended(self, request_id: str, tokens: int) -> Settlement | None:
        """It is over, and took ``tokens``. What the store must be told now, if it may know of the request already."""
        name = _name(request_id)
        taken = self._taken.pop(request_id, None)
        if taken is not None:
            return Settlement(name, taken, tokens)
        running = self._running.pop(request_id)
        self._owe(running, tokens)
        # An offer that was not answered may have been taken: it is owed now, so it must not count there too.
        return Settlement(name, running.charges, 0, unsure=True) if running.offered else None

    # -- requests that ended --------------------------------------------------------------------------------------

    def bills(self) -> list[Account]:
        """What to charge, under which id: the same again until it is :meth:`paid`."""
        now = self._now_ms()
        owed = []
        for charge, window in self._owed.values():
            window.advance(now)
            if window.total:
                owed.append(replace(charge, amount=window.total))
        self._owed.clear()
        for start in range(0, len(owed), CHARGES_PER_BILL):
            self._bills[f"bill-{os.urandom(12).hex()}"] = tuple(owed[start : start + CHARGES_PER_BILL])
        return list(self._bills.items())

    def paid(self, bill: str) -> None:
        """The store has charged it."""
        del self._bills[bill]

    # -- requests that run ----------------------------------------------------------------------------------------

    def offers(self) -> list[Account]:
        """Requests for the store to take over, with what still counts of them: the name there, and the charges."""
        now = self._now_ms()
        offers = []
        for request_id, running in self._running.items():
            running.charges = tuple(_what_still_counts(charge, now - running.since_ms) for charge in running.charges)
            running.offered = True
            offers.append((_name(request_id), running.charges))
        return offers

    def taken(self, name: str) -> tuple[Charge, ...] | None:
        """The store knows of it now, and will be told when it ends; None if it ended in the meantime."""
        request_id = name.removesuffix(_SUFFIX)
        running = self._running.pop(request_id, None)
        if running is None:
            return None
        self._taken[request_id] = running.charges
        return running.charges

    def _owe(self, running: _Running, tokens: int) -> None:
        now = self._now_ms()
        for charge in running.charges:
            shape = WINDOWS.get(charge.kind)
            if shape is None or (charge.key not in self._owed and len(self._owed) >= MAX_SUBJECTS):
                continue
            _, window = self._owed.setdefault(charge.key, (charge, SlidingWindow(shape)))
            slot = running.since_ms // shape.slot_ms
            if slot >= window.advance(now) - shape.slots:
                window.add(slot, tokens if charge.kind in TOKEN_KINDS else charge.amount)

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def _name(request_id: str) -> str:
    """Its own in the store: under the request's id there may be a mark that it was given up."""
    return request_id + _SUFFIX


def _what_still_counts(charge: Charge, age_ms: int) -> Charge:
    if charge.kind is Kind.CONCURRENT:
        return charge
    shape = WINDOWS.get(charge.kind)
    gone = shape is None or age_ms > shape.slot_ms * (shape.slots + 1)
    return replace(charge, amount=0) if gone else charge
