"""The limits of one process, in memory: the twin of the script in :mod:`gateway.limits.script`, line by line."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from gateway.limits.plan import TOKEN_KINDS, WINDOWS, Charge, Kind, Window
from gateway.limits.store import NEVER, Decision, Level

#: Subjects that are remembered of each kind of limit; beyond that those that were idle longest are forgotten.
MAX_SUBJECTS: Final = 200_000
#: A lease that lives in the memory of the process that holds it ends with it, and needs no expiry: a year.
OWN_LEASE_MS: Final = 365 * 86_400_000


class SlidingWindow:
    """Sums per slot, and their total."""

    __slots__ = ("_head", "_last", "_shape", "_sums", "total")

    def __init__(self, shape: Window) -> None:
        self._shape = shape
        self._sums: dict[int, int] = {}
        self._head = 0
        self._last = 0
        self.total = 0

    def advance(self, now_ms: int) -> int:
        """Forget what left the window; the slot of now."""
        current = now_ms // self._shape.slot_ms
        if not self._sums:
            self._head = current
            return current
        if current < self._head:
            return self._step_back(current)
        if current > self._head:
            oldest = current - self._shape.slots
            for slot in [slot for slot in self._sums if slot < oldest]:
                self.total -= self._sums.pop(slot)
            self._head = current
        return current

    def _step_back(self, current: int) -> int:
        if self._head - current == 1:
            return self._head
        # The clock was moved: what is there counts as if it had come now, for at most one window.
        self._sums = {current: self.total} if self.total else {}
        self._head = self._last = current
        return current

    def add(self, slot: int, amount: int) -> None:
        """Charge ``amount`` in ``slot``."""
        if amount:
            self._sums[slot] = self._sums.get(slot, 0) + amount
            self._last = slot
            self.total += amount

    def refund(self, slot: int, amount: int) -> None:
        """Give back, if the slot is still in the window, and never more than it holds."""
        held = self._sums.get(slot, 0)
        back = min(amount, held)
        if back > 0:
            self.total -= back
            self._sums[slot] = held - back
            if held == back:
                del self._sums[slot]

    def reset_ms(self, now_ms: int) -> int:
        """Time until it is empty."""
        return self._expiry(self._last) - now_ms if self.total else 0

    def wait_ms(self, needed: int, now_ms: int) -> int:
        """Time until ``needed`` of the total have left."""
        for slot in sorted(self._sums):
            needed -= self._sums[slot]
            if needed <= 0:
                return max(1, self._expiry(slot) - now_ms)
        return NEVER

    def _expiry(self, slot: int) -> int:
        return (slot + self._shape.slots + 1) * self._shape.slot_ms


class _Bucket:
    __slots__ = ("level", "refilled_ms")

    def __init__(self, burst: int, now_ms: int) -> None:
        self.level = float(burst)
        self.refilled_ms = now_ms

    def at(self, now_ms: int, burst: int, per_second: float) -> float:
        """The level now."""
        self.refilled_ms = min(self.refilled_ms, now_ms)
        return min(float(burst), self.level + (now_ms - self.refilled_ms) * per_second / 1000)


_State = SlidingWindow | _Bucket | dict[str, int]


class MemoryStore:
    """``clock`` is monotonic, in seconds: moving the wall clock changes nothing."""

    def __init__(self, lease_ms: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_ms = lease_ms
        self._clock = clock
        # Apart by kind: callers from many addresses do not make a tenant's day be forgotten.
        self._states: dict[Kind, OrderedDict[str, _State]] = {kind: OrderedDict() for kind in Kind}
        self._granted: dict[str, tuple[int, ...]] = {}

    def reserve(self, request_id: str, charges: Sequence[Charge], *, force: bool = False) -> Decision:
        """Make all charges or none; ``force`` makes them whatever the limits say.

        Asked again for the same request, it answers as before and charges nothing.
        """
        now = self._now_ms()
        again = request_id in self._granted
        levels = tuple(self._look(charge, now, 0 if again else charge.amount) for charge in charges)
        if again:
            return Decision(True, tuple(Level(level.used, level.reset_ms, 0) for level in levels))
        if not force and any(level.wait_ms for level in levels):
            return Decision(False, levels)
        self._granted[request_id] = tuple(self._take(charge, request_id, now) for charge in charges)
        return Decision(True, tuple(self._level(charge, now) for charge in charges))

    def settle(self, request_id: str, charges: Sequence[Charge], tokens: int) -> bool:
        """Give back what was granted beyond ``tokens``, and the lease; False if nothing was granted, or no longer."""
        slots = self._granted.pop(request_id, None)
        now = self._now_ms()
        for index, charge in enumerate(charges):
            state = self._states[charge.kind].get(charge.key)
            if isinstance(state, dict):
                state.pop(request_id, None)
            elif slots is not None and isinstance(state, SlidingWindow) and charge.kind in TOKEN_KINDS:
                state.advance(now)
                state.refund(slots[index], charge.amount - tokens)
        return slots is not None

    def renew(self, request_id: str, charges: Sequence[Charge]) -> None:
        """The request still runs: its leases live on, and are put back if they were lost."""
        now = self._now_ms()
        for charge in charges:
            state = self._state(charge, now)
            if isinstance(state, dict):
                state[request_id] = now + self._lease_ms

    def __len__(self) -> int:
        return sum(map(len, self._states.values()))

    # -- one limit ------------------------------------------------------------------------------------------------

    def _look(self, charge: Charge, now: int, amount: int) -> Level:
        """The level as it is, and how long ``amount`` must wait."""
        state = self._state(charge, now)
        level = self._level(charge, now)
        if level.used + amount <= charge.capacity or not amount:
            return level
        if amount > charge.capacity:
            wait = NEVER
        elif isinstance(state, SlidingWindow):
            wait = state.wait_ms(level.used + amount - charge.capacity, now)
        elif isinstance(state, _Bucket):
            wait = _bucket_wait(state.at(now, charge.capacity, charge.per_second), amount, charge.per_second)
        else:
            wait = max(1, min(state.values()) - now)
        return Level(level.used, level.reset_ms, wait)

    def _take(self, charge: Charge, request_id: str, now: int) -> int:
        """Charge it; the slot it was charged to."""
        state = self._state(charge, now)
        if isinstance(state, SlidingWindow):
            slot = state.advance(now)
            state.add(slot, charge.amount)
            return slot
        if isinstance(state, _Bucket):
            state.level = max(0.0, state.at(now, charge.capacity, charge.per_second) - charge.amount)
            state.refilled_ms = now
        else:
            state[request_id] = now + self._lease_ms
        return 0

    def _level(self, charge: Charge, now: int) -> Level:
        state = self._state(charge, now)
        if isinstance(state, SlidingWindow):
            state.advance(now)
            return Level(state.total, state.reset_ms(now), 0)
        if isinstance(state, _Bucket):
            missing = charge.capacity - state.at(now, charge.capacity, charge.per_second)
            reset = math.ceil(missing / charge.per_second * 1000) if charge.per_second else 0
            return Level(math.ceil(missing), reset, 0)
        for request_id in [request_id for request_id, expiry in state.items() if expiry <= now]:
            del state[request_id]
        return Level(len(state), 0, 0)

    def _state(self, charge: Charge, now: int) -> _State:
        states = self._states[charge.kind]
        state = states.get(charge.key)
        if state is None:
            state = states[charge.key] = _new_state(charge, now)
            if len(states) > MAX_SUBJECTS:
                states.popitem(last=False)
        else:
            states.move_to_end(charge.key)
        return state

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def _new_state(charge: Charge, now: int) -> _State:
    if charge.kind is Kind.BUCKET:
        return _Bucket(charge.capacity, now)
    if charge.kind is Kind.CONCURRENT:
        return {}
    return SlidingWindow(WINDOWS[charge.kind])


def _bucket_wait(level: float, amount: int, per_second: float) -> int:
    return max(1, math.ceil((amount - level) / per_second * 1000)) if per_second else NEVER
