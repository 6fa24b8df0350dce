"""Reconciles what the ledger, the clients and the engine each say happened. No violation: nothing was lost.

Rules by invariant (see the names in :data:`Rule`): one ending per admitted request and every client agrees with it;
usage once and equal to what the engine emitted, cached tokens included; the database holds each settled request once
and as the ledger says; no answer carries another's canary; nothing is left at rest.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from sqlalchemy import select

from gateway.guardian.model import GUARDIAN
from gateway.store.database import Database
from gateway.store.tables import usage
from gateway.store.usage import usage_day
from gateway.usage.records import Admitted, Entry, Settled
from tests.support.recorder import Saw

Rule = Literal["one_ending", "row", "client", "usage", "engine", "store", "canary", "leak", "gauge"]


@dataclass(frozen=True, slots=True)
class Violation:
    """One disagreement. ``request_id`` is None where no single request is at fault."""

    rule: Rule
    request_id: str | None
    detail: str


class EngineAccount(Protocol):
    """What an engine knows of one request it took (see ``stub_engine.Account``)."""

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def emitted(self) -> int: ...

    @property
    def cached(self) -> int: ...


@dataclass(frozen=True, slots=True)
class EngineEvidence:
    """What the engine says. Leave out what it cannot know: the real one has counters, no ``accounts``.

    ``finished``: choices by finish reason, ``vllm:request_success_total`` without its label's other values;
    ``generation_tokens``: ``vllm:generation_tokens_total``; ``prompt_tokens``: ``vllm:prompt_tokens_total``;
    ``cached_tokens``: ``vllm:prefix_cache_hits_total``. All are differences over the run.
    """

    accounts: Mapping[str, EngineAccount] | None = None
    finished: Mapping[str, int] | None = None
    generation_tokens: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    leaks: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything at rest, after a run. ``owner`` maps an engine's request id to the ledger's.

    ``stored`` are the database's rows (see :func:`stored_usage`), None where there is no database. ``echoes_canary``:
    the model repeats the canary, so a complete answer without it is wrong too.
    """

    ledger: Sequence[Entry]
    clients: Sequence[Saw]
    engine: EngineEvidence = field(default_factory=EngineEvidence)
    gauges: Mapping[str, float] = field(default_factory=dict)
    owner: Callable[[str], str] = lambda engine_id: engine_id
    echoes_canary: bool = False
    stored: Sequence[Mapping[str, Any]] | None = None


def without_index(engine_id: str) -> str:
    """The ``owner`` where the engine's ids are the ledger's plus ``-<number of the prompt>``."""
    return engine_id.rpartition("-")[0]


def stored_usage(database: Database) -> list[Mapping[str, Any]]:
    """The rows of the table ``usage``."""
    with database.read() as connection:
        return [dict(row) for row in connection.execute(select(usage)).mappings()]


def check(evidence: Evidence) -> list[Violation]:
    """Every violation found; an empty list is the pass."""
    book = _Book(evidence.ledger)
    return [
        *_one_ending(book),
        *_rows(book),
        *_clients(book, evidence.clients),
        *_usage(book, evidence.clients),
        *_accounts(book, evidence),
        *_counters(book, evidence.engine),
        *_stored(book, evidence.stored),
        *_canaries(evidence),
        *(Violation("leak", None, leak) for leak in evidence.engine.leaks),
        *(Violation("gauge", None, f"{name} is {value}") for name, value in evidence.gauges.items() if value != 0),
    ]


class _Book:
    """The ledger by request id."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.admitted: dict[str, list[Admitted]] = defaultdict(list)
        self.settled: dict[str, list[Settled]] = defaultdict(list)
        self.early: list[str] = []
        for entry in entries:
            if isinstance(entry, Admitted):
                self.admitted[entry.request_id].append(entry)
            else:
                if entry.request_id not in self.admitted:
                    self.early.append(entry.request_id)
                self.settled[entry.request_id].append(entry)
        self.ids = self.admitted.keys() | self.settled.keys()
        self.of_http: dict[str, set[str]] = defaultdict(set)
        for request_id, rows in self.admitted.items():
            for row in rows:
                if row.http_request_id is not None:
                    self.of_http[row.http_request_id].add(request_id)

    @property
    def of_the_guard(self) -> set[str]:
        """Requests that the guard made by itself."""
        return {
            request_id for request_id, rows in self.admitted.items() if any(row.principal == GUARDIAN for row in rows)
        }

    def settlement(self, saw: Saw) -> Settled | None:
        """The settlement of a client's request, None if it has none."""
        rows = self.settled.get(self.request_id(saw) or "")
        return rows[0] if rows else None

    def request_id(self, saw: Saw) -> str | None:
        """The ledger's id for what a client asked; clients know the HTTP one."""
        return min(self.of_http.get(saw.request_id or "", ()), default=saw.request_id)

    def pairs(self) -> Iterator[tuple[Admitted, Settled]]:
        """Each request that has both rows."""
        for request_id in self.admitted.keys() & self.settled.keys():
            yield self.admitted[request_id][0], self.settled[request_id][0]

    def every_settlement(self) -> Iterator[Settled]:
        for rows in self.settled.values():
            yield from rows


