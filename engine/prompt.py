"""Text -> tokens: chat template, special tokens kept out of contents, size bounds before the tokeniser.

Everything here blocks and runs on the runtime's render threads, save for conversations that :meth:`is_quick` finds
cheaper to do at once.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from tokenizers import Tokenizer
from vllm.exceptions import VLLMValidationError
from vllm.renderers.hf import (
    ChatTemplateResolutionError,
    resolve_chat_template_content_format,
    safe_apply_chat_template,
)

from engine.parsing.hidden import Hiding
from engine.parsing.template import (
    described,
    effort_variables,
    in_parts,
    in_texts,
    native_entries,
    plain_entries,
    shown_tools,
)
from engine.types import ChatMessage, Conversation, Prompt, PromptTooLong, RequestRejected, UnknownToken
from engine.vision import images_of

#: A conversation this small may be rendered on the event loop, where the hop to a thread would cost twice the work ...
INLINE_BYTES = 1024
#: ... but only with a template and tokeniser that were seen to take one of that size within this many CPU seconds.
INLINE_SECONDS = 0.001


class PromptBuilder:
    """Renders and tokenises for one model. ``context_length`` in tokens.

    ``reasons``: the model thinks before it answers. ``renders_tools``: its chat template shows it declared tools.
    ``placeholder``: what stands for a picture in templates that take texts; None: the model takes no pictures.
    """

    def __init__(
        self,
        tokenizer: Any,
        model_config: Any,
        context_length: int,
        *,
        reasons: bool = False,
        placeholder: Callable[[int], str] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._encoder = _encoder(tokenizer)
        self._model_config = model_config
        self._context_length = context_length
        self._vocab_size: int = model_config.get_vocab_size()
        self._max_token_bytes = _longest_token(tokenizer)
        specials = sorted(_special_tokens(tokenizer), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, specials))) if specials else None
        self._reasons = reasons
        self._placeholder = placeholder
        self._in_parts = _takes_parts(tokenizer, model_config)
        self.chat_template = chat_template(tokenizer)
        self.renders_tools = self._knows_tools()
        self._quick = self._takes_at_most(INLINE_SECONDS, ChatMessage("user", "word " * (INLINE_BYTES // 5)))

    def is_quick(self, conversation: Conversation) -> bool:
        """Whether rendering it takes less time than handing it to a thread."""
        messages = conversation.messages
        if not self._quick or conversation.tools is not None or _speaks_of_tools(messages):
            return False
        if not all(isinstance(message.content, str) for message in messages):
            return False
        return sum(len(message.content) for message in messages) + 64 * len(messages) <= INLINE_BYTES

    def _takes_at_most(self, seconds: float, message: ChatMessage) -> bool:
        """The best of some tries: the first compiles the template, and a start keeps every core busy."""
        try:
            return any(cpu_seconds(lambda: self.chat(Conversation([message]))) <= seconds for _ in range(10))
        except RequestRejected:
            return False  # a model without a chat template, or with a tiny context

    def chat(self, conversation: Conversation) -> Prompt:
        """Apply the chat template and tokenise.

        A special token spelled out by the caller, in contents as well as in tools, calls and results, must stay text.
        So it is swapped for a mark that cannot be guessed, the template is rendered, and the text is tokenised around
        the marks; the spelled-out token itself is encoded as ordinary text. Texts without special tokens are
        tokenised in one piece with the template, exactly as the model was trained.
        """
        if self._placeholder is None and images_of(conversation.messages):
            raise RequestRejected("This model takes text only.", param="messages", code="unsupported_modality")
        variables = effort_variables(self.chat_template, conversation.effort, reasons=self._reasons)
        entries, tools = self._entries(conversation), self._native_tools(conversation)
        self._check_size(_size(entries) + _size(tools))
        hiding = Hiding(self._special)
        # Roles are ours; members of that name inside of arguments are not.
        hidden = [{**hiding.hide(entry), "role": entry["role"]} for entry in entries]
        text = self._render(hidden, hiding.hide(tools), variables)
        return Prompt(self._encode_pieces(hiding.pieces(text)))

    def plain(self, text: str, keep_text: bool, *, add_special_tokens: bool = True) -> Prompt:
        """Tokenise a raw prompt; special tokens in it are the caller's own wish."""
        self._check_size(len(text.encode()))
        ids = self._encoder.encode(text, add_special_tokens=add_special_tokens)
        return Prompt(ids, text if keep_text else None)

    def plain_all(self, texts: Sequence[str]) -> list[Prompt]:
        """:meth:`plain` for many texts in one go."""
        for text in texts:
            self._check_size(len(text.encode()))
        return [Prompt(ids) for ids in self._encoder.encode_all(texts)]

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> list[Prompt]:
        """Each pair of texts as one prompt, joined as the tokeniser joins two sequences."""
        for first, second in pairs:
            self._check_size(len(first.encode()) + len(second.encode()))
        return [Prompt(ids, second_from=second_from) for ids, second_from in map(self._encoder.encode_pair, pairs)]

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

    def _entries(self, conversation: Conversation) -> list[dict[str, Any]]:
        messages, use = conversation.messages, shown_tools(conversation)
        if self.renders_tools or (use is None and not _speaks_of_tools(messages)):
            return native_entries(messages)
        return plain_entries(messages, use)

    def _native_tools(self, conversation: Conversation) -> list[dict[str, Any]] | None:
        use = shown_tools(conversation)
        if use is None or not self.renders_tools:
            return None
        return [{"type": "function", "function": described(tool)} for tool in use.tools]

    def _knows_tools(self) -> bool:
        """Whether the template renders tools: it is given one and must show its name."""
        probe = {"type": "function", "function": {"name": "probe_tool", "description": "x", "parameters": {}}}
        try:
            return "probe_tool" in self._render([{"role": "user", "content": "x"}], [probe], {})
        except RequestRejected:
            return False

    def _render(
        self, entries: list[dict[str, Any]], tools: list[dict[str, Any]] | None, variables: dict[str, Any]
    ) -> str:
        try:
            return str(
                safe_apply_chat_template(
                    self._model_config,
                    self._tokenizer,
                    cast(Any, self._laid_out(entries)),
                    tools=tools,
                    tokenize=False,
                    add_generation_prompt=True,
                    **variables,
                )
            )
        except VLLMValidationError as error:
            message = f"The model's chat template refused the messages: {error}"
            raise RequestRejected(message, param="messages") from error
        except ChatTemplateResolutionError as error:
            message = "This model has no chat template. Use /v1/completions, or give the model a chat template."
            raise RequestRejected(message, param="model") from error

    def _laid_out(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """As the template takes contents. Placeholders get in here, after what callers spelled out was hidden."""
        return in_parts(entries) if self._in_parts else in_texts(entries, self._placeholder or _nothing)

    def _encode(self, text: str) -> list[int]:
        return self._encoder.encode(text, add_special_tokens=False)

    def _encode_pieces(self, pieces: list[str]) -> list[int]:
        """Template text and spelled-out tokens in turn; the latter as ordinary text."""
        ids: list[int] = []
        for index, piece in enumerate(pieces):
            if index % 2:
                ids += self._encoder.encode_as_text(piece)
            elif piece:
                ids += self._encode(piece)
        return ids


def _speaks_of_tools(messages: Sequence[ChatMessage]) -> bool:
    return any(message.tool_calls or message.role == "tool" for message in messages)


def _size(value: object) -> int:
    """Bytes of all the strings in ``value``."""
    match value:
        case str():
            return len(value.encode())
        case dict():
            return sum(_size(key) + _size(member) for key, member in value.items())
        case list():
            return sum(map(_size, value))
        case _:
            return 0


class _Encoder(Protocol):
    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def encode_as_text(self, text: str) -> list[int]: ...

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]: ...

    def encode_pair(self, pair: tuple[str, str]) -> tuple[list[int], int | None]:
        """The ids of both texts together, and where the second begins if the tokeniser says so."""


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

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(each.ids) for each in self._backend.encode_batch(list(texts))]

    def encode_pair(self, pair: tuple[str, str]) -> tuple[list[int], int | None]:
        encoded = self._backend.encode(*pair)
        return list(encoded.ids), _first_one(encoded.type_ids)


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

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text, add_special_tokens=True) for text in texts]

    def encode_pair(self, pair: tuple[str, str]) -> tuple[list[int], int | None]:
        with self._lock:
            encoded = self._tokenizer(*pair)
        return list(encoded["input_ids"]), _first_one(encoded.get("token_type_ids", ()))


