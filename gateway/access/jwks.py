"""The keys of one issuer in memory, kept up to date beside the requests: no request ever waits for a fetch.

The last good keys serve while fetches fail, for a bounded time. Tokens can ask for a fetch, by naming a key that is
not known, but not for more than one per cooldown.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.access.jwk import ParsedKeys, UnusableKeySet, VerificationKey, VerificationKeys, parse_key_set
from gateway.access.jwks_source import FetchFailed
from gateway.errors import auth_unavailable

log = logging.getLogger("sluice.jwt")

COOLDOWN: Final = 30.0
FIRST_RETRY: Final = 1.0
_TOLD_REFUSALS: Final = 10


class Source(Protocol):
    """Where the document comes from."""

    async def fetch(self) -> bytes:
        """The document. Raises :class:`~gateway.access.jwks_source.FetchFailed`."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds: between fetches; that keys work after the last good one; between fetches that tokens ask for."""

    refresh_interval: float
    max_stale: float
    cooldown: float = COOLDOWN
    first_retry: float = FIRST_RETRY


@dataclass(frozen=True, slots=True)
class KeySetHooks:
    """Told on the event loop: whether a fetch went well; how many keys of an issuer are in use."""

    on_fetch: Callable[[bool], None] = lambda _good: None
    on_keys: Callable[[str, int], None] = lambda _issuer, _count: None


class FetchSchedule:
    """When the next fetch is due: regularly, sooner after a failure, and once per cooldown if it is wanted."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._retry = pace.first_retry
        self._began_at = float("-inf")
        self._regular_at = float("-inf")

    def began(self, now: float) -> None:
        """A fetch begins."""
        self._began_at = now
        self._regular_at = now + self._pace.refresh_interval

    def ended(self, now: float, *, good: bool, usable: bool) -> None:
        """It has ended. ``usable``: there are keys to go on with, so there is no hurry."""
        if good:
            self._retry = self._pace.first_retry
            return
        wait = self._pace.cooldown if usable else self._retry
        self._retry = min(2 * self._retry, self._pace.cooldown)
        self._regular_at = min(self._regular_at, now + wait)

    def due_at(self, *, wanted: bool) -> float:
        """When to fetch next. A wish that comes too early is kept, not dropped."""
        return min(self._regular_at, self._began_at + self._pace.cooldown) if wanted else self._regular_at


class _State(enum.Enum):
    FRESH = enum.auto()
    STALE = enum.auto()
    ABSENT = enum.auto()


class KeySet:
    """The keys of ``issuer``. Used on the event loop; ``clock`` is monotonic, in seconds."""

    def __init__(
        self,
        issuer: str,
        source: Source,
        algorithms: Collection[str],
        pace: Pace,
        hooks: KeySetHooks | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer
        self._source = source
        self._algorithms = frozenset(algorithms)
        self._pace = pace
        self._schedule = FetchSchedule(pace)
        self._hooks = hooks or KeySetHooks()
        self._clock = clock
        self._keys = VerificationKeys(())
        self._good_at = float("-inf")
        self._refused: tuple[tuple[str, str], ...] = ()
        self._state: _State | None = None
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # -- what tokens ask ------------------------------------------------------------------------------------------

    def find(self, kid: str | None, algorithm: str) -> VerificationKey | None:
        """The key for a token with this header; None if there is none, which may be worth a fetch in the background.

        Raises :class:`~gateway.errors.ApiError` 503 ``auth_unavailable`` where there are no keys to tell by.
        """
        self._require_usable()
        if kid is not None and not self._keys.knows(kid):
            self._wanted.set()
        return self._keys.find(kid, algorithm)

    def holds(self, key: VerificationKey) -> bool:
        """Whether ``key`` is still published. Raises as :meth:`find`."""
        self._require_usable()
        return key in self._keys

    @property
    def fresh(self) -> bool:
        """Whether the last fetch went well."""
        return self._state is _State.FRESH

    def _require_usable(self) -> None:
        if not self._usable():
            raise auth_unavailable(max(1.0, self._schedule.due_at(wanted=False) - self._clock()))

    def _usable(self) -> bool:
        return self._clock() - self._good_at <= self._pace.max_stale

    # -- what keeps it up to date ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Fetch once, well or not, and go on in the background."""
        await self._fetch()
        self._task = asyncio.create_task(self._run(), name="jwks")

    async def stop(self) -> None:
        """End it. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            await self._until_due()
            await self._fetch()

    async def _until_due(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._schedule.due_at(wanted=False) - self._clock()):
                await self._wanted.wait()
        await asyncio.sleep(self._schedule.due_at(wanted=self._wanted.is_set()) - self._clock())

    async def _fetch(self) -> None:
        """Whatever goes wrong, the keys that were good stay, and there is a next time."""
        began_at = self._clock()
        self._wanted.clear()
        self._schedule.began(began_at)
        try:
            document = await self._source.fetch()
            parsed = await asyncio.to_thread(parse_key_set, document, self._algorithms)
        except (FetchFailed, UnusableKeySet) as error:
            self._failed(str(error))
        except Exception:
            log.exception("the keys of %s could not be read", self._issuer)
            self._failed("an error of this program")
        else:
            self._learn(parsed, began_at)

    def _learn(self, parsed: ParsedKeys, at: float) -> None:
        self._keys, self._good_at = parsed.keys, at
        self._schedule.ended(self._clock(), good=True, usable=True)
        self._hooks.on_fetch(True)
        self._hooks.on_keys(self._issuer, len(parsed.keys))
        self._tell_refused(parsed.refused)
        self._became(_State.FRESH)

    def _failed(self, reason: str) -> None:
        usable = self._usable()
        self._schedule.ended(self._clock(), good=False, usable=usable)
        self._hooks.on_fetch(False)
        if not usable:
            self._hooks.on_keys(self._issuer, 0)
        self._became(_State.STALE if usable else _State.ABSENT, reason)

    def _tell_refused(self, refused: tuple[tuple[str, str], ...]) -> None:
        """Once, not at every fetch."""
        if refused != self._refused:
            self._refused = refused
            for kid, reason in refused[:_TOLD_REFUSALS]:
                log.warning("key %r of %s is not used: %s", kid, self._issuer, reason)

    def _became(self, state: _State, reason: str = "") -> None:
        if state is self._state:
            return
        before, self._state = self._state, state
        if state is _State.STALE:
            log.error("the keys of %s cannot be fetched: %s; the last good ones serve", self._issuer, reason)
        elif state is _State.ABSENT:
            log.error("there are no keys of %s: %s; its tokens are answered 503", self._issuer, reason)
        elif before is not None:
            log.warning("the keys of %s can be fetched again", self._issuer)
