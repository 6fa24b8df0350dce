"""Usage in the database: one row per admitted request, however often it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import Column, String, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from gateway.store.database import Database
from gateway.store.tables import usage
from gateway.usage.prices import NANO, PriceList
from gateway.usage.records import Settled

#: What totals can be grouped by, by its name on the wire.
GROUPS: Final[dict[str, Column[Any]]] = {
    "key": usage.c.principal,
    "tenant": usage.c.tenant,
    "model": usage.c.model,
    "adapter": usage.c.adapter,
    "arm": usage.c.arm,
    "day": usage.c.day,
    "outcome": usage.c.outcome,
}
_TOKENS: Final = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
_BATCH: Final = 400
_PURGE_BATCH: Final = 5000
_UNKNOWN: Final = "unknown"
_MAX_COUNT: Final = 2**63 - 1
_DAY_SECONDS: Final = 86_400
_EPOCH: Final = date(1970, 1, 1).toordinal()


def usage_day(received: float) -> str:
    """The UTC day of Unix seconds. Raises ValueError for no day of a calendar."""
    return _day(int(received // _DAY_SECONDS))


@lru_cache(maxsize=64)
def _day(number: int) -> str:
    try:
        return date.fromordinal(_EPOCH + number).isoformat()
    except OverflowError as error:
        raise ValueError(f"no day: {number}") from error


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Days are inclusive, ``YYYY-MM-DD`` in UTC. None: all."""

    first_day: str | None = None
    last_day: str | None = None
    key: str | None = None
    tenant: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class UsageTotal:
    """``group`` holds the values that were grouped by. ``cost`` None: nothing of it had a price."""

    group: dict[str, str | None]
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cost: Decimal | None


class UsageRepository:
    """Methods block and raise :class:`~gateway.store.database.StoreUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(self, rows: Sequence[Settled], prices: PriceList) -> list[str]:
        """Write what is not there yet, all or nothing: a request that was written before stays as it is.

        Returns the ids of rows that no table could hold, which are left out.
        """
        values, unfit = [], []
        for row in rows:
            try:
                values.append(_values(row, prices))
            except ValueError:
                unfit.append(row.request_id)
        dialect = sqlite if self._database.dialect == "sqlite" else postgresql
        statement = dialect.insert(usage).on_conflict_do_nothing(index_elements=["request_id"])
        with self._database.begin() as connection:
            for start in range(0, len(values), _BATCH):
                connection.execute(statement, values[start : start + _BATCH])
        return unfit

    def holds(self, request_id: str) -> bool:
        """Whether this request was written."""
        query = select(usage.c.request_id).where(usage.c.request_id == _fitting("request_id", request_id))
        with self._database.read() as connection:
            return connection.execute(query).first() is not None

    def totals(
        self, group_by: Sequence[str], wanted: UsageFilter, *, limit: int = 1000, offset: int = 0
    ) -> tuple[list[UsageTotal], bool]:
        """Sums per group, in the groups' order, and whether there are more. ``group_by`` are names of GROUPS."""
        columns = [GROUPS[name] for name in group_by]
        # Whole and broken parts of the cost by themselves, or cheap currencies would exceed 64 bits.
        costs = [func.sum(usage.c.cost_nanos // NANO), func.sum(usage.c.cost_nanos % NANO)]
        sums = [func.count(), *(func.sum(usage.c[name]) for name in _TOKENS), *costs]
        query = select(*columns, *sums).limit(limit + 1).offset(offset)
        if columns:
            query = query.group_by(*columns).order_by(*(column.asc().nulls_first() for column in columns))
        for column, value in ((usage.c.principal, wanted.key), (usage.c.tenant, wanted.tenant),
                              (usage.c.model, wanted.model)):  # fmt: skip
            if value is not None:
                query = query.where(column == value)
        if wanted.first_day is not None:
            query = query.where(usage.c.day >= wanted.first_day)
        if wanted.last_day is not None:
            query = query.where(usage.c.day <= wanted.last_day)
        with self._database.read() as connection:
            found = connection.execute(query).all()
        totals = [_total(group_by, tuple(row)) for row in found[:limit]]
        return totals, len(found) > limit

    def purge(self, before_day: str, *, limit: int = _PURGE_BATCH) -> int:
        """Forget at most ``limit`` rows of days before ``before_day``; how many they were."""
        old = select(usage.c.request_id).where(usage.c.day < before_day).limit(limit)
        with self._database.begin() as connection:
            return connection.execute(delete(usage).where(usage.c.request_id.in_(old))).rowcount


def _values(row: Settled, prices: PriceList) -> dict[str, Any]:
    """Raises ValueError for what was not written by a gateway."""
    counts = (row.prompt_tokens, row.cached_tokens, row.completion_tokens, row.reasoning_tokens)
    if not all(0 <= count <= _MAX_COUNT for count in counts):
        raise ValueError("a number of tokens is out of range")
    return {
        "request_id": _fitting("request_id", row.request_id),
        "http_request_id": row.http_request_id and _fitting("http_request_id", row.http_request_id),
        "received": row.received,
        "day": usage_day(row.received),
        "tenant": _fitting("tenant", row.tenant),
        "principal": _fitting("principal", row.principal or _UNKNOWN),
        "route": _fitting("route", row.route or _UNKNOWN),
        "model": _fitting("model", row.model or _UNKNOWN),
        "adapter": row.adapter and _fitting("adapter", row.adapter),
        "arm": row.arm and _fitting("arm", row.arm),
        "outcome": row.outcome,
        "code": row.code and _fitting("code", row.code),
        "prompt_tokens": row.prompt_tokens,
        "cached_tokens": row.cached_tokens,
        "completion_tokens": row.completion_tokens,
        "reasoning_tokens": row.reasoning_tokens,
        "ttft": row.first_token,
        "duration": row.ended,
        "cost_nanos": _cost(row, prices),
    }


def _cost(row: Settled, prices: PriceList) -> int | None:
    cost = prices.cost_nanos(row)
    if cost is not None and cost > _MAX_COUNT:
        raise ValueError("the cost is out of range")
    return cost


_LENGTHS: Final = {column.name: column.type.length for column in usage.columns if isinstance(column.type, String)}


def _fitting(column: str, text: str) -> str:
    # PostgreSQL keeps no NUL.
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}")[: _LENGTHS[column]]


def _total(group_by: Sequence[str], row: tuple[Any, ...]) -> UsageTotal:
    count = len(group_by)
    # Sums of nothing are None.
    requests, *tokens, whole, nanos = row[count:]
    prompt, cached, completion, reasoning = (int(each or 0) for each in tokens)
    return UsageTotal(
        group=dict(zip(group_by, row[:count], strict=True)),
        requests=int(requests),
        prompt_tokens=prompt,
        cached_tokens=cached,
        completion_tokens=completion,
        reasoning_tokens=reasoning,
        cost=None if whole is None else int(whole) + Decimal(int(nanos)) / NANO,
    )
