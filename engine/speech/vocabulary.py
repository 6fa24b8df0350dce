"""The tokens that tell Whisper what to do (tokenizer.json and generation_config.json of its checkpoints)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from engine.types import EngineUnavailable, RequestRejected

#: Of the decoder's context, half is for the text before, less the token that begins it (Whisper's own rule).
_PROMPT_SHARE: Final = 2
_NO_SPEECH: Final = ("<|nospeech|>", "<|nocaptions|>")


class Vocabulary:
    """``generation``: the checkpoint's generation config as a dictionary; ``context``: decoder positions."""

    def __init__(self, tokenizer: Any, generation: dict[str, Any], context: int) -> None:
        self._tokenizer = tokenizer
        self._context = context
        self.end: int = tokenizer.eos_token_id
        self._start = self._id("<|startoftranscript|>")
        self._before = self._id("<|startofprev|>")
        self.first_timestamp = self._id("<|0.00|>")
        self.no_speech = next(number for name in _NO_SPEECH if (number := self._known(name)) is not None)
        self.suppressed: tuple[int, ...] = tuple(
            {*generation.get("suppress_tokens", ()), self._id("<|notimestamps|>")} - {self.end}
        )
        languages = generation.get("lang_to_id") or {}
        self.languages: dict[str, int] = (
            {name.strip("<|>"): number for name, number in languages.items()}
            if generation.get("is_multilingual", bool(languages))
            else {}
        )

    def _known(self, name: str) -> int | None:
        number = self._tokenizer.convert_tokens_to_ids(name)
        return number if isinstance(number, int) and self._tokenizer.convert_ids_to_tokens(number) == name else None

    def _id(self, name: str) -> int:
        if (number := self._known(name)) is None:
            raise EngineUnavailable(f"this speech model's tokenizer has no {name}")
        return number

    def check(self, language: str | None, task: str) -> None:
        """Raise :class:`RequestRejected` if the model cannot do it."""
        if task == "translate" and not self.languages:
            raise RequestRejected("This model only knows English: it does not translate.", param="model")
        if language is not None and language not in (self.languages or {"en": 0}):
            known = ", ".join(sorted(self.languages) or ["en"])
            raise RequestRejected(f"Invalid 'language': this model knows {known}.", param="language")

    @property
    def only_language(self) -> str | None:
        """The one language of a model that needs not be told."""
        return None if self.languages else "en"

    def before(self, prompt: str) -> list[int]:
        """The tokens of the text before; the last ones, if there are too many."""
        if not (text := prompt.strip()):
            return []
        ids: Sequence[int] = self._tokenizer(" " + text, add_special_tokens=False)["input_ids"]
        return [self._before, *ids[-(self._context // _PROMPT_SHARE - 1) :]]

    def opening(self, before: Sequence[int], language: str, task: str) -> list[int]:
        """The decoder's prompt: it ends with the timestamp 0, so that timestamps are written."""
        named = [self.languages[language], self._id(f"<|{task}|>")] if self.languages else []
        return [*before, self._start, *named, self.first_timestamp]

    def question(self) -> list[int]:
        """The decoder's prompt that a language follows."""
        return [self._start]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of ``tokens``; special ones are left out."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))
