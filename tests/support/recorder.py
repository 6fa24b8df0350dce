"""What clients saw, one row per request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

ClientEnding = Literal["done", "body", "error_event", "error_response", "left", "truncated", "malformed"]
"""``done``: a stream's ``[DONE]``; ``body``: a whole 2xx body; ``left``: the client went away first; ``truncated``:
the server ended the connection with none of these; ``malformed``: something followed the end, or two ends."""


@dataclass(frozen=True, slots=True)
class Saw:
    """``request_id`` is the answer's ``X-Request-Id``, or the one sent if no answer came; None if neither is known.

    ``completion_tokens``, ``prompt_tokens`` and ``cached_tokens`` are what the usage in the answer said, None if there
    was none. ``canary`` was in the prompt;
    ``canaries_seen`` are all that were in the answer.
    """

    request_id: str | None
    status: int | None
    ending: ClientEnding
    code: str | None = None
    completion_tokens: int | None = None
    canary: str | None = None
    canaries_seen: frozenset[str] = frozenset()
    prompt_tokens: int | None = None
    cached_tokens: int | None = None

    @property
    def succeeded(self) -> bool:
        return self.ending in ("done", "body")

    @property
    def got_error(self) -> bool:
        return self.ending in ("error_event", "error_response")


@dataclass(slots=True)
class Recorder:
    """Collects rows of many clients on one loop."""

    rows: list[Saw] = field(default_factory=list)

    def add(self, row: Saw) -> None:
        self.rows.append(row)
