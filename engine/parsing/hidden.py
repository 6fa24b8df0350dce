"""Special tokens that callers spell out stay text: they are hidden behind marks while a template is rendered."""

from __future__ import annotations

import re
import secrets
from typing import Any

from engine.types import RequestRejected


class Hiding:
    """One rendering. Every spelled-out token gets a mark of its own, so a template may move, repeat or drop texts."""

    def __init__(self, special: re.Pattern[str] | None) -> None:
        self._special = special
        # Letters and digits only: no template escapes or trims them, and nobody can guess them.
        self._nonce = f"q{secrets.token_hex(12)}q"
        self._hidden: list[str] = []

    def hide(self, value: Any) -> Any:
        """``value`` with marks in all its strings, keys too."""
        if self._special is None:
            return value
        if isinstance(value, str):
            return self._special.sub(self._mark, value)
        if isinstance(value, dict):
            return {self.hide(key): self.hide(member) for key, member in value.items()}
        if isinstance(value, list):
            return [self.hide(each) for each in value]
        return value

    def _mark(self, match: re.Match[str]) -> str:
        self._hidden.append(match[0])
        return f"{self._nonce}{len(self._hidden) - 1}z"

    def pieces(self, text: str) -> list[str]:
        """``text`` cut at its marks: template text and spelled-out tokens in turn, beginning with template text.

        Raises :class:`RequestRejected` if the template has changed a mark.
        """
        if not self._hidden:
            return [text]
        cut = re.split(f"{self._nonce}([0-9]+)z", text)
        if any(self._nonce.lower() in piece.lower() for piece in cut[::2]):
            raise RequestRejected(
                "The messages spell out control tokens, which this model's chat template cannot carry as text.",
                param="messages",
            )
        return [self._hidden[int(piece)] if index % 2 else piece for index, piece in enumerate(cut)]
