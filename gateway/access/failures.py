"""Wrong credentials from one address: after too many of them, no more are looked at for a while."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from gateway.access.address import limit_subject
from gateway.errors import ApiError

WINDOW_SECONDS: Final = 60.0
MAX_ADDRESSES: Final = 10_000


class FailedCredentials:
    """At most ``max_per_minute`` failures of one address (IPv6: one /64) in any minute.

    Bounded: of very many addresses, the ones that failed longest ago are forgotten first. ``clock`` is monotonic, in
    seconds.
    """

    def __init__(self, max_per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max = max_per_minute
        self._clock = clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def check(self, address: str) -> None:
        """Raise :class:`ApiError` 429 if ``address`` has failed too often. Asked before a credential is looked at."""
        now = self._clock()
        self._forget_until(now - WINDOW_SECONDS)
        failures = self._failures.get(limit_subject(address))
        if failures is None:
            return
        while failures[0] <= now - WINDOW_SECONDS:
            failures.popleft()
        if len(failures) >= self._max:
            raise ApiError(
                429,
                "Too many requests with wrong credentials came from your address. Try again later.",
                code="rate_limit_exceeded",
                type="requests",
                retry_after=failures[0] + WINDOW_SECONDS - now,
            )

    def failed(self, address: str) -> None:
        """A credential from ``address`` was wrong."""
        subject = limit_subject(address)
        now = self._clock()
        failures = self._failures.setdefault(subject, deque(maxlen=self._max))
        failures.append(now)
        self._failures.move_to_end(subject)
        if len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)
        self._forget_until(now - WINDOW_SECONDS)

    def _forget_until(self, moment: float) -> None:
        """Forget addresses that have not failed since: none is left without a later failure."""
        while self._failures and next(iter(self._failures.values()))[-1] <= moment:
            self._failures.popitem(last=False)
