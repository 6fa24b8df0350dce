"""How peers know each other: each message carries an HMAC under a key of the deployment secret, answers too."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable
from typing import Final

PURPOSE: Final = "sluice/peers/v1"
HEADER: Final = "x-sluice-seal"
#: How far clocks may differ, and how long a message that was overheard can be sent again.
WINDOW_SECONDS: Final = 60.0
_SEAL: Final = re.compile(r"v1 ([0-9]{1,12}) ([0-9a-f]{64}) ([0-9a-f]{64})")


class Seal:
    """Makes and checks seals under ``key``. ``clock`` is Unix seconds.

    A seal covers method, path, moment and a digest of the body, which it names: so it is checked before a body is read.
    That of an answer covers the request's seal and the answer's body: neither can be taken for another. Checks take the
    same time for every wrong seal.
    """

    def __init__(self, key: bytes, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._clock = clock

    def of_request(self, method: str, path: str, body: bytes) -> str:
        """The header's value for a request."""
        moment, digest = str(int(self._clock())), _digest(body)
        return f"v1 {moment} {digest} {self._mac('request', method, path, moment, digest)}"

    def is_of_request(self, seal: str, method: str, path: str) -> bool:
        """Whether a peer has just sent a request, with the body that ``seal`` names (see :meth:`holds`)."""
        match = _SEAL.fullmatch(seal)
        if match is None:
            return False
        right = self._mac("request", method, path, match[1], match[2])
        fresh = abs(self._clock() - int(match[1])) <= WINDOW_SECONDS
        return hmac.compare_digest(right, match[3]) and fresh

    @staticmethod
    def holds(seal: str, body: bytes) -> bool:
        """Whether ``body`` is the one that a ``seal`` of a request names."""
        match = _SEAL.fullmatch(seal)
        return match is not None and hmac.compare_digest(_digest(body), match[2])

    def of_answer(self, request_seal: str, body: bytes) -> str:
        """The header's value for the answer to the request with ``request_seal``."""
        return self._mac("answer", request_seal, _digest(body))

    def is_of_answer(self, seal: str | None, request_seal: str, body: bytes) -> bool:
        """Whether a peer answers this to the request with ``request_seal``."""
        right = self.of_answer(request_seal, body)
        return hmac.compare_digest(right.encode(), (seal or "").encode("utf-8", "replace"))

    def _mac(self, *parts: str) -> str:
        return hmac.new(self._key, "\n".join(parts).encode(), hashlib.sha256).hexdigest()


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