def _first_one(token_types: Sequence[int]) -> int | None:
    return list(token_types).index(1) if 1 in token_types else None


def _encoder(tokenizer: Any) -> _Encoder:
    backend = getattr(tokenizer, "_tokenizer", None)
    return _FastEncoder(backend) if isinstance(backend, Tokenizer) else _SlowEncoder(tokenizer)


def _bare_copy(backend: Tokenizer) -> Tokenizer:
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def chat_template(tokenizer: Any) -> str | None:
    """The tokeniser's own chat template; the one for tools where it has several."""
    found = getattr(tokenizer, "chat_template", None)
    if isinstance(found, dict):
        found = found.get("tool_use") or found.get("default")
    return found if isinstance(found, str) else None


def _takes_parts(tokenizer: Any, model_config: Any) -> bool:
    """Whether the chat template takes contents as lists of parts, as vLLM finds out."""
    try:
        found = resolve_chat_template_content_format(None, None, "auto", tokenizer, model_config=model_config)
    except (ChatTemplateResolutionError, ValueError):
        return False  # there is none: rendering will say so
    return bool(found == "openai")


def _nothing(_number: int) -> str:
    return ""


def cpu_seconds(work: Callable[[], object]) -> float:
    """What ``work`` takes of this thread: what others do meanwhile says nothing of the work."""
    started = time.thread_time()
    work()
    return time.thread_time() - started


def _special_tokens(tokenizer: Any) -> set[str]:
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return added | set(tokenizer.all_special_tokens)


def _longest_token(tokenizer: Any) -> int:
    """Bytes of the longest token; a normaliser that shrinks text can at most halve it (NFC composition)."""
    longest = max((len(piece.encode()) for piece in tokenizer.get_vocab()), default=1)
    return 2 * longest
