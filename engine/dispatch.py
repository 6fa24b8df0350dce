"""Each call to the runtime of the model it names: a look-up, no task of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.types import (
    AdapterHold,
    AdapterInfo,
    AdapterSpec,
    Classes,
    Constraint,
    Conversation,
    Delta,
    DeltaSink,
    Embeddings,
    EngineError,
    GenerationRequest,
    Pairs,
    Parsing,
    PoolingRequest,
    Prompt,
    TranscriptionCost,
    TranscriptionRequest,
    TranscriptSink,
    TransferFacts,
)

if TYPE_CHECKING:
    from engine.runtime import VllmEngine


class Dispatch(ABC):
    """The part of :class:`engine.types.Engine` that works on a model in memory; see there for every method."""

    @abstractmethod
    def _runtime_of(self, model: str) -> VllmEngine:
        """The runtime of ``model``. Raises :class:`RequestRejected` or :class:`ModelUnavailable`."""

    @abstractmethod
    def _runtimes(self) -> Sequence[VllmEngine]:
        """Those of all models in memory."""

    def transfer_facts(self, model: str) -> TransferFacts | None:
        """See :meth:`engine.types.Engine.transfer_facts`."""
        try:
            return self._runtime_of(model).transfer_facts(model)
        except EngineError:
            return None

    def prefill(self, request: GenerationRequest, sink: DeltaSink) -> Coroutine[Any, Any, Mapping[str, object] | None]:
        """See :meth:`engine.types.Engine.prefill`."""
        return self._runtime_of(request.model).prefill(request, sink)

    def adapters(self) -> Sequence[AdapterInfo]:
        """See :meth:`engine.types.Engine.adapters`."""
        return [adapter for runtime in self._runtimes() for adapter in runtime.adapters()]

    async def look_at_adapters(self) -> None:
        """See :meth:`engine.types.Engine.look_at_adapters`."""
        for runtime in self._runtimes():
            await runtime.look_at_adapters()

    def load_adapter(self, spec: AdapterSpec) -> Coroutine[Any, Any, AdapterInfo]:
        """See :meth:`engine.types.Engine.load_adapter`."""
        return self._runtime_of(spec.model).load_adapter(spec)

    def unload_adapter(self, model: str, name: str, *, drain: bool = False) -> Coroutine[Any, Any, None]:
        """See :meth:`engine.types.Engine.unload_adapter`."""
        return self._runtime_of(model).unload_adapter(model, name, drain=drain)

    def hold_adapter(self, model: str, name: str) -> Coroutine[Any, Any, AdapterHold]:
        """See :meth:`engine.types.Engine.hold_adapter`."""
        return self._runtime_of(model).hold_adapter(model, name)

    def render_chat(self, model: str, conversation: Conversation) -> Coroutine[Any, Any, Prompt]:
        """See :meth:`engine.types.Engine.render_chat`."""
        return self._runtime_of(model).render_chat(model, conversation)

    def tokenize(
        self, model: str, text: str, *, keep_text: bool = False, add_special_tokens: bool = True
    ) -> Coroutine[Any, Any, Prompt]:
        """See :meth:`engine.types.Engine.tokenize`."""
        runtime = self._runtime_of(model)
        return runtime.tokenize(model, text, keep_text=keep_text, add_special_tokens=add_special_tokens)

    def tokenize_all(self, model: str, texts: Sequence[str]) -> Coroutine[Any, Any, Sequence[Prompt]]:
        """See :meth:`engine.types.Engine.tokenize_all`."""
        return self._runtime_of(model).tokenize_all(model, texts)

    def tokenize_pairs(self, model: str, pairs: Sequence[tuple[str, str]]) -> Coroutine[Any, Any, Pairs]:
        """See :meth:`engine.types.Engine.tokenize_pairs`."""
        return self._runtime_of(model).tokenize_pairs(model, pairs)

    def detokenize(self, model: str, token_ids: Sequence[int]) -> Coroutine[Any, Any, str]:
        """See :meth:`engine.types.Engine.detokenize`."""
        return self._runtime_of(model).detokenize(model, token_ids)

    def token_strings(self, model: str, token_ids: Sequence[int]) -> Coroutine[Any, Any, Sequence[str]]:
        """See :meth:`engine.types.Engine.token_strings`."""
        return self._runtime_of(model).token_strings(model, token_ids)

    def constrain(
        self, model: str, constraint: Constraint | None, parsing: Parsing | None, *, tenant: str = ""
    ) -> Coroutine[Any, Any, None]:
        """See :meth:`engine.types.Engine.constrain`."""
        return self._runtime_of(model).constrain(model, constraint, parsing, tenant=tenant)

    def check(self, request: GenerationRequest) -> None:
        """See :meth:`engine.types.Engine.check`."""
        self._runtime_of(request.model).check(request)

    def run(self, request: GenerationRequest, sink: DeltaSink) -> Coroutine[Any, Any, None]:
        """See :meth:`engine.types.Engine.run`."""
        return self._runtime_of(request.model).run(request, sink)

    def generate(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        """See :meth:`engine.types.Engine.generate`."""
        return self._runtime_of(request.model).generate(request)

    def transcription_cost(self, request: TranscriptionRequest) -> Coroutine[Any, Any, TranscriptionCost]:
        """See :meth:`engine.types.Engine.transcription_cost`."""
        return self._runtime_of(request.model).transcription_cost(request)

    def transcribe(self, request: TranscriptionRequest, sink: TranscriptSink) -> Coroutine[Any, Any, None]:
        """See :meth:`engine.types.Engine.transcribe`."""
        return self._runtime_of(request.model).transcribe(request, sink)

    def check_prompts(self, request: PoolingRequest) -> None:
        """See :meth:`engine.types.Engine.check_prompts`."""
        self._runtime_of(request.model).check_prompts(request)

    def embed(self, request: PoolingRequest) -> Coroutine[Any, Any, Embeddings]:
        """See :meth:`engine.types.Engine.embed`."""
        return self._runtime_of(request.model).embed(request)

    def classify(self, request: PoolingRequest) -> Coroutine[Any, Any, Classes]:
        """See :meth:`engine.types.Engine.classify`."""
        return self._runtime_of(request.model).classify(request)

    def score(self, request: PoolingRequest) -> Coroutine[Any, Any, Sequence[float]]:
        """See :meth:`engine.types.Engine.score`."""
        return self._runtime_of(request.model).score(request)
