"""A public name and all that belongs to it, as plain values. One name is one document: it is changed as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

Stage = Literal["draft", "active", "retired", "failed"]
"""``failed``: a canary or an operator rolled it back; it gets no traffic until somebody resets it to ``draft``."""

StickTo = Literal["user", "key", "request"]
"""What decides the arm: the end user that a request names (else its key), the key alone, or every request by itself."""

MAX_VERSIONS: Final = 100
MAX_NAMES: Final = 256
MAX_HISTORY: Final = 50


class Version(msgspec.Struct, frozen=True):
    """What a name may stand for: ``model``, or that with ``adapter``. ``sha256`` is of the adapter's content, as it was
    when the version was made. ``reason``: why it failed. Times are Unix seconds.
    """

    number: int
    model: str
    adapter: str | None = None
    sha256: str | None = None
    stage: Stage = "draft"
    metadata: dict[str, str] = {}
    created_at: float = 0.0
    created_by: str = ""
    reason: str | None = None

    @property
    def target(self) -> str:
        """Its full name on the wire."""
        return self.model if self.adapter is None else f"{self.model}:{self.adapter}"


class Weighted(msgspec.Struct, frozen=True):
    """A version's part of the traffic, relative to the other parts."""

    version: int
    weight: float


class Split(msgspec.Struct, frozen=True):
    """Traffic divided between versions, until somebody ends it."""

    arms: tuple[Weighted, ...]
    stick_to: StickTo = "user"


class Rules(msgspec.Struct, frozen=True):
    """When a canary goes on, and when it goes back. ``steps`` are its shares in percent, rising.

    ``max_latency_ratio``: of its median request to that of the active version; None: latencies are not compared.
    """

    steps: tuple[float, ...]
    min_requests: int
    min_seconds: float
    min_success_rate: float
    max_latency_ratio: float | None = None


class Canary(msgspec.Struct, frozen=True):
    """``version`` on its way to replace the active one. Every step has an ``epoch`` of its own, which outcomes are
    counted by; ``since`` is when it began (Unix seconds). ``champion_seconds``: what the active version's median
    request took in the step before.
    """

    version: int
    rules: Rules
    epoch: int
    since: float
    step: int = 0
    stick_to: StickTo = "user"
    champion_seconds: float | None = None

    @property
    def share(self) -> float:
        """Its part of the traffic now, of 1."""
        return self.rules.steps[self.step] / 100


class Shadow(msgspec.Struct, frozen=True):
    """``version`` is asked ``percent`` of what is asked of the others too, and nobody sees what it answers."""

    version: int
    percent: float


class Name(msgspec.Struct, frozen=True):
    """``active`` is the version that answers; ``history`` are those that did before it, the last one last.
    At most one of ``split`` and ``canary`` divides the traffic; ``epoch`` is the last that a canary was given.
    ``salt`` (hex) is this name's own: who is in an arm of one name says nothing of another. ``last`` is the highest
    number that was given, so that none is given twice.
    """

    name: str
    salt: str
    versions: tuple[Version, ...] = ()
    last: int = 0
    active: int | None = None
    history: tuple[int, ...] = ()
    split: Split | None = None
    canary: Canary | None = None
    shadow: Shadow | None = None
    epoch: int = 0
    created_at: float = 0.0
    created_by: str = ""

    def version(self, number: int) -> Version | None:
        """The version of that number."""
        return next((each for each in self.versions if each.number == number), None)

    def shares(self) -> Sequence[tuple[Version, float]]:
        """The versions that answer, each with its weight; one alone needs no choice."""
        if self.split is not None:
            return self._found([(arm.version, arm.weight) for arm in self.split.arms])
        active = [] if self.active is None else [(self.active, 1.0)]
        if self.canary is not None:
            share = self.canary.share
            active = [(number, 1.0 - share) for number, _ in active] + [(self.canary.version, share)]
        return self._found(active)

    @property
    def stick_to(self) -> StickTo:
        """What decides who is in which arm."""
        divided = self.split or self.canary
        return "user" if divided is None else divided.stick_to

    def _found(self, shares: Sequence[tuple[int, float]]) -> Sequence[tuple[Version, float]]:
        found = [(self.version(number), weight) for number, weight in shares if weight > 0]
        return [(version, weight) for version, weight in found if version is not None]


def arm_id(name: str, number: int) -> str:
    """What an arm is called wherever it is seen: header, log, metrics, ledger."""
    return f"{name}@{number}"


def split_id(text: str) -> tuple[str, int | None]:
    """The reverse of :func:`arm_id`; a plain name has no number."""
    name, at, number = text.partition("@")
    return (name, int(number)) if at and number.isascii() and number.isdigit() and len(number) < 10 else (text, None)