def _one_ending(book: _Book) -> Iterator[Violation]:
    for http_request_id, request_ids in book.of_http.items():
        if len(request_ids) > 1:
            yield Violation("one_ending", http_request_id, f"one HTTP request, ledger rows of {sorted(request_ids)}")
    for request_id in book.ids:
        admitted, settled = len(book.admitted.get(request_id, ())), len(book.settled.get(request_id, ()))
        if (admitted, settled) != (1, 1):
            yield Violation("one_ending", request_id, f"admitted {admitted} times, settled {settled} times")
    for request_id in book.early:
        yield Violation("one_ending", request_id, "settled before it was admitted")


def _rows(book: _Book) -> Iterator[Violation]:
    for admitted, settled in book.pairs():
        for wrong in (
            *_wrong_phases(settled),
            *_wrong_outcome(settled),
            *_wrong_tokens(admitted, settled),
            *_wrong_names(admitted, settled),
        ):
            yield Violation("row", settled.request_id, wrong)


def _wrong_phases(row: Settled) -> Iterator[str]:
    marks = [0.0, row.admitted, row.dispatched, row.first_token, row.ended]
    reached = [mark for mark in marks if mark is not None]
    if reached != sorted(reached):
        yield f"phases out of order: {marks}"
    if row.first_token is not None and row.dispatched is None:
        yield "a first token without dispatch"


def _wrong_outcome(row: Settled) -> Iterator[str]:
    if (row.outcome == "error") != (row.code is not None):
        yield f"outcome {row.outcome} with code {row.code}"
    if (row.outcome == "completed") != bool(row.finish_reasons):
        yield f"outcome {row.outcome} with finish reasons {row.finish_reasons}"


def _wrong_tokens(admitted: Admitted, row: Settled) -> Iterator[str]:
    if row.prompt_tokens != admitted.prompt_tokens:
        yield f"settled {row.prompt_tokens} prompt tokens, admitted {admitted.prompt_tokens}"
    if not 0 <= row.completion_tokens <= admitted.max_tokens * admitted.n:
        yield f"{row.completion_tokens} completion tokens, at most {admitted.max_tokens} x {admitted.n} admitted"
    if not 0 <= row.cached_tokens <= row.prompt_tokens:
        yield f"{row.cached_tokens} cached of {row.prompt_tokens} prompt tokens"
    if not 0 <= row.reasoning_tokens <= row.completion_tokens:
        yield f"{row.reasoning_tokens} reasoning of {row.completion_tokens} completion tokens"
    if row.completion_tokens and row.first_token is None:
        yield "completion tokens without a first token"
    if row.outcome == "completed" and len(row.finish_reasons) != admitted.n:
        yield f"{len(row.finish_reasons)} finish reasons for {admitted.n} choices"


def _wrong_names(admitted: Admitted, row: Settled) -> Iterator[str]:
    for name in ("principal", "tenant", "route", "model", "adapter", "http_request_id"):
        if getattr(row, name) != getattr(admitted, name):
            yield f"settled for {name} {getattr(row, name)}, admitted for {getattr(admitted, name)}"


def _clients(book: _Book, clients: Sequence[Saw]) -> Iterator[Violation]:
    known = Counter(saw.request_id for saw in clients if saw.request_id is not None)
    for request_id, times in known.items():
        if times > 1:
            yield Violation("client", request_id, f"{times} clients claim this request")
    for saw in clients:
        wrong = _disagreement(saw, book.settlement(saw))
        if wrong is not None:
            yield Violation("client", saw.request_id, wrong)
    # A client that left before any answer may not know its request's id.
    strangers = sorted(book.ids - {book.request_id(saw) for saw in clients} - book.of_the_guard)
    nameless = sum(saw.request_id is None for saw in clients)
    for request_id in strangers[nameless:]:
        yield Violation("client", request_id, "in the ledger, but no client sent it")


def _disagreement(saw: Saw, row: Settled | None) -> str | None:
    """What is wrong between one client and its request's settlement."""
    if saw.ending in ("truncated", "malformed"):
        return f"the answer ended {saw.ending}"
    if row is None:
        return "answered, but not in the ledger" if saw.succeeded else None
    if saw.ending == "left":
        return None  # Whatever the gateway had done by then is true.
    expected = "completed" if saw.succeeded else "error"
    if row.outcome != expected:
        return f"the client saw {saw.ending}, the ledger says {row.outcome}"
    if saw.got_error and saw.code != row.code:
        return f"the client saw the error {saw.code}, the ledger says {row.code}"
    return None


def _usage(book: _Book, clients: Sequence[Saw]) -> Iterator[Violation]:
    for saw in clients:
        row = book.settlement(saw)
        for name in ("completion_tokens", "prompt_tokens", "cached_tokens"):
            told = getattr(saw, name)
            if row is not None and told is not None and told != getattr(row, name):
                detail = f"the client was told {told} {name}, the ledger says {getattr(row, name)}"
                yield Violation("usage", saw.request_id, detail)


