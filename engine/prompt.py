"""Text -> tokens: chat template, special tokens kept out of contents, size bounds before the tokeniser.

Everything here blocks and runs on the runtime's render threads, save for conversations that :meth:`is_quick` finds
cheaper to do at once.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tokenizers import Tokenizer
from vllm.exceptions import VLLMValidationError
from vllm.renderers.hf import ChatTemplateResolutionError, safe_apply_chat_template

from engine.types import ChatMessage, Conversation, Prompt, PromptTooLong, RequestRejected, UnknownToken

#: A conversation this small may be rendered on the event loop, where the hop to a thread would cost twice the work ...
INLINE_BYTES = 1024
#: ... but only with a template and tokeniser that were seen to take one of that size within this many seconds.
INLINE_SECONDS = 0.0005


class PromptBuilder:
    """Renders and tokenises for one model. ``context_length`` in tokens."""

    def __init__(self, tokenizer: Any, model_config: Any, context_length: int) -> None:
        self._tokenizer = tokenizer
        self._encoder = _encoder(tokenizer)
        self._model_config = model_config
        self._context_length = context_length
        self._vocab_size: int = model_config.get_vocab_size()
        self._max_token_bytes = _longest_token(tokenizer)
        specials = sorted(_special_tokens(tokenizer), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, specials))) if specials else None

        self._quick = self._takes_at_most(INLINE_SECONDS, ChatMessage("user", "word " * (INLINE_BYTES // 5)))

    def is_quick(self, conversation: Conversation) -> bool:
        """Whether rendering it takes less time than handing it to a thread."""
        messages = conversation.messages
        return self._quick and sum(len(message.content) for message in messages) + 64 * len(messages) <= INLINE_BYTES

    def _takes_at_most(self, seconds: float, message: ChatMessage) -> bool:
        """The best of some tries: the first compiles the template, and a busy machine interrupts others."""
        try:
            return min(_timed(lambda: self.chat(Conversation([message]))) for _ in range(5)) <= seconds
        except RequestRejected:
            return False  # a model without a chat template, or with a tiny context

    def chat(self, conversation: Conversation) -> Prompt:
        """Apply the chat template and tokenise.

        A special token spelled out in a content must stay text. So it is swapped for a mark that cannot be
        guessed, the template is rendered, and the text is tokenised around the marks; the spelled-out token
        itself is encoded as ordinary text. Contents without special tokens are tokenised in one piece with the
        template, exactly as the model was trained.
        """
        messages = conversation.messages
        self._check_size(sum(len(_text(message).encode()) for message in messages))
        hidden: list[str] = []
        mark = f"\ue000{secrets.token_hex(8)}\ue001"
        text = self._render([self._conversation_entry(message, hidden, mark) for message in messages])
        if not hidden:
            return Prompt(self._encode(text))
        return Prompt(self._encode_around(text.split(mark), hidden))

    def plain(self, text: str, keep_text: bool, *, add_special_tokens: bool = True) -> Prompt:
        """Tokenise a raw prompt; special tokens in it are the caller's own wish."""
        self._check_size(len(text.encode()))
        ids = self._encoder.encode(text, add_special_tokens=add_special_tokens)
        return Prompt(ids, text if keep_text else None)

    def check_ids(self, token_ids: Sequence[int]) -> None:
        """Refuse ids that the model has no embedding for."""
        worst = max(token_ids, default=0)
        if worst >= self._vocab_size:
            raise UnknownToken(worst, self._vocab_size)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ids, special tokens spelled out."""
        self.check_ids(token_ids)
        return str(self._tokenizer.decode(list(token_ids)))

    def strings(self, token_ids: Sequence[int]) -> list[str]:
        """Each id as the tokeniser spells it: word boundaries and bytes by its own marks."""
        self.check_ids(token_ids)
        return [piece or "" for piece in self._tokenizer.convert_ids_to_tokens(list(token_ids))]

    def _check_size(self, size: int) -> None:
        """Refuse by size alone what cannot fit, however well it tokenises: the tokeniser's time stays bounded."""
        least = size // self._max_token_bytes
        if least > self._context_length:
            raise PromptTooLong(prompt_tokens=least, limit=self._context_length, exact=False)

    def _conversation_entry(self, message: ChatMessage, hidden: list[str], mark: str) -> dict[str, str]:
        content = _text(message)
        if self._special is not None and self._special.search(content):

            def hide(match: re.Match[str]) -> str:
                hidden.append(match[0])
                return mark

            content = self._special.sub(hide, content)
        entry = {"role": message.role, "content": content}
        if message.name is not None:
            entry["name"] = self._special.sub("", message.name) if self._special else message.name
        return entry

    def _render(self, conversation: list[dict[str, str]]) -> str:
        try:
            return str(
                safe_apply_chat_template(
                    self._model_config,
                    self._tokenizer,
                    conversation,
                    tokenize=False,
                    add_generation_prompt=True,
                )
            )
        except VLLMValidationError as error:
            message = f"The model's chat template refused the messages: {error}"
            raise RequestRejected(message, param="messages") from error
        except ChatTemplateResolutionError as error:
            message = "This model has no chat template. Use /v1/completions, or give the model a chat template."
            raise RequestRejected(message, param="model") from error

    def _encode(self, text: str) -> list[int]:
        return self._encoder.encode(text, add_special_tokens=False)

    def _encode_around(self, pieces: list[str], hidden: list[str]) -> list[int]:
        if len(pieces) != len(hidden) + 1:
            raise RequestRejected(
                "The messages spell out control tokens, which this model's chat template cannot carry as text.",
                param="messages",
            )
        ids = self._encode(pieces[0]) if pieces[0] else []
        for spelled, piece in zip(hidden, pieces[1:], strict=True):
            ids += self._encoder.encode_as_text(spelled)
            ids += self._encode(piece) if piece else []
        return ids


def _text(message: ChatMessage) -> str:
    if not isinstance(message.content, str):
        raise RequestRejected("This model takes text only.", param="messages", code="unsupported_modality")
    return message.content


class _Encoder(Protocol):
    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def encode_as_text(self, text: str) -> list[int]: ...


class _FastEncoder:
    """Straight to the Rust tokeniser: releases the GIL and skips transformers' wrapper.

    Encoding specials as text is a mode of the whole tokeniser, so that mode has a copy of its own: threads that
    share one would switch it under each other.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = _bare_copy(backend)
        self._as_text = _bare_copy(backend)
        self._as_text.encode_special_tokens = True

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=add_special_tokens).ids)

    def encode_as_text(self, text: str) -> list[int]:
        return list(self._as_text.encode(text, add_special_tokens=False).ids)


class _SlowEncoder:
    """For tokenisers without a Rust backend; they are not thread-safe."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        with self._lock:
            return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens))

    def encode_as_text(self, text: str) -> list[int]:
        with self._lock:
            return list(self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def _encoder(tokenizer: Any) -> _Encoder:
    backend = getattr(tokenizer, "_tokenizer", None)
    return _FastEncoder(backend) if isinstance(backend, Tokenizer) else _SlowEncoder(tokenizer)


def _bare_copy(backend: Tokenizer) -> Tokenizer:
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _special_tokens(tokenizer: Any) -> set[str]:
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return added | set(tokenizer.all_special_tokens)


def _longest_token(tokenizer: Any) -> int:
    """Bytes of the longest token; a normaliser that shrinks text can at most halve it (NFC composition)."""
    longest = max((len(piece.encode()) for piece in tokenizer.get_vocab()), default=1)
    return 2 * longest
