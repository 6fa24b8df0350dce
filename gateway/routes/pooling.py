"""POST /v1/embeddings, /v1/classify, /v1/rerank and /v1/score: models that do not generate."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Generic, TypeVar

import numpy as np
import orjson

from engine.types import Classes, Embeddings, Engine, ModelInfo, ModelKind, PoolingRequest, Prompt
from gateway.access.principal import Scope
from gateway.exchange import Exchange
from gateway.guardian.check import GuardPolicy, Passages, TokenPassage
from gateway.limits.reserve import LimitClass
from gateway.pipeline import Pipeline
from gateway.protocol.completions import TextOrTokens
from gateway.protocol.pooling import (
    ClassificationList,
    ClassifyRequest,
    EmbeddingList,
    EmbeddingRequest,
    PoolingFields,
    Ranking,
    RerankRequest,
    ScoreList,
    ScoreRequest,
    parse_classify,
    parse_embedding,
    parse_rerank,
    parse_score,
)
from gateway.protocol.sampling import RequestBounds
from gateway.routing import Route
from gateway.work import Evaluation, Task

Q = TypeVar("Q", bound=PoolingFields)
#: Vectors written as JSON before the event loop is given to somebody else.
_AT_ONCE: Final = 32
_EMBED: Final[Collection[ModelKind]] = frozenset[ModelKind]({"embed"})
_CLASSIFY: Final[Collection[ModelKind]] = frozenset[ModelKind]({"classify"})
_COMPARE: Final[Collection[ModelKind]] = frozenset[ModelKind]({"score", "embed"})


class PoolingTask(Generic[Q]):
    """What all four have in common; see :class:`gateway.pipeline.Task`."""

    id_prefix: str
    prompt_param: str = "input"
    kinds: Collection[ModelKind]
    optional = False

    def __init__(self, parse: Callable[[bytes, RequestBounds], Q]) -> None:
        self._parse = parse

    async def read(self, exchange: Exchange, pipeline: Pipeline) -> Q:
        """The checked request. Raises :class:`ApiError` 400."""
        request = await pipeline.read(exchange, self._parse)
        exchange.labels = request.labels()
        return request


class EmbedTask(PoolingTask[EmbeddingRequest]):
    """Vectors."""

    id_prefix = "embd-"
    kinds: Collection[ModelKind] = _EMBED

    def texts(self, request: EmbeddingRequest) -> Passages:
        """See :class:`gateway.pipeline.Task`."""
        return passages(request.input)

    async def prepare(
        self, request: EmbeddingRequest, model: ModelInfo, engine: Engine, response_id: str
    ) -> Evaluation:
        """See :class:`gateway.pipeline.Task`."""
        prompts = await tokenised(request.input, model, engine)
        engine.check_prompts(PoolingRequest(response_id, model.id, prompts, dimensions=request.dimensions))

        async def run(priority: int) -> bytes:
            wanted = PoolingRequest(response_id, model.id, prompts, priority, dimensions=request.dimensions)
            return await embeddings_body(await engine.embed(wanted), request, usage(prompts))

        return Evaluation(response_id, model, self.prompt_param, prompts, run)


class ClassifyTask(PoolingTask[ClassifyRequest]):
    """Labels."""

    id_prefix = "clsf-"
    kinds: Collection[ModelKind] = _CLASSIFY
    optional = True

    def texts(self, request: ClassifyRequest) -> Passages:
        """See :class:`gateway.pipeline.Task`."""
        return passages(request.input)

    async def prepare(self, request: ClassifyRequest, model: ModelInfo, engine: Engine, response_id: str) -> Evaluation:
        """See :class:`gateway.pipeline.Task`."""
        prompts = await tokenised(request.input, model, engine)
        engine.check_prompts(PoolingRequest(response_id, model.id, prompts))

        async def run(priority: int) -> bytes:
            classes = await engine.classify(PoolingRequest(response_id, model.id, prompts, priority))
            data = classifications(classes, everything=request.return_all_scores)
            return orjson.dumps({"data": data, "model": request.model, "usage": usage(prompts)})

        return Evaluation(response_id, model, self.prompt_param, prompts, run)


class RerankTask(PoolingTask[RerankRequest]):
    """An order of documents."""

    id_prefix = "rerank-"
    prompt_param = "documents"
    kinds: Collection[ModelKind] = _COMPARE

    def texts(self, request: RerankRequest) -> Passages:
        """See :class:`gateway.pipeline.Task`."""
        return [request.query, *request.documents]

    async def prepare(self, request: RerankRequest, model: ModelInfo, engine: Engine, response_id: str) -> Evaluation:
        """See :class:`gateway.pipeline.Task`."""

        def answer(scores: Sequence[float], used: dict[str, int]) -> Any:
            return {"id": response_id, "model": request.model, "results": ranking(request, scores), "usage": used}

        return await compared(self, request.pairs(), model, engine, response_id, answer)


class ScoreTask(PoolingTask[ScoreRequest]):
    """Numbers for pairs."""

    id_prefix = "score-"
    prompt_param = "text_2"
    kinds: Collection[ModelKind] = _COMPARE

    def texts(self, request: ScoreRequest) -> Passages:
        """See :class:`gateway.pipeline.Task`."""
        return [*request.text_1, *request.text_2]

    async def prepare(self, request: ScoreRequest, model: ModelInfo, engine: Engine, response_id: str) -> Evaluation:
        """See :class:`gateway.pipeline.Task`."""

        def answer(scores: Sequence[float], used: dict[str, int]) -> Any:
            data = [{"object": "score", "index": index, "score": score} for index, score in enumerate(scores)]
            created = int(time.time())
            head = {"id": response_id, "object": "list", "created": created, "model": request.model}
            return {**head, "data": data, "usage": used}

        return await compared(self, request.pairs(), model, engine, response_id, answer)


async def compared(
    task: RerankTask | ScoreTask,
    pairs: Sequence[tuple[str, str]],
    model: ModelInfo,
    engine: Engine,
    response_id: str,
    answer: Callable[[Sequence[float], dict[str, int]], Any],
) -> Evaluation:
    """What scores ``pairs`` and puts ``answer`` around the scores."""
    made = await engine.tokenize_pairs(model.id, pairs)
    engine.check_prompts(PoolingRequest(response_id, model.id, made.prompts, pairs=made.pairs))

    async def run(priority: int) -> bytes:
        wanted = PoolingRequest(response_id, model.id, made.prompts, priority, pairs=made.pairs)
        return orjson.dumps(answer(await engine.score(wanted), usage(made.prompts)))

    return Evaluation(response_id, model, task.prompt_param, made.prompts, run)


def passages(inputs: Sequence[TextOrTokens]) -> Passages:
    """Inputs as the guard reads them."""
    return [each if isinstance(each, str) else TokenPassage(each) for each in inputs]


async def tokenised(inputs: Sequence[TextOrTokens], model: ModelInfo, engine: Engine) -> Sequence[Prompt]:
    """Inputs as tokens: all are texts, or all are token ids already."""
    texts = [each for each in inputs if isinstance(each, str)]
    if texts:
        return await engine.tokenize_all(model.id, texts)
    return [Prompt(each) for each in inputs if not isinstance(each, str)]


def usage(prompts: Sequence[Prompt]) -> dict[str, int]:
    """The tokens of ``prompts``, as it is answered."""
    tokens = sum(len(prompt.token_ids) for prompt in prompts)
    return {"prompt_tokens": tokens, "total_tokens": tokens}


async def embeddings_body(made: Embeddings, request: EmbeddingRequest, used: dict[str, int]) -> bytes:
    """The answer; 256 long vectors take milliseconds to write, so the loop turns in between."""
    encode = _as_base64 if request.encoding_format == "base64" else _as_numbers
    items = []
    for index, vector in enumerate(made.vectors):
        if index % _AT_ONCE == _AT_ONCE - 1:
            await asyncio.sleep(0)
        items.append(b'{"object":"embedding","index":%d,"embedding":%b}' % (index, encode(vector)))
    tail = orjson.dumps({"model": request.model, "usage": used})
    return b'{"object":"list","data":[' + b",".join(items) + b"]," + tail[1:]


def _as_numbers(vector: bytes) -> bytes:
    return orjson.dumps(np.frombuffer(vector, "<f4"), option=orjson.OPT_SERIALIZE_NUMPY)


def _as_base64(vector: bytes) -> bytes:
    return b'"' + base64.b64encode(vector) + b'"'


def classifications(classes: Classes, *, everything: bool) -> list[dict[str, Any]]:
    """The likeliest label of each row; ``everything``: the probabilities of all of them, too."""
    data = []
    for index, row in enumerate(classes.rows):
        best = max(range(len(row)), key=row.__getitem__)
        item: dict[str, Any] = {"label": classes.labels[best], "score": row[best], "index": index}
        if everything:
            item["scores"] = dict(zip(classes.labels, row, strict=True))
        data.append(item)
    return data


def ranking(request: RerankRequest, scores: Sequence[float]) -> list[dict[str, Any]]:
    """The documents by score, the best first; of equals the earlier."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[: request.top_n]
    results: list[dict[str, Any]] = [{"index": index, "relevance_score": scores[index]} for index in order]
    if request.return_documents:
        for result in results:
            result["document"] = {"text": request.documents[result["index"]]}
    return results


def routes(pipeline: Pipeline) -> list[Route]:
    """The routes of this resource."""
    declared: dict[str, Any] = {
        "scope": Scope.INFERENCE,
        "limit_class": LimitClass.GENERATION,
        "guard": GuardPolicy.GENERATION,
        "runs_model": True,
    }

    def route(path: str, task: Task[Any], summary: str, request: Any, response: Any) -> Route:
        async def create(exchange: Exchange) -> None:
            await pipeline.evaluate(exchange, task)

        return Route("POST", path, create, summary, request=request, response=response, **declared)

    return [
        route("/v1/embeddings", EmbedTask(parse_embedding), "Turn texts into vectors", EmbeddingRequest, EmbeddingList),
        route("/v1/classify", ClassifyTask(parse_classify), "Label texts", ClassifyRequest, ClassificationList),
        route("/v1/rerank", RerankTask(parse_rerank), "Put documents in order", RerankRequest, Ranking),
        route("/v1/score", ScoreTask(parse_score), "Compare texts", ScoreRequest, ScoreList),
    ]