def _accounts(book: _Book, evidence: Evidence) -> Iterator[Violation]:
    """Request by request: the ledger charges what the engine emitted, and only what it took."""
    accounts = evidence.engine.accounts
    if accounts is None:
        return
    emitted: Counter[str] = Counter()
    prompts: Counter[str] = Counter()
    cached: Counter[str] = Counter()
    taken = set()
    for engine_id, account in accounts.items():
        owner = evidence.owner(engine_id)
        taken.add(owner)
        emitted[owner] += account.emitted
        prompts[owner] += account.prompt_tokens
        cached[owner] += account.cached
    for request_id in taken - book.ids:
        yield Violation("engine", request_id, "the engine ran it, the ledger does not know it")
    for row in book.every_settlement():
        request_id = row.request_id
        if row.completion_tokens != emitted[request_id]:
            detail = f"charged {row.completion_tokens} completion tokens, the engine emitted {emitted[request_id]}"
            yield Violation("usage", request_id, detail)
        if row.cached_tokens != cached[request_id]:
            detail = f"charged {row.cached_tokens} cached tokens, the engine found {cached[request_id]}"
            yield Violation("usage", request_id, detail)
        # Of a batch that was cut short the engine may have seen only some of the prompts.
        whole = row.outcome == "completed" and row.dispatched is not None
        if prompts[request_id] > row.prompt_tokens or (whole and prompts[request_id] != row.prompt_tokens):
            detail = f"charged {row.prompt_tokens} prompt tokens, the engine took {prompts[request_id]}"
            yield Violation("usage", request_id, detail)


def _counters(book: _Book, engine: EngineEvidence) -> Iterator[Violation]:
    """In sum, for an engine that only counts. What was cut short it may have counted or not."""
    rows = list(book.every_settlement())
    open_ended = sum(admitted.n for admitted, settled in book.pairs() if settled.outcome != "completed")
    # What a guard cut short ended for its caller, and in the engine perhaps otherwise.
    open_ended += sum(row.finish_reasons.count("content_filter") for row in rows)
    if engine.finished is not None:
        charged = Counter(reason for row in rows for reason in row.finish_reasons)
        for reason in ("stop", "length"):
            counted = engine.finished.get(reason, 0)
            if not charged[reason] <= counted <= charged[reason] + open_ended:
                yield Violation("engine", None, f"ledger: {charged[reason]} ended by {reason}, engine: {counted}")
    if engine.generation_tokens is not None:
        total = sum(row.completion_tokens for row in rows)
        exact = open_ended == 0
        if engine.generation_tokens < total or (exact and engine.generation_tokens != total):
            yield Violation("usage", None, f"ledger: {total} completion tokens, engine: {engine.generation_tokens}")
    whole = [row for row in rows if row.outcome == "completed"]
    for name, count in (("prompt_tokens", engine.prompt_tokens), ("cached_tokens", engine.cached_tokens)):
        if count is None:
            continue
        least = sum(getattr(row, name) for row in whole)
        # Of a prompt that was cut short the engine may have found any part in its cache.
        most = sum(row.prompt_tokens if row.outcome != "completed" else getattr(row, name) for row in rows)
        if not least <= count <= most:
            yield Violation("usage", None, f"ledger: {least} to {most} {name}, engine: {count}")


#: The columns of the database that repeat the ledger.
_REPEATED: Final = (
    "http_request_id",
    "received",
    "tenant",
    "principal",
    "route",
    "model",
    "adapter",
    "outcome",
    "code",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
)


def _stored(book: _Book, stored: Sequence[Mapping[str, Any]] | None) -> Iterator[Violation]:
    """The database holds what was settled: each once, to the token, and nothing else."""
    if stored is None:
        return
    times = Counter(row["request_id"] for row in stored)
    for request_id in book.settled.keys() | times.keys():
        expected = int(request_id in book.settled)
        if times[request_id] != expected:
            yield Violation("store", request_id, f"{times[request_id]} rows in the database, {expected} expected")
    for kept in stored:
        for row in book.settled.get(kept["request_id"], ())[:1]:
            expected_row = {name: getattr(row, name) for name in _REPEATED}
            expected_row |= {"day": usage_day(row.received), "ttft": row.first_token, "duration": row.ended}
            for name, value in expected_row.items():
                if kept[name] != value:
                    yield Violation("store", row.request_id, f"{name} is {kept[name]} in the database, not {value}")


def _canaries(evidence: Evidence) -> Iterator[Violation]:
    for saw in evidence.clients:
        foreign = saw.canaries_seen - {saw.canary}
        if foreign:
            yield Violation("canary", saw.request_id, f"saw {sorted(foreign)}, sent {saw.canary}")
        missing = evidence.echoes_canary and saw.succeeded and saw.canary and not saw.canaries_seen
        if missing:
            yield Violation("canary", saw.request_id, f"does not see its own {saw.canary}")
