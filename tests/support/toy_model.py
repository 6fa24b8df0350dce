"""A toy tokeniser and a toy model: what is said is a pure function of prompt, seed and choice."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from engine.types import (
    ChatMessage,
    Delta,
    FinishReason,
    GenerationRequest,
    Image,
    PositionLogprobs,
    TokenLogprob,
    UnknownToken,
)

EOS = 256
END_OF_TURN = 257
ROLES = {"system": 258, "developer": 259, "user": 260, "assistant": 261, "tool": 260}
_FIRST_WORD = 262
# Words that an encoder can get wrong: quotes, backslashes, line ends, other scripts, outside the BMP, SSE syntax.
_PLAIN = " the of and to in is that it was for on are as with his they at be this from have or by one had not but"
_HARD = (' "quoted"', " back\\slash", "\n", "\r\n", "\t", "\x7f", "\u2028", "\ndata: [DONE]\n\n")
_FOREIGN = (" caf\u00e9", " \u6771\u4eac", " \U0001f680")
_WORDS = (*(" " + word for word in _PLAIN.split()), *_HARD, *_FOREIGN)
VOCABULARY = _FIRST_WORD + len(_WORDS)
CANARY = re.compile(rb"canary-[0-9a-z]{8,32}")

_MASK = (1 << 64) - 1


_SPOKEN = tuple(bytes([byte]).decode("utf-8", "replace") for byte in range(EOS)) + ("",) * (_FIRST_WORD - EOS) + _WORDS


def encode(text: str) -> list[int]:
    """One token per UTF-8 byte."""
    return list(text.encode())


def decode(token_ids: Iterable[int]) -> str:
    """The inverse of :func:`encode`, also for what the model says. Special tokens have no text."""
    return b"".join(map(token_bytes, token_ids)).decode("utf-8", "replace")


def token_bytes(token_id: int) -> bytes:
    """The bytes of one token. Raises UnknownToken outside the vocabulary."""
    if not 0 <= token_id < VOCABULARY:
        raise UnknownToken(token_id, VOCABULARY)
    if token_id < EOS:
        return bytes([token_id])
    return b"" if token_id < _FIRST_WORD else _WORDS[token_id - _FIRST_WORD].encode()


def render(messages: Sequence[ChatMessage]) -> list[int]:
    """The chat template: a role token, the content as plain bytes, the end of the turn."""
    ids: list[int] = []
    for message in messages:
        pieces = (message.content,) if isinstance(message.content, str) else message.content
        ids += [ROLES[message.role], *encode("".join(map(_spelled, pieces))), END_OF_TURN]
    return [*ids, ROLES["assistant"]]


def _spelled(piece: str | Image) -> str:
    """A picture reads as its size and its first pixel."""
    if isinstance(piece, str):
        return piece
    return f"<{piece.width}x{piece.height} {piece.rgb[:3].hex()}>"


class Speaker:
    """Says the tokens of one choice: first the last canary in the prompt, then words, at last EOS.

    ``length`` is the number of tokens with EOS; None lets the prompt decide (24 to 87).
    """

    __slots__ = ("_echo", "_left", "_state")

    def __init__(
        self, prompt: Sequence[int], *, seed: int, index: int, length: int | None, eos: bool, adapter: str | None = None
    ) -> None:
        key = array("q", [*prompt, seed, index]).tobytes() + (adapter or "").encode()
        self._state = int.from_bytes(blake2b(key, digest_size=8).digest(), "little")
        self._echo = list(reversed(_last_canary(prompt)))
        self._left = (24 + self._state % 64 if length is None else length) if eos else -1

    def next(self) -> int:
        """The next token id."""
        self._left -= 1
        if self._left == 0:
            return EOS
        if self._echo:
            return self._echo.pop()
        # Knuth's MMIX generator: the high bits are good enough to choose words.
        self._state = (self._state * 6364136223846793005 + 1442695040888963407) & _MASK
        return _FIRST_WORD + (self._state >> 33) % len(_WORDS)


def _last_canary(prompt: Sequence[int]) -> bytes:
    found = CANARY.findall(bytes(token if token < EOS else 0x20 for token in prompt))
    return found[-1] if found else b""


def logprobs_of(token_id: int, alternatives: int) -> PositionLogprobs:
    """The chosen token, always ranked first, and as many neighbours in the vocabulary as asked for."""
    ids = [token_id, *((token_id + step) % VOCABULARY for step in range(1, alternatives))]
    top = tuple(_logprob(each, -0.25 * (rank + 1)) for rank, each in enumerate(ids))
    return PositionLogprobs(chosen=top[0], top=top)


def _logprob(token_id: int, logprob: float) -> TokenLogprob:
    raw = token_bytes(token_id)
    return TokenLogprob(raw.decode("utf-8", "replace"), logprob, raw)


class Choice:
    """One choice: its speaker, what it said, and what it holds back because a stop string may begin in it."""

    def __init__(self, request: GenerationRequest, index: int, length: int | None) -> None:
        sampling = request.sampling
        self.index = index
        self._speaker = Speaker(
            request.prompt.token_ids,
            seed=sampling.seed or 0,
            index=index,
            length=length,
            eos=not sampling.ignore_eos,
            adapter=request.adapter,
        )
        self._limit = sampling.max_tokens
        self._stop = sampling.stop
        self._held = max(map(len, sampling.stop), default=1) - 1
        self._alternatives = sampling.logprobs
        self._text = ""
        self._sent = 0
        self._tokens = 0
        self._positions: list[PositionLogprobs] = []

    def advance(self, tokens: int) -> Delta:
        """Up to ``tokens`` more, as a delta of the text that can be shown."""
        reason: FinishReason | None = None
        positions: list[PositionLogprobs] = []
        before = self._tokens
        while reason is None and self._tokens - before < tokens:
            token_id = self._speaker.next()
            self._tokens += 1
            if self._alternatives is not None:
                positions.append(logprobs_of(token_id, self._alternatives))
            reason = self._take(token_id)
        self._positions += positions
        text = self._shown(reason)
        return Delta(self.index, text, self._tokens - before, reason, tuple(positions) if positions else None)

    def final(self, last: Delta) -> Delta:
        """Everything as one delta."""
        positions = tuple(self._positions) if self._alternatives is not None else None
        return Delta(self.index, self._text, self._tokens, last.finish_reason, positions)

    def _take(self, token_id: int) -> FinishReason | None:
        self._text += _SPOKEN[token_id]
        if token_id == EOS or self._cut_at_stop():
            return "stop"
        return "length" if self._tokens >= self._limit else None

    def _cut_at_stop(self) -> bool:
        # A stop string that is complete now ends in the newest token, so the search may begin where none was before.
        if not self._stop:
            return False
        found = [at for stop in self._stop if (at := self._text.find(stop, self._sent)) >= 0]
        if found:
            self._text = self._text[: min(found)]
        return bool(found)

    def _shown(self, reason: FinishReason | None) -> str:
        end = len(self._text) if reason is not None else max(self._sent, len(self._text) - self._held)
        text, self._sent = self._text[self._sent : end], end
        return text
