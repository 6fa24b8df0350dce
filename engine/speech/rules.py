"""What Whisper may write next when it writes timestamps: the rules that it was trained to be decoded with.

Without them it seldom cuts a window into segments. They run in the engine's process, as a logits processor of vLLM
(vllm/v1/sample/logits_processor, checked against 0.32.0). Source: openai/whisper, ``ApplyTimestampRules``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

_NEVER = -float("inf")


def confine(logits: torch.Tensor, written: list[int], first: int, end: int) -> torch.Tensor:
    """The ``logits`` of one request, with what may not follow ``written`` at minus infinity.

    ``written`` begins with a timestamp; ``first`` is the timestamp 0, above which all tokens are timestamps; ``end`` is
    the token that ends the text, below which all tokens are text. Timestamps come in pairs but for the first and the
    last one, never fall, and are written when all of them together are likelier than any text.
    """
    after_time = written[-1] >= first
    after_pair = after_time and (len(written) < 2 or written[-2] >= first)
    if after_pair:
        logits[first:] = _NEVER
    elif after_time:
        logits[:end] = _NEVER
    last = next(token for token in reversed(written) if token >= first)
    # The second of a pair may be the same as the first, what ends a segment must be later than its beginning.
    logits[first : last if after_time and not after_pair else last + 1] = _NEVER
    if not after_pair and torch.logsumexp(logits[first:], 0) > logits[:first].max():
        logits[:first] = _NEVER
    return logits


class TimestampRules(AdapterLogitsProcessor):  # type: ignore[misc]
    """Holds the requests whose prompt ends with the timestamp 0 to :func:`confine`."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        super().__init__(vllm_config, device, is_pin_memory)
        generation = vllm_config.model_config.try_get_generation_config()
        self._end: int = vllm_config.model_config.hf_config.eos_token_id
        # Whisper's vocabulary: the timestamps follow the token that switches them off.
        self._first: int = generation["no_timestamps_token_id"] + 1

    def is_argmax_invariant(self) -> bool:
        """See vLLM's ``LogitsProcessor``."""
        return False

    def new_req_logits_processor(self, params: Any) -> Callable[..., torch.Tensor]:  # noqa: ARG002 - the interface
        """See vLLM's ``AdapterLogitsProcessor``."""
        return self._confine

    def _confine(self, prompt: list[int], output: list[int], logits: torch.Tensor) -> torch.Tensor:
        if prompt[-1] != self._first:
            return logits
        return confine(logits, [self._first, *output], self._first, self._end)
