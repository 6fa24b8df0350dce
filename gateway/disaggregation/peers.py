"""What is known of the servers that compute prompts, and which of them is asked next."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from engine.types import TransferFacts


class Standing(enum.Enum):
    """Whether a peer can be asked, and if not, why.

    INCOMPATIBLE: none of our models is there with the same weights, dtype, block size and connector.
    """

    UNKNOWN = "unknown"
    USABLE = "usable"
    NOT_READY = "not_ready"
    UNREACHABLE = "unreachable"
    REFUSES = "refuses"
    OTHER_VERSION = "other_version"
    INCOMPATIBLE = "incompatible"


@dataclass(slots=True)
class Peer:
    """One server. ``queued_tokens`` is what it said last, ``asked_tokens`` are those of our prompts that it has now.

    ``last_asked`` orders peers of equal load: a counter of choices, not a time.
    """

    url: str
    standing: Standing = Standing.UNKNOWN
    queued_tokens: int = 0
    asked_tokens: int = 0
    last_asked: int = 0
    models: Mapping[str, TransferFacts] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its label in logs and metrics."""
        return urlsplit(self.url).netloc

    @property
    def load(self) -> int:
        """Prompt tokens that are before a new one, as far as we know."""
        return self.queued_tokens + self.asked_tokens

    def can(self, model: str, facts: TransferFacts) -> bool:
        """Whether a cache that it computes for ``model`` can be used by an engine of ``facts``."""
        return self.standing is Standing.USABLE and self.models.get(model) == facts


def least_loaded(
    peers: Iterable[Peer], model: str, facts: TransferFacts, excluded: Collection[Peer] = ()
) -> Peer | None:
    """The peer with the least before a new prompt, of equals the one that was asked longest ago. None: no one can."""
    able = [peer for peer in peers if peer.can(model, facts) and not any(peer is each for each in excluded)]
    return min(able, key=lambda peer: (peer.load, peer.last_asked), default=None)
