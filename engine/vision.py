"""Pictures for one model: what stands for them in a prompt, and what the model is given of them.

Fence around vLLM's multimodal renderer (vllm/renderers/base.py, ``_process_multimodal`` and its executor, checked
against 0.32.0). What callers say about their pictures (hashes, processor options) never gets here.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image as Pillow
from vllm.inputs.engine import MultiModalInput, TokensInput, mm_input, tokens_input
from vllm.model_executor.model_loader import get_model_cls

from engine.types import ChatMessage, EngineUnavailable, Image, Prompt, RequestRejected

log = logging.getLogger("sluice.engine")


class Vision:
    """Of a model that sees; :meth:`of` makes it. ``limit``: pictures in one prompt."""

    def __init__(self, llm: Any, limit: int) -> None:
        self.limit = limit
        self._renderer = llm.renderer
        self._model = get_model_cls(llm.model_config)
        self._largest: int = llm.input_processor.mm_encoder_cache_size
        self._special = _special_ids(llm.get_tokenizer())

    @classmethod
    def of(cls, llm: Any) -> Vision | None:
        """None for a model that takes no pictures."""
        processor = llm.renderer.mm_processor
        limit = 0 if processor is None else processor.info.allowed_mm_limits.get("image", 0)
        return cls(llm, limit) if limit else None

    def placeholder(self, number: int) -> str:
        """What stands for the picture of that number, from 1, in a template that takes texts."""
        return str(self._model.get_placeholder_str("image", number) or "")

    async def see(self, prompt: Prompt, images: Sequence[Image]) -> Prompt:
        """``prompt`` with as many tokens in the places of ``images`` as the model reads there: exact from here on.

        Raises :class:`RequestRejected` for pictures that the model cannot take.
        """
        if len(images) > self.limit:
            message = f"This model takes at most {self.limit} images in one request, but got {len(images)}."
            raise RequestRejected(message, param="messages", code="too_many_images")
        try:
            # The processor is not thread-safe: this thread is its own.
            work = self._renderer._mm_executor.submit(self._process, prompt, images)
        except RuntimeError as error:
            raise EngineUnavailable("the engine is stopping") from error
        try:
            found = await asyncio.wrap_future(work)
        except RequestRejected:
            raise
        except Exception as error:
            log.warning("the model's processor refused an image: %s: %s", type(error).__name__, error)
            raise _refused("This model cannot take one of the images.") from error
        return Prompt(found["prompt_token_ids"], prompt.text, found)

    def _process(self, prompt: Prompt, images: Sequence[Image]) -> MultiModalInput:
        pictures = [Pillow.frombytes("RGB", (image.width, image.height), image.rgb) for image in images]
        found: MultiModalInput = self._renderer._process_multimodal(
            list(prompt.token_ids), {"image": pictures}, None, None, skip_mm_cache=True
        )
        self._check(prompt, found, len(images))
        return found

    def _check(self, prompt: Prompt, found: MultiModalInput, images: int) -> None:
        places = found["mm_placeholders"].get("image", ())
        if len(places) != images:
            raise _refused("The chat template of this model has no place for some of the images.")
        if any(place.get_num_embeds() > self._largest for place in places):
            raise _refused("One of the images takes more tokens than this model's encoder holds.", "image_too_large")
        # Where a model's placeholder is not one token, vLLM replaces it in the decoded text: what a caller has spelled
        # out would be tokenised anew, control tokens and all.
        outside = Counter(each for each in _outside(found) if each in self._special)
        if outside - Counter(prompt.token_ids):
            raise _refused("The messages spell out control tokens, which this model cannot carry beside images.")


def engine_input(prompt: Prompt, cache_salt: str | None) -> TokensInput | MultiModalInput:
    """``prompt`` as vLLM takes it. Requests of different ``cache_salt`` share no picture in any cache."""
    ids = list(prompt.token_ids)
    if prompt.media is None:
        return tokens_input(ids, cache_salt=cache_salt)
    found: Any = prompt.media
    hashes = {kind: [_salted(each, cache_salt) for each in all_of] for kind, all_of in found["mm_hashes"].items()}
    return mm_input(ids, found["mm_kwargs"], hashes, found["mm_placeholders"], cache_salt=cache_salt)


def images_of(messages: Sequence[ChatMessage]) -> list[Image]:
    """Every picture in ``messages``, in order."""
    return [
        piece for message in messages if not isinstance(message.content, str) for piece in message.content
        if isinstance(piece, Image)
    ]  # fmt: skip


def _salted(content: str, salt: str | None) -> str:
    return content if salt is None else hashlib.sha256(f"{salt}\0{content}".encode()).hexdigest()


def _outside(found: MultiModalInput) -> Iterator[int]:
    """The token ids that stand for no picture."""
    ids, start = found["prompt_token_ids"], 0
    for place in sorted(found["mm_placeholders"].get("image", ()), key=lambda place: place.offset):
        yield from ids[start : place.offset]
        start = place.offset + place.length
    yield from ids[start:]


def _special_ids(tokenizer: Any) -> frozenset[int]:
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added | set(tokenizer.all_special_ids))


def _refused(message: str, code: str = "invalid_image") -> RequestRejected:
    return RequestRejected(message, param="messages", code=code)
