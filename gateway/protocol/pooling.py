"""POST /v1/embeddings, /v1/classify, /v1/rerank and /v1/score: from the bytes of a body to a checked request, and what
is answered.

The fields of /v1/embeddings are OpenAI's (CreateEmbeddingRequest); /v1/rerank takes what Cohere's and Jina's clients
send, /v1/score what vLLM 0.32's (``entrypoints/pooling/scoring/protocol.py``) do, as far as it is honoured; the rest
is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from gateway.protocol import refused, strictjson
from gateway.protocol.completions import Prompts
from gateway.protocol.sampling import ModelName, RequestBounds, nullable_options, without_nulls
from gateway.protocol.validation import (
    array_too_long,
    bad_value,
    empty_array,
    empty_string,
    first_problem,
    missing,
    unknown,
    wrong_type,
)

MAX_DIMENSIONS: Final = 65_536

M = TypeVar("M", bound=BaseModel)

_REFUSED: Final[refused.Refusals] = {
    **refused.BODY,
    "input_type": refused.Refusal("Write what the model wants to be told into the texts."),
    "embed_dtype": refused.Refusal("Vectors are float32.", ("float32",)),
    "endianness": refused.Refusal("It is little-endian.", ("little", "native")),
    "encoding_format": refused.Refusal("It belongs to /v1/embeddings.", ("float",)),
    "dimensions": refused.Refusal("It belongs to /v1/embeddings."),
    "use_activation": refused.Refusal("It is always used.", (True,)),
    "softmax": refused.Refusal("It is always used.", (True,)),
    "normalize": refused.Refusal("Vectors always have the length 1.", (True,)),
    "messages": refused.Refusal("Send texts as 'input'."),
    "truncate": refused.Refusal("A text that is too long is refused, never cut.", ("NONE", False)),
    "max_tokens_per_doc": refused.Refusal("A text that is too long is refused, never cut."),
    "max_chunks_per_doc": refused.Refusal("A text that is too long is refused, never cut."),
    "rank_fields": refused.Refusal("Documents are texts."),
    "queries": refused.Refusal("Use 'text_1' and 'text_2'."),
    "data_1": refused.Refusal("Use 'text_1' and 'text_2'."),
    "data_2": refused.Refusal("Use 'text_1' and 'text_2'."),
}


class PoolingFields(BaseModel):
    """What every request to a model that does not generate has."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, json_schema_extra=nullable_options)

    model: ModelName = Field(description="A model id as listed by /v1/models, of the right kind.")
    user: str | None = Field(None, max_length=512, description="A label of your end user, kept for logs only.")

    def labels(self) -> dict[str, str]:
        """What the caller wants to find in the access log again."""
        return {} if self.user is None else {"user": self.user}


class EmbeddingRequest(PoolingFields):
    """Texts to be turned into vectors."""

    input: Prompts = Field(
        description="Text or token ids, or a list of either: at most 256 inputs unless the server is set otherwise."
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="Numbers, or the base64 of little-endian float32 values."
    )
    dimensions: int | None = Field(
        None,
        ge=1,
        le=MAX_DIMENSIONS,
        description="Keep the first so many numbers, scaled to length 1; for models that were trained for it.",
    )


class ClassifyRequest(PoolingFields):
    """Texts to be labelled."""

    input: Prompts = Field(
        description="Text or token ids, or a list of either: at most 256 inputs unless the server is set otherwise."
    )
    return_all_scores: bool = Field(False, description="Add the probability of every label to each result.")


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (_text(value, ""),)
    if not isinstance(value, list):
        raise wrong_type("a string or an array of strings", value).within()
    return _listed(value)


def _listed(value: list[object]) -> tuple[str, ...]:
    if not value:
        raise empty_array().within()
    return tuple([_text(each, f"[{index}]") for index, each in enumerate(value)])


def _text(value: object, at: str) -> str:
    if not isinstance(value, str):
        raise wrong_type("a string", value).within(at)
    if not value:
        raise empty_string().within(at)
    return value


