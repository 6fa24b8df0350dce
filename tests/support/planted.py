"""A stub engine that says what a test plants, for guards: token by token, with everything a delta can carry."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from engine.types import (
    Classes,
    Delta,
    DeltaSink,
    Embeddings,
    FinishReason,
    GenerationRequest,
    ModelInfo,
    ModelKind,
    PoolingRequest,
    PositionLogprobs,
    TokenLogprob,
    ToolCallDelta,
)
from tests.support.stub_engine import Account, StubConfig, StubEngine


@dataclass(frozen=True, slots=True)
class Script:
    """What every choice says: ``tokens`` as text, as reasoning, or as the arguments of a call of ``call``."""

    tokens: Sequence[str]
    part: str = "text"
    call: str | None = None
    reason: FinishReason = "stop"


KINDS: Final[tuple[ModelKind, ...]] = ("embed", "classify", "score")
LONG_CONTEXT = StubConfig(context_length=100_000)


class PlantedEngine(StubEngine):
    """Says ``script`` whatever it is asked."""

    def __init__(self, script: Script, config: StubConfig = LONG_CONTEXT) -> None:
        super().__init__(config)
        self.script = script

    async def run(self, request: GenerationRequest, sink: DeltaSink) -> None:
        """See :class:`engine.types.Engine`."""
        self.check(request)
        account = self.accounts[request.request_id] = Account(len(request.prompt.token_ids))
        account.ending = "aborted"
        for index, tokens in self._order(request):
            if not request.stream:
                delta = self._delta(request, index, tokens, first=True)
                delta.finish_reason = self.script.reason
                self._push(account, sink, delta)
                continue
            for place, token in enumerate(tokens):
                await asyncio.sleep(0)
                self._push(account, sink, self._delta(request, index, [token], first=place == 0))
            self._push(account, sink, Delta(index, "", 0, self.script.reason))
        account.ending = "finished"

    # -- models that do not generate --------------------------------------------------------------------------------

    def models(self) -> Sequence[ModelInfo]:
        """See :class:`engine.types.Engine`: the stub itself, and one model of every other kind."""
        (stub,) = super().models()
        return [stub, *(replace(stub, id=kind, kind=kind) for kind in KINDS)]

    def model(self, name: str) -> ModelInfo | None:
        """See :class:`engine.types.Engine`."""
        return next((each for each in self.models() if each.id == name), None)

    def _check_model(self, model: str) -> None:
        if model not in KINDS:
            super()._check_model(model)

    async def embed(self, request: PoolingRequest) -> Embeddings:
        """See :class:`engine.types.Engine`."""
        return Embeddings(1, [b"\x00\x00\x80\x3f" for _ in request.prompts])

    async def classify(self, request: PoolingRequest) -> Classes:
        """See :class:`engine.types.Engine`."""
        return Classes(("a", "b"), [(0.25, 0.75) for _ in request.prompts])

    async def score(self, request: PoolingRequest) -> Sequence[float]:
        """See :class:`engine.types.Engine`."""
        return [0.5 for _ in request.prompts]

    def _order(self, request: GenerationRequest) -> list[tuple[int, Sequence[str]]]:
        return [(index, self.script.tokens) for index in range(request.sampling.n)]

    def _delta(self, request: GenerationRequest, index: int, tokens: Sequence[str], *, first: bool) -> Delta:
        text = "".join(tokens)
        delta = Delta(index, "", len(tokens))
        if request.sampling.logprobs is not None:
            said = [TokenLogprob(token, -0.1, token.encode()) for token in tokens]
            delta.logprobs = tuple(PositionLogprobs(token, (token,)) for token in said)
        if self.script.call is not None:
            delta.tool_calls = (ToolCallDelta(0, self.script.call if first else None, text),)
        elif self.script.part == "reasoning":
            delta.reasoning = text
        else:
            delta.text = text
        return delta

    def _push(self, account: Account, sink: DeltaSink, delta: Delta) -> None:
        account.emitted += delta.tokens
        account.generated += delta.tokens
        plain = not (delta.finish_reason or delta.logprobs or delta.tool_calls or delta.reasoning or delta.index)
        if plain:
            sink.text(delta.text, delta.tokens)
        else:
            sink.delta(delta)
