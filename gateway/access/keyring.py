"""The keys of the store in memory: a check of a key touches nothing else.

What the ring knows is as old as its last look at the store. While that is recent, a key that is not in it is wrong.
Once it is not, such a key may have been made, rotated or prolonged elsewhere since: the answer is 503, never a false
401. Keys that were good go on working for a bounded time. Used on one thread, the event loop's; only
:func:`build` may run elsewhere.
"""

from __future__ import annotations

import heapq
import hmac
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.access.identify import Headers, bearer_token
from gateway.access.keys import DIGEST_BYTES, key_digest, parse_key
from gateway.access.principal import Principal
from gateway.errors import auth_unavailable, invalid_api_key
from gateway.store.keys import KeyChanges, KeyRecord

_RECENT_POLLS: Final = 5
_NEVER: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Freshness:
    """Seconds since the last look at the store: up to ``recent`` the ring is sure, up to ``max_stale`` usable."""

    recent: float
    max_stale: float
    retry_after: float

    @classmethod
    def of_polling(cls, poll_interval: float, max_stale: float) -> Freshness:
        """For a ring that looks every ``poll_interval`` seconds."""
        return cls(max(_RECENT_POLLS * poll_interval, 3.0), max_stale, 2 * poll_interval)


class Entry:
    """What a check needs to know of one key. ``principal`` None: revoked."""

    __slots__ = ("digest", "previous_digest", "previous_until", "principal")

    def __init__(
        self, principal: Principal | None, digest: bytes, previous_digest: bytes, previous_until: float
    ) -> None:
        self.principal = principal
        self.digest = digest
        self.previous_digest = previous_digest
        self.previous_until = previous_until


@dataclass(frozen=True, slots=True)
class News:
    """Changes of the store in the form of the ring. ``expiries`` are ``(Unix seconds, id)``."""

    revision: int
    entries: dict[str, Entry]
    expiries: list[tuple[float, str]]
    complete: bool


# Digests that no key has: made anew by each process. Unknown and revoked keys are compared with them.
_NO_DIGEST: Final = secrets.token_bytes(DIGEST_BYTES)
_NOBODY: Final = Entry(None, _NO_DIGEST, _NO_DIGEST, 0.0)


def build(changes: KeyChanges) -> News:
    """The ring's form of ``changes``. Takes a while for many keys: not for the event loop."""
    entries = {record.id: _entry(record) for record in changes.records}
    entries.update(dict.fromkeys(changes.unreadable, _NOBODY))
    expiries = [
        (record.grant.expires_at, record.id)
        for record in changes.records
        if record.grant.expires_at is not None and record.revoked_at is None
    ]
    heapq.heapify(expiries)
    return News(changes.revision, entries, expiries, changes.complete)


def _entry(record: KeyRecord) -> Entry:
    if record.revoked_at is not None:
        return _NOBODY
    grant = record.grant
    principal = Principal(
        record.id,
        grant.scopes,
        tenant=grant.tenant,
        models=grant.models,
        adapters=grant.adapters,
        quota=grant.quota,
        weight=grant.weight,
        expires_at=grant.expires_at,
        guard_policy=grant.guard_policy,
        labels=grant.labels,
    )
    if record.previous_digest is None:
        return Entry(principal, record.digest, _NO_DIGEST, 0.0)
    until = _NEVER if record.previous_until is None else record.previous_until
    return Entry(principal, record.digest, record.previous_digest, until)


class Keyring:
    """Knows every key by its public id. ``clock`` is monotonic, ``wall`` is Unix time, both in seconds."""

    def __init__(
        self,
        pepper: bytes,
        freshness: Freshness,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._pepper = pepper
        self._freshness = freshness
        self._clock = clock
        self._wall = wall
        self._entries: dict[str, Entry] = {}
        self._expiries: list[tuple[float, str]] = []
        self._synced_at: float | None = None
        self.revision: int | None = None

    def __len__(self) -> int:
        """Keys it has heard of, revoked ones included."""
        return len(self._entries)

    # -- who is calling -----------------------------------------------------------------------------------------

    def identify(self, headers: Headers) -> Principal:
        """See :class:`~gateway.access.identify.Identity`."""
        principal = self.identify_token(bearer_token(headers))
        if principal is None:
            raise invalid_api_key()
        return principal

    def identify_token(self, token: bytes) -> Principal | None:
        """The principal behind ``token``; None if it does not have the form of one of our keys.

        Raises :class:`~gateway.errors.ApiError`: 401, the same for unknown, wrong, revoked and expired, and after the
        same work; 503 ``auth_unavailable`` if the ring is too old to say.
        """
        key = parse_key(token)
        if key is None:
            return None
        entry = self._entries.get(key.public_id, _NOBODY)
        digest = key_digest(self._pepper, key)
        now = self._wall()
        # Both are compared, whatever the first one says.
        current = hmac.compare_digest(digest, entry.digest)
        previous = hmac.compare_digest(digest, entry.previous_digest) and now < entry.previous_until
        principal = entry.principal
        if principal is not None and (current or previous) and not _expired(principal, now):
            if self.age() > self._freshness.max_stale:
                raise auth_unavailable(self._freshness.retry_after)
            return principal
        if self.age() > self._freshness.recent:
            raise auth_unavailable(self._freshness.retry_after)
        raise invalid_api_key()

    def age(self) -> float:
        """Seconds since the last look at the store; infinite before the first."""
        return _NEVER if self._synced_at is None else self._clock() - self._synced_at

    # -- what it is told ----------------------------------------------------------------------------------------

    def synced(self, at: float) -> None:
        """All changes that were in the store at ``at`` (by ``clock``) have been applied."""
        self._synced_at = at

    def apply(self, news: News) -> set[str]:
        """Learn ``news``; returns the principals that are no more."""
        if news.complete:
            gone = self._alive_among(self._entries) - {
                key_id for key_id, each in news.entries.items() if each.principal
            }
            self._entries = news.entries
            self._expiries = news.expiries
        else:
            revoked = [key_id for key_id, entry in news.entries.items() if entry.principal is None]
            gone = self._alive_among(revoked)
            self._entries.update(news.entries)
            for expiry in news.expiries:
                heapq.heappush(self._expiries, expiry)
        self.revision = news.revision
        return gone

    def expire(self) -> set[str]:
        """The principals whose keys have expired since the last call."""
        now = self._wall()
        gone: set[str] = set()
        while self._expiries and self._expiries[0][0] <= now:
            key_id = heapq.heappop(self._expiries)[1]
            principal = self._entries[key_id].principal if key_id in self._entries else None
            # It may have been prolonged meanwhile; then it stands in the heap once more.
            if principal is not None and _expired(principal, now):
                gone.add(key_id)
        return gone

    def _alive_among(self, key_ids: Iterable[str]) -> set[str]:
        return {key_id for key_id in key_ids if _alive(self._entries, key_id)}


def _alive(entries: Mapping[str, Entry], key_id: str) -> bool:
    return entries.get(key_id, _NOBODY).principal is not None


def _expired(principal: Principal, now: float) -> bool:
    return principal.expires_at is not None and principal.expires_at <= now
