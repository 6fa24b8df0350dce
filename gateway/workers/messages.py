"""What parent and workers say to each other, over one pair of sockets per worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.metrics_core import Metric

from engine.attachment import Attachment, Question
from engine.types import EngineError
from gateway.engines import Served
from gateway.reload.reloader import Cause
from gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class Job:
    """To a new worker, first of all. ``late``: it joins others that serve already.

    ``settings``, of the whole, are those in force, which are the ``generation``-th.
    """

    settings: Settings
    generation: int
    served: Served
    index: int
    late: bool


@dataclass(frozen=True, slots=True)
class PlaceWanted:
    """From a worker that needs an engine. ``broken`` is the generation that it had and found dead."""

    broken: int | None


@dataclass(frozen=True, slots=True)
class Place:
    """A place at the engine of this generation: engines are numbered as they are started."""

    generation: int
    attachment: Attachment


@dataclass(frozen=True, slots=True)
class NoEngine:
    """There will be none."""

    reason: str


@dataclass(frozen=True, slots=True)
class EngineLost:
    """The engine of this generation and all before are gone."""

    generation: int


@dataclass(frozen=True, slots=True)
class Ready:
    """From a worker that serves."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Drain; ``now``: do not wait for running requests."""

    now: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """From a worker: a question on adapters."""

    number: int
    question: Question


@dataclass(frozen=True, slots=True)
class Answered:
    """To the worker that asked: all that it asks is numbered in one row. ``error`` instead of an answer."""

    number: int
    answer: Any
    error: EngineError | None = None


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """From a worker: it waits for these no more, and gives back what it was given for them."""

    numbers: Sequence[int]


@dataclass(frozen=True, slots=True)
class Order:
    """From a worker: every other one that serves is to do this. Answered with what they answer."""

    number: int
    act: object


@dataclass(frozen=True, slots=True)
class Told:
    """To the others."""

    order: int
    act: object


@dataclass(frozen=True, slots=True)
class Done:
    """From one of them; ``answer`` is what came of it."""

    order: int
    answer: object


@dataclass(frozen=True, slots=True)
class Counted:
    """What one worker has counted. ``told_at``: when its engine last spoke to it, by the machine's monotonic clock."""

    families: Sequence[Metric]
    told_at: float


@dataclass(frozen=True, slots=True)
class CountsWanted:
    """To every worker when one of them is scraped."""

    scrape: int


@dataclass(frozen=True, slots=True)
class Counts:
    """The answer to :class:`CountsWanted`."""

    scrape: int
    counted: Counted


@dataclass(frozen=True, slots=True)
class SumWanted:
    """From a worker that is scraped. Answered with the text of everything that all workers have counted."""

    number: int


@dataclass(frozen=True, slots=True)
class ReloadWanted:
    """From a worker: the settings are to be read anew, for all. Answered with what comes of it: an
    :class:`gateway.reload.reloader.Outcome`, a :class:`Refused`, or None if it went wrong otherwise.
    """

    number: int
    cause: Cause


@dataclass(frozen=True, slots=True)
class Refused:
    """The settings cannot be used: see :class:`gateway.reload.reloader.InvalidConfig`."""

    path: str | None
    reason: str