def _documents(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise wrong_type("an array", value).within()
    return _listed([_unwrapped(each, f"[{index}]") for index, each in enumerate(value)])


def _unwrapped(value: object, at: str) -> object:
    """Cohere's first way to send a document: an object with its ``text``."""
    if not isinstance(value, dict):
        return value
    for name in value:
        if name != "text":
            raise unknown().within(f"{at}.{name}")
    if "text" not in value:
        raise missing().within(f"{at}.text")
    return value["text"]


_NonEmpty = Annotated[str, Field(min_length=1)]
_Listed = Annotated[list[_NonEmpty], Field(min_length=1)]


class _TextObject(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: _NonEmpty


Texts = Annotated[tuple[str, ...], PlainValidator(_texts, json_schema_input_type=_NonEmpty | _Listed)]
Documents = Annotated[
    tuple[str, ...],
    PlainValidator(_documents, json_schema_input_type=Annotated[list[_NonEmpty | _TextObject], Field(min_length=1)]),
]


class RerankRequest(PoolingFields):
    """Documents to be put in order: the best answer to the query first."""

    query: str = Field(min_length=1, description="What is looked for.")
    documents: Documents = Field(
        description="Texts, or objects with a `text`: at most 256 unless the server is set otherwise."
    )
    top_n: int | None = Field(None, ge=1, le=2**31, description="Return the best so many only; default: all.")
    return_documents: bool = Field(False, description="Return the texts, too.")

    def pairs(self) -> Sequence[tuple[str, str]]:
        """The query with each document."""
        return [(self.query, document) for document in self.documents]


class ScoreRequest(PoolingFields):
    """Pairs of texts to be compared."""

    text_1: Texts = Field(description="A text, or one for each of `text_2`.")
    text_2: Texts = Field(description="A text or several: at most 256 unless the server is set otherwise.")

    def pairs(self) -> Sequence[tuple[str, str]]:
        """The texts side by side."""
        first = self.text_1 * len(self.text_2) if len(self.text_1) == 1 else self.text_1
        return list(zip(first, self.text_2, strict=True))


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PoolingUsage(_Answer):
    """Tokens used: nothing is generated."""

    prompt_tokens: int = Field(ge=0, description="Tokens of all inputs.")
    total_tokens: int = Field(ge=0, description="The same.")


class Embedding(_Answer):
    """One vector."""

    object: Literal["embedding"] = Field(description="Always `embedding`.")
    index: int = Field(ge=0, description="Which input it belongs to.")
    embedding: list[float] | str = Field(description="The numbers, or base64 as asked for.")


class EmbeddingList(_Answer):
    """The answer of /v1/embeddings."""

    object: Literal["list"] = Field(description="Always `list`.")
    data: list[Embedding] = Field(description="One vector per input, in order.")
    model: str = Field(description="The model.")
    usage: PoolingUsage = Field(description="Tokens used.")


class Classification(_Answer):
    """One label."""

    label: str = Field(description="The likeliest label.")
    score: float = Field(ge=0, le=1, description="Its probability.")
    index: int = Field(ge=0, description="Which input it belongs to.")
    scores: dict[str, float] | None = Field(None, description="Every label's probability; only if asked for.")


class ClassificationList(_Answer):
    """The answer of /v1/classify."""

    data: list[Classification] = Field(description="One label per input, in order.")
    model: str = Field(description="The model.")
    usage: PoolingUsage = Field(description="Tokens used.")


class RankedDocument(_Answer):
    """A text."""

    text: str = Field(description="As it came.")


class Ranked(_Answer):
    """One document's place."""

    index: int = Field(ge=0, description="Which document it is.")
    relevance_score: float = Field(description="How well it answers the query; higher is better.")
    document: RankedDocument | None = Field(None, description="The document; only if asked for.")


class Ranking(_Answer):
    """The answer of /v1/rerank."""

    id: str = Field(description="Unique.")
    model: str = Field(description="The model.")
    results: list[Ranked] = Field(description="The best document first.")
    usage: PoolingUsage = Field(description="Tokens used.")


class Scored(_Answer):
    """One pair's score."""

    object: Literal["score"] = Field(description="Always `score`.")
    index: int = Field(ge=0, description="Which pair it belongs to.")
    score: float = Field(description="How well the second text answers the first; higher is better.")


class ScoreList(_Answer):
    """The answer of /v1/score."""

    id: str = Field(description="Unique.")
    object: Literal["list"] = Field(description="Always `list`.")
    created: int = Field(description="When, in Unix seconds.")
    model: str = Field(description="The model.")
    data: list[Scored] = Field(description="One score per pair, in order.")
    usage: PoolingUsage = Field(description="Tokens used.")


def parse_embedding(data: bytes, bounds: RequestBounds) -> EmbeddingRequest:
    """The request in ``data``. Pure: may run in a worker thread. Raises :class:`~gateway.errors.ApiError` 400."""
    return _parsed(EmbeddingRequest, data, bounds, "input")


def parse_classify(data: bytes, bounds: RequestBounds) -> ClassifyRequest:
    """The request in ``data``. Pure: may run in a worker thread. Raises :class:`~gateway.errors.ApiError` 400."""
    return _parsed(ClassifyRequest, data, bounds, "input")


def parse_rerank(data: bytes, bounds: RequestBounds) -> RerankRequest:
    """The request in ``data``. Pure: may run in a worker thread. Raises :class:`~gateway.errors.ApiError` 400."""
    return _parsed(RerankRequest, data, bounds, "documents")


def parse_score(data: bytes, bounds: RequestBounds) -> ScoreRequest:
    """The request in ``data``. Pure: may run in a worker thread. Raises :class:`~gateway.errors.ApiError` 400."""
    request = _parsed(ScoreRequest, data, bounds, "text_1", "text_2")
    if len(request.text_1) not in (1, len(request.text_2)):
        raise bad_value("Expected one text, or as many as 'text_2' has.").at("text_1")
    return request


def _parsed(model: type[M], data: bytes, bounds: RequestBounds, *lists: str) -> M:
    body = without_nulls(refused.screen(strictjson.loads(data), frozenset(model.model_fields), _REFUSED))
    for name in lists:
        _check_count(body.get(name), bounds.max_inputs, name)
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise first_problem(error) from None


def _check_count(value: Any, limit: int, name: str) -> None:
    """A list of numbers is one input, however long."""
    if isinstance(value, list) and len(value) > limit and not isinstance(value[0], int | float):
        raise array_too_long(limit, len(value)).at(name)
