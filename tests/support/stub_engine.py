"""A deterministic engine behind the real facade, for microseconds and for faults. Never proof that a feature works.

Like vLLM's output handler, one callback per step pushes what all running requests gained.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from hashlib import sha256 as sha256_of
from typing import Literal

from engine.pull import pull
from engine.types import (
    AdapterHold,
    AdapterInfo,
    AdapterInUse,
    AdapterNotFound,
    AdapterRefused,
    AdapterSpec,
    Classes,
    Constraint,
    Conversation,
    Delta,
    DeltaSink,
    Embeddings,
    EngineError,
    EngineOverloaded,
    EngineState,
    EngineUnavailable,
    FinishReason,
    GenerationFailed,
    GenerationRequest,
    Hold,
    ModelInfo,
    ModelKind,
    ModelState,
    ModelUnavailable,
    Pairs,
    Parsing,
    Phase,
    PoolingRequest,
    PoolState,
    Prompt,
    PromptTooLong,
    RequestRejected,
    TranscriptionCost,
    TranscriptionRequest,
    TranscriptSink,
    TransferFacts,
)
from tests.support import toy_model
from tests.support.stub_speech import StubSpeech
from tests.support.toy_model import Choice

LABELS = ("good", "bad", "neither")
WIDTH = 8
_INT64 = range(-(2**63), 2**63)
_HANG_POLL_SECONDS = 0.002


@dataclass(frozen=True, slots=True)
class StubConfig:
    """``step_seconds`` 0: as fast as the loop turns. ``reply_tokens``: length of a reply with EOS (None: varies).

    ``prefix_block``: cache whole prompts in blocks of so many tokens; 0: no prefix cache. ``speech_model``: a second
    model, one that transcribes. ``beside``: more models, which do not generate.
    """

    model: str = "stub"
    context_length: int = 8192
    step_seconds: float = 0.0
    tokens_per_step: int = 1
    max_running: int = 256
    max_waiting: int = 4096
    reply_tokens: int | None = None
    prefix_block: int = 0
    beside: tuple[tuple[str, ModelKind], ...] = ()
    images: bool = False
    speech_model: str | None = None


@dataclass(slots=True)
class Faults:
    """What goes wrong; change it at any time. ``fail_requests`` numbers requests from 1 in order of arrival.

    ``hang``: no progress (the phase says STALLED once ``hang_seen_after`` seconds passed); ``stall_first_token``: no
    request gets its first token; ``overload``: refuse with this retry_after; ``render_seconds``: how slow rendering is;
    ``prefill_seconds``: so is a prefill for a peer;
    ``pool_seconds``, ``pool_fails``: what does not generate takes so long, and fails;
    ``huge_delta``: characters that the second delta of a stream carries; ``fail_start``: ``start`` cannot load.
    """

    hang: bool = False
    hang_seen_after: float = 0.0
    stall_first_token: bool = False
    overload: float | None = None
    render_seconds: float = 0.0
    huge_delta: int | None = None
    fail_requests: frozenset[int] = frozenset()
    fail_after_tokens: int = 0
    fail_start: bool = False
    pool_seconds: float = 0.0
    pool_fails: bool = False
    prefill_seconds: float = 0.0


Ending = Literal["finished", "aborted", "failed"]


@dataclass(slots=True)
class Account:
    """What the engine knows of one request, dead or alive. ``emitted`` counts the tokens pushed to its sink."""

    prompt_tokens: int
    generated: int = 0
    emitted: int = 0
    finish_reasons: list[FinishReason] = field(default_factory=list)
    ending: Ending | None = None
    cached: int = 0


class StubEngine:
    """Implements :class:`engine.types.Engine`.

    Oracles: ``request_states`` (live requests), ``accounts`` and ``emitted`` (every request so far), ``finished``
    (choices by finish reason, as ``vllm:request_success_total`` counts them, abort and error too), ``sink_errors``
    (sinks that raised, which they must not) and :meth:`leaks`.
    """

    def __init__(self, config: StubConfig = StubConfig(), faults: Faults | None = None) -> None:
        self.config = config
        self.faults = faults or Faults()
        self.request_states: dict[str, _Running] = {}
        self.accounts: dict[str, Account] = {}
        self.finished: Counter[str] = Counter()
        self.speech = StubSpeech()
        self.sink_errors: list[BaseException] = []
        self.model_state = ModelState.READY
        self.holds = 0
        self.generated_tokens = 0
        self.transfer: TransferFacts | None = None
        self.prefills: list[GenerationRequest] = []
        self.transferred: list[Mapping[str, object]] = []
        self._waiting: deque[_Running] = deque()
        self._running: dict[str, _Running] = {}
        self._phase = Phase.STARTING
        self._restarts = 0
        self._arrivals = 0
        self._cached: set[tuple[str | None, tuple[int, ...]]] = set()
        self._hanging_since: float | None = None
        self._ticker: asyncio.Handle | None = None
        self._restart: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._adapters: dict[str, AdapterInfo] = {}
        self._held: Counter[str] = Counter()

    # --- the facade --------------------------------------------------------------------------------------------

    def models(self) -> Sequence[ModelInfo]:
        ear = self.config.speech_model
        first = ModelInfo(
            self.config.model,
            1_700_000_000,
            self.config.context_length,
            images=self.config.images,
            state=self.model_state,
            running=len(self._running),
            waiting=len(self._waiting),
            kv_usage=min(1.0, len(self._running) / self.config.max_running),
            generated_tokens=self.generated_tokens,
        )
        hearing = [] if ear is None else [ModelInfo(ear, 1_700_000_000, 448, kind="transcribe")]
        return [first, *hearing, *(self._beside(name, kind) for name, kind in self.config.beside)]

    def _beside(self, name: str, kind: ModelKind) -> ModelInfo:
        labels = LABELS if kind == "classify" else ()
        width = WIDTH if kind == "embed" else 0
        return ModelInfo(name, 1_700_000_000, self.config.context_length, kind=kind, labels=labels, width=width)

    def model(self, name: str) -> ModelInfo | None:
        return next((model for model in self.models() if model.id == name), None)

    def pool(self) -> PoolState:
        return PoolState(0, 0)

    def state(self) -> EngineState:
        running = sum(len(each.open) for each in self._running.values())
        return EngineState(
            phase=self.phase,
            running=running,
            waiting=sum(len(each.open) for each in self._waiting),
            queued_tokens=sum(each.account.prompt_tokens for each in self._waiting),
            kv_usage=min(1.0, running / self.config.max_running),
            restarts=self._restarts,
            generated_tokens=self.generated_tokens,
        )

    def slots(self, model: str) -> int:
        return self.config.max_running

    @property
    def phase(self) -> Phase:
        if self._phase is not Phase.READY or not self.faults.hang:
            self._hanging_since = None
            return self._phase
        now = asyncio.get_running_loop().time()
        self._hanging_since = now if self._hanging_since is None else self._hanging_since
        return Phase.STALLED if now - self._hanging_since >= self.faults.hang_seen_after else Phase.READY

    async def start(self) -> None:
        if self.faults.fail_start:
            self._phase = Phase.FAILED
            raise EngineUnavailable("the stub was told not to start")
        self._phase = Phase.READY

    async def drain(self) -> None:
        if self._phase is not Phase.STOPPED:
            self._phase = Phase.DRAINING
        await self._idle.wait()

    async def stop(self) -> None:
        self._phase = Phase.STOPPED
        if self._restart is not None:
            self._restart.cancel()
        self._fail_all("the engine stopped")
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None

    async def hold(self, model: str) -> Hold:
        if self.model_state is not ModelState.READY:
            raise ModelUnavailable("not in memory", state=self.model_state)
        self.holds += 1
        return self

    def release(self) -> None:
        self.holds -= 1

    async def load(self, model: str) -> None:
        self._check_model(model)
        self.model_state = ModelState.READY

    async def unload(self, model: str) -> None:
        self._check_model(model)
        self.model_state = ModelState.UNLOADED

    async def render_chat(self, model: str, conversation: Conversation) -> Prompt:
        await self._slowly(model)
        return Prompt(toy_model.render(conversation.messages))

    async def tokenize(
        self, model: str, text: str, *, keep_text: bool = False, add_special_tokens: bool = True
    ) -> Prompt:
        await self._slowly(model)
        return Prompt(toy_model.encode(text), text if keep_text else None)

    async def tokenize_all(self, model: str, texts: Sequence[str]) -> Sequence[Prompt]:
        await self._slowly(model)
        return [Prompt(toy_model.encode(text)) for text in texts]

    async def tokenize_pairs(self, model: str, pairs: Sequence[tuple[str, str]]) -> Pairs:
        return Pairs(await self.tokenize_all(model, [first + second for first, second in pairs]), None)

    async def detokenize(self, model: str, token_ids: Sequence[int]) -> str:
        await self._slowly(model)
        return toy_model.decode(token_ids)

    async def token_strings(self, model: str, token_ids: Sequence[int]) -> Sequence[str]:
        await self._slowly(model)
        return [toy_model.decode([token_id]) for token_id in token_ids]

    async def constrain(
        self, model: str, constraint: Constraint | None, parsing: Parsing | None, *, tenant: str = ""
    ) -> None:
        self._check_model(model)

    async def look_at_adapters(self) -> None:
        """They are always those of now."""

    def adapters(self) -> Sequence[AdapterInfo]:
        return [replace(info, running=self._held[name]) for name, info in self._adapters.items()]

    async def load_adapter(self, spec: AdapterSpec) -> AdapterInfo:
        self._check_model(spec.model)
        if not spec.path:
            raise AdapterRefused("no copy")
        sha256 = sha256_of(spec.path.encode()).hexdigest()
        info = AdapterInfo(spec.model, spec.name, sha256, 8, 1024, 1_700_000_000, "resident", spec.pinned)
        self._adapters[spec.name] = info
        return info

    async def unload_adapter(self, model: str, name: str, *, drain: bool = False) -> None:
        self._check_adapter(model, name)
        if not drain and self._held[name]:
            raise AdapterInUse(self._held[name])
        del self._adapters[name]

    async def hold_adapter(self, model: str, name: str) -> AdapterHold:
        self._check_adapter(model, name)
        self._held[name] += 1
        return _Hold(self._held, name)

    async def transcription_cost(self, request: TranscriptionRequest) -> TranscriptionCost:
        return self.speech.cost(request)

    async def transcribe(self, request: TranscriptionRequest, sink: TranscriptSink) -> None:
        if self.phase is not Phase.READY:
            raise EngineUnavailable(f"the engine is {self.phase.value}")
        await self.speech.transcribe(request, sink)

    def check(self, request: GenerationRequest) -> None:
        self._check_model(request.model)
        _check_integers(request)
        _check_length(request, self.config.context_length)

    async def run(self, request: GenerationRequest, sink: DeltaSink) -> None:
        if request.transfer is not None:
            self.transferred.append(request.transfer)
        queued = time.monotonic()
        running = self._admit(request, sink)
        try:
            await running.done
        finally:
            self._forget(running)
            if request.times is not None:
                now = time.monotonic()
                request.times.ran(queued, queued, now if running.account.emitted else None, now)

    def transfer_facts(self, model: str) -> TransferFacts | None:
        return self.transfer if self.phase is Phase.READY else None

    async def prefill(self, request: GenerationRequest, sink: DeltaSink) -> Mapping[str, object] | None:
        """Hands on a promise of so many tokens, which any other stub believes."""
        self.prefills.append(request)
        await asyncio.sleep(self.faults.prefill_seconds)
        await self.run(request, sink)
        return {"tokens": len(request.prompt.token_ids)}

    def generate(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        return pull(self, request)

    def check_prompts(self, request: PoolingRequest) -> None:
        self._check_model(request.model)
        for prompt in request.prompts:
            if len(prompt.token_ids) > self.config.context_length:
                raise PromptTooLong(prompt_tokens=len(prompt.token_ids), limit=self.config.context_length)
        if request.dimensions is not None and request.dimensions > WIDTH:
            raise RequestRejected("too many dimensions", param="dimensions")

    async def embed(self, request: PoolingRequest) -> Embeddings:
        vectors = [stub_vector(prompt)[: request.dimensions] for prompt in await self._pooled(request)]
        return Embeddings(len(vectors[0]), [array("f", vector).tobytes() for vector in vectors])

    async def classify(self, request: PoolingRequest) -> Classes:
        rows = [stub_vector(prompt)[: len(LABELS)] for prompt in await self._pooled(request)]
        return Classes(LABELS, [[abs(value) / sum(map(abs, row)) for value in row] for row in rows])

    async def score(self, request: PoolingRequest) -> Sequence[float]:
        return [stub_vector(prompt)[0] for prompt in await self._pooled(request)]

    async def _pooled(self, request: PoolingRequest) -> Sequence[Prompt]:
        self.check_prompts(request)
        accounts = [Account(len(prompt.token_ids)) for prompt in request.prompts]
        self.accounts |= {f"{request.request_id}-{index}": account for index, account in enumerate(accounts)}
        ending: Ending = "aborted"
        try:
            await asyncio.sleep(self.faults.pool_seconds)
            ending = "failed"
            if self.faults.pool_fails:
                raise GenerationFailed("the stub was told to fail this request")
            ending = "finished"
        finally:
            for account in accounts:
                account.ending = ending
        return request.prompts

    # --- faults and oracles ------------------------------------------------------------------------------------

    def die(self, restart_after: float | None = 0.05) -> None:
        """The engine core dies: everyone gets EngineUnavailable; READY again after so many seconds (None: never)."""
        self._fail_all("the engine died")
        if self._phase is not Phase.READY:
            return
        self._phase = Phase.FAILED if restart_after is None else Phase.RESTARTING
        if restart_after is not None:
            self._restart = asyncio.get_running_loop().call_later(restart_after, self._back)

    @property
    def emitted(self) -> dict[str, int]:
        """Tokens pushed to the sink of every request so far."""
        return {request_id: account.emitted for request_id, account in self.accounts.items()}

    def leaks(self) -> list[str]:
        """What is left although nothing should be; empty at rest."""
        left = [f"request_states still holds {request_id}" for request_id in self.request_states]
        left += [f"{self.holds} holds on the model"] * bool(self.holds)
        left += [f"running still holds {request_id}" for request_id in self._running]
        left += [f"waiting still holds {each.request.request_id}" for each in self._waiting]
        left += [f"adapter {name} is held" for name, count in self._held.items() if count]
        left += [f"{request_id} has no ending" for request_id, account in self.accounts.items() if not account.ending]
        return left

    def _back(self) -> None:
        self._restarts += 1
        self._restart = None
        self._phase = Phase.READY

    def _fail_all(self, message: str) -> None:
        for running in list(self.request_states.values()):
            running.fail(EngineUnavailable(message))

    # --- the inside --------------------------------------------------------------------------------------------

    async def _slowly(self, model: str) -> None:
        self._check_model(model)
        if self.faults.render_seconds:
            await asyncio.sleep(self.faults.render_seconds)

    def _check_adapter(self, model: str, name: str) -> None:
        self._check_model(model)
        if name not in self._adapters:
            raise AdapterNotFound("no such adapter")

    def _check_model(self, model: str) -> None:
        if self.model(model) is None:
            raise RequestRejected("no such model", param="model")

    def _admit(self, request: GenerationRequest, sink: DeltaSink) -> _Running:
        self.check(request)
        if request.adapter is not None:
            self._check_adapter(request.model, request.adapter)
        if self.phase is not Phase.READY:
            raise EngineUnavailable(f"the engine is {self.phase.value}")
        if self.faults.overload is not None or len(self._waiting) >= self.config.max_waiting:
            raise EngineOverloaded("the queue is full", retry_after=self.faults.overload or 1.0)
        if request.request_id in self.accounts:
            raise ValueError(f"request id {request.request_id} was used before")
        return self._enqueue(request, sink)

    def _enqueue(self, request: GenerationRequest, sink: DeltaSink) -> _Running:
        self._arrivals += 1
        running = _Running(self, request, sink, doomed=self._arrivals in self.faults.fail_requests)
        self.accounts[request.request_id] = running.account
        self.request_states[request.request_id] = running
        self._waiting.append(running)
        self._idle.clear()
        self._wake()
        return running

    def cached_tokens(self, request: GenerationRequest) -> int:
        """Tokens of the prompt that an earlier request of the same salt left in the prefix cache."""
        block, ids = self.config.prefix_block, tuple(request.prompt.token_ids)
        if not block:
            return 0
        found = 0
        for end in range(block, len(ids), block):
            key = (request.cache_salt, ids[:end])
            if key in self._cached and found == end - block:
                found = end
            self._cached.add(key)
        return found

    def _forget(self, running: _Running) -> None:
        request_id = running.request.request_id
        self.request_states.pop(request_id, None)
        self._running.pop(request_id, None)
        if running in self._waiting:
            self._waiting.remove(running)
        running.account.ending = running.ending()
        if running.account.ending != "finished":
            self.finished["abort" if running.account.ending == "aborted" else "error"] += len(running.open)
        if not self.request_states:
            self._idle.set()

    def _wake(self) -> None:
        if self._ticker is None:
            self._ticker = self._later(self.config.step_seconds)

    def _later(self, seconds: float) -> asyncio.Handle:
        loop = asyncio.get_running_loop()
        return loop.call_later(seconds, self._step) if seconds > 0 else loop.call_soon(self._step)

    def _step(self) -> None:
        self._ticker = None
        if not self.request_states:
            return
        if self.faults.hang:
            self._ticker = self._later(_HANG_POLL_SECONDS)
            return
        self._schedule()
        for running in list(self._running.values()):
            running.step(self.config.tokens_per_step)
        self._ticker = self._later(self.config.step_seconds)

    def _schedule(self) -> None:
        while self._waiting and len(self._running) < self.config.max_running:
            running = self._waiting.popleft()
            if not running.done.done():
                self._running[running.request.request_id] = running


class _Hold:
    def __init__(self, held: Counter[str], name: str) -> None:
        self._held = held
        self._name: str | None = name

    def release(self) -> None:
        if self._name is not None:
            self._held[self._name] -= 1
            self._name = None


def stub_vector(prompt: Prompt) -> list[float]:
    """A vector of length 1 that depends on nothing but the prompt."""
    raw = blake2b(repr((list(prompt.token_ids), prompt.second_from)).encode(), digest_size=WIDTH).digest()
    length = sum((byte - 127.5) ** 2 for byte in raw) ** 0.5
    return [(byte - 127.5) / length for byte in raw]


class _Running:
    """One request inside the engine."""

    def __init__(self, engine: StubEngine, request: GenerationRequest, sink: DeltaSink, *, doomed: bool) -> None:
        sampling = request.sampling
        self.engine = engine
        self.request = request
        self.account = Account(prompt_tokens=len(request.prompt.token_ids))
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.open = {index: Choice(request, index, engine.config.reply_tokens) for index in range(sampling.n)}
        self._sink = sink
        self._doomed = doomed
        self._pushes = 0
        # The same condition as the real engine's hot path.
        self._plain = request.stream and sampling.n == 1 and not sampling.stop and sampling.logprobs is None

    def fail(self, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def ending(self) -> Ending:
        if not self.done.done() or self.done.cancelled():
            return "aborted"
        return "failed" if self.done.exception() else "finished"

    def step(self, tokens: int) -> None:
        """Generate up to ``tokens`` for every open choice and push what there is."""
        if self.done.done() or (self.engine.faults.stall_first_token and not self.account.generated):
            return
        try:
            self._advance(tokens)
        except EngineError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - like the real engine: one sink's failure is one request's failure
            self.engine.sink_errors.append(error)
            self.fail(GenerationFailed(f"{type(error).__name__} in the engine"))

    def _advance(self, tokens: int) -> None:
        if self._doomed and self.account.generated >= self.engine.faults.fail_after_tokens:
            raise GenerationFailed("the stub was told to fail this request")
        for choice in list(self.open.values()):
            gained = choice.advance(tokens)
            self.account.generated += gained.tokens
            self.engine.generated_tokens += gained.tokens
            if self.request.stream:
                self._push(gained)
            elif gained.finish_reason is not None:
                self._push(choice.final(gained))
            if gained.finish_reason is not None:
                self._close(choice.index, gained.finish_reason)

    def _push(self, delta: Delta) -> None:
        self._pushes += 1
        if self._pushes == 1 and (cached := self.engine.cached_tokens(self.request)):
            self._sink.cached(cached)
            self.account.cached = cached
        if self._pushes == 2 and self.engine.faults.huge_delta is not None:
            delta.text = "x" * self.engine.faults.huge_delta
        self.account.emitted += delta.tokens
        if self._plain and self._pushes > 1 and delta.finish_reason is None:
            self._sink.text(delta.text, delta.tokens)
        else:
            self._sink.delta(delta)

    def _close(self, index: int, reason: FinishReason) -> None:
        del self.open[index]
        self.account.finish_reasons.append(reason)
        self.engine.finished[reason] += 1
        if not self.open and not self.done.done():
            self.done.set_result(None)


def _check_integers(request: GenerationRequest) -> None:
    sampling = request.sampling
    numbers = (sampling.max_tokens, sampling.n, sampling.top_k, sampling.seed or 0, sampling.logprobs or 0)
    if any(number not in _INT64 for number in numbers) or sampling.max_tokens < 1 or sampling.n < 1:
        raise ValueError("the gateway let an integer through that the engine cannot carry")


def _check_length(request: GenerationRequest, limit: int) -> None:
    prompt, wanted = len(request.prompt.token_ids), request.sampling.max_tokens
    if prompt >= limit:
        raise PromptTooLong(prompt_tokens=prompt, limit=limit)
    if prompt + wanted > limit:
        raise PromptTooLong(prompt_tokens=prompt, limit=limit, max_tokens=wanted)
