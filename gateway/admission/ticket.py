"""What a request shows at the gate."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ticket:
    """``sequences`` will run at once on ``model``; ``tokens`` is the most they can cost.

    ``deadline`` is by the gate's clock.
    """

    request_id: str
    tenant: str
    weight: float
    sequences: int
    tokens: int
    deadline: float
    model: str = ""
