"""POST /v1/audio/transcriptions and /translations: from the fields of a form to a checked request.

Fields: OpenAI's OpenAPI document (CreateTranscriptionRequest, CreateTranslationRequest); what it or vLLM 0.32 knows
besides and this server does not honour is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from gateway.errors import ApiError, invalid
from gateway.protocol import refused
from gateway.protocol.refused import Refusal
from gateway.protocol.sampling import ModelName
from gateway.protocol.validation import bad_value, first_problem, missing, string_too_long, unsupported

ResponseFormat: TypeAlias = Literal["json", "text", "srt", "verbose_json", "vtt"]
Task: TypeAlias = Literal["transcribe", "translate"]

MAX_PROMPT: Final = 8192
FILE: Final = "file"
GRANULARITIES: Final = "timestamp_granularities[]"

_OURS: Final = Refusal("The server decides this; a request cannot.")
_SPEAKERS: Final = Refusal("Speakers are not told apart.")
_SAMPLING: Final = Refusal("Only 'temperature' says how to sample a transcript.")
_REFUSED: Final[refused.Refusals] = {
    "include[]": Refusal("Log probabilities of tokens are not part of a transcript; segments have their mean."),
    "chunking_strategy": Refusal("Long sounds are always cut at quiet places; only 'auto' is supported.", ("auto",)),
    "known_speaker_names[]": _SPEAKERS,
    "known_speaker_references[]": _SPEAKERS,
    "stream_include_usage": Refusal("The last event of a stream always has it."),
    "stream_continuous_usage_stats": Refusal("The last event of a stream has the usage."),
    "vllm_xargs": _OURS,
    "to_language": Refusal("Translations are into English."),
    "max_completion_tokens": _OURS,
    **dict.fromkeys(("n", "seed", "top_p", "top_k", "min_p", "use_beam_search", "length_penalty"), _SAMPLING),
    **dict.fromkeys(("frequency_penalty", "presence_penalty", "repetition_penalty"), _SAMPLING),
}


def _granularities(values: list[str]) -> list[str]:
    for number, value in enumerate(values):
        if value == "word":
            raise unsupported("Times of words are not known, only of segments.").within(f"[{number}]")
        if value != "segment":
            raise bad_value("Expected 'segment'.").within(f"[{number}]")
    return values


class TranslationForm(BaseModel):
    """A sound, to be written down in English: multipart/form-data."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: bytes = Field(description="The sound: flac, m4a, mp3, mp4, mpeg, mpga, oga, ogg, wav or webm.")
    model: ModelName = Field(description="A model that transcribes, as listed by /v1/models.")
    prompt: str = Field(
        "", max_length=MAX_PROMPT, description="Text that comes before, for style and spelling; its end counts."
    )
    response_format: ResponseFormat = Field("json", description="What the answer is.")
    temperature: Annotated[FiniteFloat, Field(ge=0, le=1)] = Field(0.0, description="0 writes the likeliest words.")

    @property
    def spoken(self) -> str | None:
        """The language that the caller says is spoken."""
        return None

    @property
    def streams(self) -> bool:
        """Whether the answer is a stream of events."""
        return False


class TranscriptionForm(TranslationForm):
    """A sound, to be written down in its own language: multipart/form-data."""

    language: str | None = Field(
        None, pattern=r"^[a-z]{2,3}$", description="ISO 639-1 code of what is spoken; found out if it is not given."
    )
    stream: bool = Field(False, description="Send segments as they are written, as events; only with format json.")
    granularities: Annotated[list[str], AfterValidator(_granularities)] = Field(
        ["segment"],
        alias=GRANULARITIES,
        description="Only `segment`, and only with `verbose_json`.",
    )

    @property
    def spoken(self) -> str | None:
        """The language that the caller says is spoken."""
        return self.language

    @property
    def streams(self) -> bool:
        """Whether the answer is a stream of events."""
        return self.stream


Form: TypeAlias = TranslationForm | TranscriptionForm


def parse_form(fields: Mapping[str, Sequence[str]], task: Task) -> Form:
    """The request in the plain fields of a form. Raises :class:`~gateway.errors.ApiError` 400 naming the field."""
    kind = TranscriptionForm if task == "transcribe" else TranslationForm
    accepted = frozenset(field.alias or name for name, field in kind.model_fields.items()) - {FILE}
    values = refused.screen({name: _value(name, each) for name, each in fields.items()}, accepted, _REFUSED)
    if values.get("prompt", "") and len(str(values["prompt"])) > MAX_PROMPT:
        raise string_too_long(MAX_PROMPT, len(str(values["prompt"]))).at("prompt")
    try:
        request = kind.model_validate({**{n: v for n, v in values.items() if v != ""}, FILE: b""})
    except ValidationError as error:
        raise _named(error) from None
    _check_together(request, values)
    return request


def _value(name: str, values: Sequence[str]) -> object:
    if name.endswith("[]"):
        return list(values)
    if len(values) > 1:
        raise invalid(f"'{name}' is given twice.", code="duplicate_key", param=name)
    value = values[0]
    if name != "stream" or not value:
        return value
    if value.lower() not in ("true", "false"):
        raise bad_value("Expected 'true' or 'false'.").at(name)
    return value.lower() == "true"


def _named(error: ValidationError) -> ApiError:
    for detail in error.errors(include_url=False):
        match detail["type"]:
            case "float_parsing":
                return bad_value("Expected a number.").at("temperature")
            case "string_pattern_mismatch":
                return bad_value("Expected an ISO 639-1 code such as 'en'.").at("language")
            case "missing" if detail["loc"] == ("model",):
                return missing().at("model")
    return first_problem(error)


def _check_together(request: Form, given: Mapping[str, object]) -> None:
    if request.streams and request.response_format != "json":
        raise bad_value("A stream has the response_format 'json'.").at("response_format")
    if GRANULARITIES in given and request.response_format != "verbose_json":
        raise bad_value("Only allowed with the response_format 'verbose_json'.").at(GRANULARITIES)
