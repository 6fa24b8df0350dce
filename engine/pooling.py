"""Embeddings, classes and scores: the texts of one request through vLLM's pooling runner, as one batch.

Fence around ``AsyncLLM.add_request`` with ``PoolingParams`` (vllm/v1/engine/async_llm.py) and around the models' own
words on labels and widths, checked against 0.32.0.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from vllm import PoolingParams
from vllm.inputs.engine import tokens_input

from engine.output import as_engine_error
from engine.types import (
    Classes,
    Embeddings,
    EngineUnavailable,
    ModelKind,
    PoolingRequest,
    Prompt,
    PromptTooLong,
    RequestRejected,
)

Matrix = npt.NDArray[np.float32]
#: Prompts handed to the engine before the event loop is given to somebody else.
_AT_ONCE: Final = 16
_TASKS: Final[dict[ModelKind, Literal["embed", "classify"]]] = {
    "embed": "embed",
    "classify": "classify",
    "score": "classify",
}


class Batch:
    """The rows of one request; ``done`` resolves when the last has come, or carries the first error."""

    def __init__(self, size: int, loop: asyncio.AbstractEventLoop) -> None:
        self.rows: list[Any] = [None] * size
        self.done: asyncio.Future[None] = loop.create_future()
        self._left = size

    @property
    def started(self) -> bool:
        """Whether anything has come."""
        return self._left < len(self.rows)

    def put(self, index: int, output: Any) -> None:
        """Take what vLLM says of one prompt. Never raises: the caller serves every other request too."""
        if self.done.done() or self.rows[index] is not None:
            return
        if isinstance(output, Exception):
            self.fail(output)
            return
        row = output.outputs.data
        if not row.numel():
            self.fail(EngineUnavailable("the engine aborted the request"))
            return
        self.rows[index] = row
        self._left -= 1
        if not self._left:
            self.done.set_result(None)

    def fail(self, error: BaseException) -> None:
        """End with an error; later rows are ignored."""
        if not self.done.done():
            self.done.set_exception(as_engine_error(error))


class Pooler:
    """What one started engine says of texts."""

    def __init__(self, llm: Any, kind: ModelKind, context_length: int) -> None:
        self._llm = llm
        self._kind = kind
        self.task = _TASKS[kind]
        self._context_length = context_length
        self.labels = _labels(llm.model_config.hf_config) if self.task == "classify" else ()
        self.width: int = llm.model_config.embedding_size if self.task == "embed" else 0

    def check(self, request: PoolingRequest, check_ids: Callable[[Sequence[int]], None]) -> None:
        """See :meth:`engine.types.Engine.check_prompts`."""
        for prompt in request.prompts:
            if not prompt.token_ids:
                raise RequestRejected("The input is empty.", param="input", code="empty_string")
            if len(prompt.token_ids) > self._context_length:
                raise PromptTooLong(prompt_tokens=len(prompt.token_ids), limit=self._context_length)
            check_ids(prompt.token_ids)
        if request.dimensions is not None and request.dimensions > self.width:
            raise RequestRejected(
                f"Invalid 'dimensions': this model's embeddings have {self.width} dimensions.", param="dimensions"
            )

    async def submit(self, request: PoolingRequest, batch: Batch) -> None:
        """Hand every prompt over; the rows arrive in ``batch``."""
        for index, prompt in enumerate(request.prompts):
            if index and index % _AT_ONCE == 0:
                await asyncio.sleep(0)
            if batch.done.done():
                return
            queue = await self._llm.add_request(
                prompt_id(request.request_id, index),
                tokens_input(list(prompt.token_ids)),
                self._params(prompt),
                arrival_time=time.time(),
                priority=request.priority,
            )
            queue.put = partial(batch.put, index)
            if (early := queue.output) is not None:
                batch.put(index, early)

    def _params(self, prompt: Prompt) -> PoolingParams:
        params = PoolingParams(task=self.task)
        if prompt.second_from is not None:
            # Token types as vLLM's scoring passes them: only where the second text begins.
            params.extra_kwargs = {"compressed_token_type_ids": prompt.second_from}
        return params

    def embeddings(self, request: PoolingRequest, rows: Sequence[Any]) -> Embeddings:
        """The vectors in ``rows``, cut to ``dimensions`` and of length 1."""
        vectors = unit(matrix(rows)[:, : request.dimensions])
        return Embeddings(vectors.shape[1], [row.tobytes() for row in vectors])

    def classes(self, rows: Sequence[Any]) -> Classes:
        """The probabilities in ``rows``."""
        table = matrix(rows)
        if table.shape[1] == 1 and len(self.labels) == 2:
            # One number for two classes is the probability of the second.
            table = np.hstack([1 - table, table])
        return Classes(self.labels, table.tolist())

    def scores(self, request: PoolingRequest, rows: Sequence[Any]) -> Sequence[float]:
        """One number per pair."""
        if self._kind != "embed":
            return [float(value) for value in matrix(rows)[:, -1]]
        vectors = unit(matrix(rows))
        assert request.pairs is not None
        first, second = zip(*request.pairs, strict=True)
        cosines: list[float] = np.einsum("ij,ij->i", vectors[list(first)], vectors[list(second)]).tolist()
        return cosines


def prompt_id(request_id: str, index: int) -> str:
    """The engine's id of one prompt of a request."""
    return f"{request_id}-{index}"


def matrix(rows: Sequence[Any]) -> Matrix:
    """vLLM's tensors as one table, float32."""
    return np.stack([np.atleast_1d(row.float().numpy()) for row in rows]).astype("<f4", copy=False)


def unit(vectors: Matrix) -> Matrix:
    """``vectors`` of length 1; one of zeros stays as it is."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(lengths == 0, 1, lengths), dtype="<f4")


def _labels(config: Any) -> tuple[str, ...]:
    names = getattr(config, "id2label", None) or {}
    return tuple(str(names[index]) for index in sorted(names, key=int))
