"""Which arm somebody is in: the same one again and again, and unknowable to who has not the salt.

Weighted rendezvous hashing (Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005): every arm draws a
number from the hash of salt, person and arm, scaled by its weight; the smallest wins. A person moves only if an arm
that gained weight now wins, or theirs lost some: whoever is in a canary of 5 % stays in it at 25 %.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Sequence
from typing import Final

_STEPS: Final = 1 << 64


def pick(salt: bytes, person: str, arms: Sequence[tuple[int, float]]) -> int:
    """The arm of ``person`` among ``arms``, each a number and a weight of 0 or more, not all 0."""
    return min((_draw(salt, person, number) / weight, number) for number, weight in arms if weight > 0)[1]


def _draw(salt: bytes, person: str, number: int) -> float:
    """Exponentially distributed: -ln of a uniform number in (0, 1)."""
    digest = hmac.digest(salt, f"{number}\0{person}".encode("utf-8", "replace"), "sha256")
    return -math.log((int.from_bytes(digest[:8], "big") + 0.5) / _STEPS)
