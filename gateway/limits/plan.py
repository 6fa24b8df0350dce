"""Which limits a request meets: those of its principal, its address and its model, each under a key of the store."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from gateway.access.address import limit_subject
from gateway.limits.quota import Quota
from gateway.limits.reserve import Demand, LimitClass

_DIGEST_BYTES: Final = 12


class Kind(enum.Enum):
    """The values are part of the store's keys."""

    REQUESTS = "r"
    TOKENS = "t"
    DAY = "d"
    CONCURRENT = "c"
    BUCKET = "b"


@dataclass(frozen=True, slots=True)
class Window:
    """A sliding window of ``slots`` slots of ``slot_ms`` milliseconds.

    The oldest slot counts until all of it is out of the window: no true window ever holds more than the limit, and room
    comes back at most one slot late.
    """

    slot_ms: int
    slots: int


WINDOWS: Final[Mapping[Kind, Window]] = {
    Kind.REQUESTS: Window(1000, 60),
    Kind.TOKENS: Window(1000, 60),
    Kind.DAY: Window(600_000, 144),
}
TOKEN_KINDS: Final = frozenset((Kind.TOKENS, Kind.DAY))


@dataclass(frozen=True, slots=True)
class Charge:
    """One limit and what a request takes of it. ``per_second`` is the refill of a bucket."""

    key: str
    kind: Kind
    capacity: int
    amount: int
    per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class Bucket:
    """Of every address: ``burst`` requests at once, ``per_second`` come back."""

    burst: int
    per_second: float


class LimitPlan:
    """The limits of a deployment. ``namespace`` is the hash tag: in a cluster all of them are in one slot."""

    def __init__(self, namespace: str, key: Quota, models: Mapping[str, Quota], address: Bucket | None) -> None:
        self._key = key
        self._models = dict(models)
        self._address = address
        self._prefix = "{" + namespace + "}"
        # Subjects come from callers: their digests are of one length and hold no special characters.
        self._name = lru_cache(65_536)(self._digest_name)

    def charges(self, demand: Demand) -> tuple[Charge, ...]:
        """Everything that ``demand`` is counted on; empty where nothing is limited."""
        if demand.limit_class is LimitClass.NONE:
            return ()
        found = [*self._of_quota("k", demand.principal.id, demand.principal.quota.or_else(self._key), demand)]
        if demand.model is not None and (quota := self._models.get(demand.model)) is not None:
            found += self._of_quota("m", demand.model, quota, demand)
        if self._address is not None:
            found.append(self._of_address(demand.address, self._address))
        return tuple(found)

    def requests_key(self, principal_id: str) -> str:
        """The key of a principal's requests per minute."""
        return self._name(Kind.REQUESTS, "k", principal_id)

    def address_key(self, address: str) -> str | None:
        """The key of an address's bucket; None if addresses are not limited."""
        return None if self._address is None else self._name(Kind.BUCKET, "a", limit_subject(address))

    def probe_key(self, kind: Kind) -> str:
        """A key of ``kind`` that no subject has."""
        return self._name(kind, "probe", "")

    def record_key(self, request_id: str) -> str:
        """Where the store remembers what it granted to this request."""
        return f"{self._prefix}:g:{request_id}"

    def _of_quota(self, space: str, subject: str, quota: Quota, demand: Demand) -> Iterator[Charge]:
        if quota.requests_per_minute is not None:
            name = self._name(Kind.REQUESTS, space, subject)
            yield Charge(name, Kind.REQUESTS, quota.requests_per_minute, 1)
        if demand.limit_class is not LimitClass.GENERATION:
            return
        if quota.tokens_per_minute is not None:
            name = self._name(Kind.TOKENS, space, subject)
            yield Charge(name, Kind.TOKENS, quota.tokens_per_minute, demand.tokens)
        if quota.tokens_per_day is not None:
            yield Charge(self._name(Kind.DAY, space, subject), Kind.DAY, quota.tokens_per_day, demand.tokens)
        if quota.concurrent is not None:
            yield Charge(self._name(Kind.CONCURRENT, space, subject), Kind.CONCURRENT, quota.concurrent, 1)

    def _of_address(self, address: str, bucket: Bucket) -> Charge:
        name = self._name(Kind.BUCKET, "a", limit_subject(address))
        return Charge(name, Kind.BUCKET, bucket.burst, 1, bucket.per_second)

    def _digest_name(self, kind: Kind, space: str, subject: str) -> str:
        digest = hashlib.blake2b(f"{space}\0{subject}".encode(), digest_size=_DIGEST_BYTES).hexdigest()
        return f"{self._prefix}:{kind.value}:{digest}"
