"""A sequence classifier of the pool as an evaluator: a label is a risk."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from engine.types import Engine, EngineError, PoolingRequest, Prompt, PromptTooLong
from gateway.guardian.model import GUARDIAN, PRIORITY, ROUTE
from gateway.guardian.verdicts import Content, Finding, GuardFailure
from gateway.protocol.encode import new_id
from gateway.usage.ledger import Ledger
from gateway.usage.life import Life

#: Texts that are too long for the context are halved; what is still too long after so many times is a failure.
MAX_HALVES: Final = 6


class Classifier:
    """See :class:`gateway.guardian.verdicts.Evaluator`. ``labels``: the risk that each of the model's labels shows.

    Its calls have rows of their own in the ledger, as those of :class:`gateway.guardian.model.GuardModel`.
    """

    learned = True

    def __init__(
        self, name: str, model: str, labels: Mapping[str, str], engine: Engine, ledger: Ledger, *, window: int
    ) -> None:
        self.name = name
        self.window: int | None = window
        self.risks = frozenset(labels.values())
        self._model = model
        self._labels = dict(labels)
        self._engine = engine
        self._ledger = ledger

    async def evaluate(self, content: Content, risks: Sequence[str]) -> Mapping[str, Finding]:
        """See :class:`gateway.guardian.verdicts.Evaluator`."""
        try:
            rows = [await self._row(text) for text in await self._fitting(content.judged, MAX_HALVES)]
        except EngineError as error:
            raise GuardFailure("engine", str(error)) from error
        return {risk: Finding(max(self._score(row, risk) for row in rows)) for risk in risks}

    async def close(self) -> None:
        """See :class:`gateway.guardian.verdicts.Evaluator`."""

    def _score(self, row: Mapping[str, float], risk: str) -> float:
        shown = [share for label, share in row.items() if self._labels.get(label) == risk]
        if not shown:
            raise GuardFailure("nonsense", f"the model has no label for {risk}, only {sorted(row)}")
        whole = sum(shown)
        if not (math.isfinite(whole) and min(shown) >= 0):
            raise GuardFailure("nonsense", f"a score of {whole}")
        return min(1.0, whole)

    async def _fitting(self, text: str, halves: int) -> list[Prompt]:
        """``text`` as prompts that the model can take."""
        prompt = await self._engine.tokenize(self._model, text)
        try:
            self._engine.check_prompts(self._request("guard-check", prompt))
        except PromptTooLong:
            if not halves:
                raise
            return [part for half in _halves(text) for part in await self._fitting(half, halves - 1)]
        return [prompt]

    async def _row(self, prompt: Prompt) -> Mapping[str, float]:
        call = new_id("guard-")
        life = Life(self._ledger, call)
        life.admitted(
            principal=GUARDIAN,
            tenant=GUARDIAN,
            route=ROUTE,
            model=self._model,
            prompt_tokens=len(prompt.token_ids),
            max_tokens=0,
            n=1,
        )
        life.dispatched()
        try:
            classes = await self._engine.classify(self._request(call, prompt))
        except EngineError:
            life.failed("guard_failed")
            raise
        except asyncio.CancelledError:
            life.cancelled()
            raise
        life.completed(completion_tokens=0, finish_reasons=("stop",))
        return dict(zip(classes.labels, classes.rows[0], strict=True))

    def _request(self, request_id: str, prompt: Prompt) -> PoolingRequest:
        return PoolingRequest(request_id, self._model, [prompt], PRIORITY)


def _halves(text: str) -> Iterator[str]:
    middle, overlap = len(text) // 2, len(text) // 16
    yield text[: middle + overlap]
    yield text[middle - overlap :]
