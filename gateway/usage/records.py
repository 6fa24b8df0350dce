"""The two rows of every admitted request, and how a ledger file is read back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Literal

import msgspec

from gateway.access.principal import DEFAULT_TENANT

Outcome = Literal["completed", "cancelled", "error"]


class Admitted(msgspec.Struct, frozen=True, tag="admitted", tag_field="event", gc=False):
    """The request may run: everything it may cost is known. ``ts`` is Unix seconds.

    ``prompt_tokens`` is the sum over its prompts; ``max_tokens`` is per choice and ``n`` the number of choices it may
    produce over all its prompts, so it can cost at most ``max_tokens * n`` completion tokens. ``request_id`` is unique
    in the ledger; ``http_request_id`` is the ``X-Request-Id`` of the answer and the access log, which a client may
    choose and repeat. ``arm``: of which public name it came, and which version of it.
    """

    request_id: str
    ts: float
    principal: str
    route: str
    model: str
    prompt_tokens: int
    max_tokens: int
    n: int
    http_request_id: str | None = None
    tenant: str = DEFAULT_TENANT
    adapter: str | None = None
    arm: str | None = None


class Settled(msgspec.Struct, frozen=True, tag="settled", tag_field="event"):
    """The request ended, exactly once. ``ts`` (at the end) and ``received`` are Unix seconds.

    ``admitted``, ``dispatched``, ``first_token`` and ``ended`` are seconds after ``received`` on the monotonic clock,
    None for a phase that was not reached. ``code`` is set for errors only. ``finish_reasons`` has one per choice of a
    completed request. ``cached_tokens`` are among ``prompt_tokens``, ``reasoning_tokens`` among ``completion_tokens``.
    Who, where and what are said again, so that this row alone is the bill; a row without them was written by an early
    version.
    """

    request_id: str
    ts: float
    outcome: Outcome
    code: str | None
    prompt_tokens: int
    completion_tokens: int
    received: float
    admitted: float
    dispatched: float | None
    first_token: float | None
    ended: float
    finish_reasons: tuple[str, ...] = ()
    principal: str = ""
    tenant: str = DEFAULT_TENANT
    route: str = ""
    model: str = ""
    adapter: str | None = None
    http_request_id: str | None = None
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    arm: str | None = None


Entry = Admitted | Settled

_decode = msgspec.json.Decoder(Entry).decode
_encode = msgspec.json.Encoder().encode


def encode_line(entry: Entry) -> bytes:
    """One line of JSON."""
    return _encode(entry) + b"\n"


def read_entries(path: Path, on_bad: Callable[[bytes], None] = lambda _line: None) -> Iterator[Entry]:
    """The rows of a ledger file in order; ``on_bad`` sees the lines that are not rows. Raises OSError."""
    with path.open("rb") as file:
        for line in file:
            try:
                yield _decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                on_bad(line)


def unsettled(paths: Iterable[Path]) -> list[Admitted]:
    """Requests that the files admit and never settle: what a killed process left, in order. Raises OSError."""
    left: dict[str, Admitted] = {}
    early: set[str] = set()
    for entry in chain.from_iterable(map(read_entries, paths)):
        if isinstance(entry, Settled):
            # Its admission may stand in an older file that is not read, or in one whose name a clock put out of order.
            if left.pop(entry.request_id, None) is None:
                early.add(entry.request_id)
        elif entry.request_id not in early:
            left[entry.request_id] = entry
    return list(left.values())
