"""The facade between the gateway and the models: plain values and one Protocol, no vLLM.

Exceptions a caller of the facade can see::

    EngineError
     ├── RequestRejected        the request itself can never succeed (names the field)
     │    ├── PromptTooLong     prompt + max_tokens do not fit the context (carries both numbers)
     │    └── UnknownToken      a token id that the model has no embedding for
     ├── AdapterNotFound        the model has no adapter of that name
     ├── AdapterRefused         files that no engine may be given (says what is wrong with them)
     ├── AdapterInUse           requests run on it, and nobody asked to wait for them
     ├── AdapterUnavailable     a known adapter that cannot be brought into the engine now
     ├── EngineOverloaded       queue bounds reached; retry later
     │    └── SchemasWaiting    too many new schemas wait to be judged; retry later
     ├── EngineUnavailable      not started, dead, hung or restarting; retry later
     │    └── ModelUnavailable  this one model is not in memory, for a reason; others are not affected
     └── GenerationFailed       this one generation ended in an error inside the engine
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import msgspec

#: ``tool_calls``: the choice ended by itself, and called at least one tool. ``content_filter``: a guard cut it short,
#: which is never the engine's own doing.
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class EngineError(Exception):
    """Base of everything the facade raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        """As it is, whatever its constructor asks for: processes that share an engine tell each other."""
        return _same_error, (type(self), self.args, dict(self.__dict__))


def _same_error(kind: type[EngineError], args: tuple[Any, ...], fields: dict[str, Any]) -> EngineError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(fields)
    return error


class RequestRejected(EngineError):
    """The engine can never serve this request as it stands.

    ``param`` is the wire name of the offending field, or None when no single field is at fault; ``code`` is the wire's
    word for what is wrong with it.
    """

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class PromptTooLong(RequestRejected):
    """The prompt (``prompt_tokens``) plus ``max_tokens`` exceeds the context (``limit``), all in tokens.

    ``prompt_tokens`` is a lower bound when ``exact`` is False: very long texts are refused by their
    size in bytes, before the tokeniser sees them. ``max_tokens`` is None when the prompt alone is too long.
    """

    def __init__(self, *, prompt_tokens: int, limit: int, max_tokens: int | None = None, exact: bool = True) -> None:
        super().__init__("prompt too long")
        self.prompt_tokens = prompt_tokens
        self.limit = limit
        self.max_tokens = max_tokens
        self.exact = exact


class UnknownToken(RequestRejected):
    """``token_id`` is outside the model's vocabulary of ``vocabulary`` tokens."""

    def __init__(self, token_id: int, vocabulary: int) -> None:
        super().__init__(f"token id {token_id} is not in the vocabulary of {vocabulary} tokens")
        self.token_id = token_id
        self.vocabulary = vocabulary


class AdapterNotFound(EngineError):
    """The model has no adapter of that name, or takes none at all."""


class AdapterRefused(EngineError):
    """An adapter that must not, or can not, be loaded.

    ``code``: ``unsafe_artifact`` for files that could hold code, ``too_many`` for one more than this server keeps,
    ``invalid_adapter`` for all that does not fit.
    """

    def __init__(
        self, message: str, *, code: Literal["unsafe_artifact", "invalid_adapter", "too_many"] = "invalid_adapter"
    ) -> None:
        super().__init__(message)
        self.code = code


class AdapterInUse(EngineError):
    """``running`` requests hold the adapter."""

    def __init__(self, running: int) -> None:
        super().__init__(f"{running} requests run on the adapter")
        self.running = running


class AdapterUnavailable(EngineError):
    """A known adapter that cannot be brought into the engine now. ``retry_after`` in seconds.

    ``broken``: its files do not load; trying again at once is of no use.
    """

    def __init__(self, message: str, *, retry_after: float, broken: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.broken = broken


class EngineOverloaded(EngineError):
    """Queue bounds reached. ``retry_after`` is the engine's estimate in seconds."""

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SchemasWaiting(EngineOverloaded):
    """Too many schemas that are new to the engine wait to be judged; requests without one are not held up."""


class EngineUnavailable(EngineError):
    """The engine cannot take or finish requests now. ``retry_after`` in seconds."""

    def __init__(self, message: str, *, retry_after: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ModelUnavailable(EngineUnavailable):
    """The model is not in memory and cannot be used now. ``state`` says why; ``retry_after`` in seconds."""

    def __init__(self, message: str, *, state: ModelState, retry_after: float = 5.0) -> None:
        super().__init__(message, retry_after=retry_after)
        self.state = state


class GenerationFailed(EngineError):
    """The engine ended this one generation with an error; others are not affected."""


class Sampling(msgspec.Struct, frozen=True, gc=False):
    """How to sample. Bounds are checked at the wire; every integer here fits an int64.

    ``max_tokens`` is in tokens per choice. ``logprobs`` is the number of alternatives per token
    (0: only the chosen token's own); None: none at all.
    """

    max_tokens: int
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logit_bias: Mapping[int, float] | None = None
    logprobs: int | None = None
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt ready for the engine. ``text`` is kept only where the caller needs it back (``echo``).

    ``media``: the engine's own form of the images whose places are among ``token_ids``; nobody else looks into it.
    ``second_from``: where the second of two texts begins, for models that are told.
    """

    token_ids: Sequence[int]
    text: str | None = None
    media: object | None = None
    second_from: int | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. ``parameters`` is a JSON Schema of an object; None: no parameters.

    ``strict``: arguments are held to ``parameters`` by grammar. ``param``: where the schema stands in the request.
    """

    name: str
    description: str | None = None
    parameters: Mapping[str, object] | None = None
    strict: bool = False
    param: str = ""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools of a request, and what the model may do with them.

    ``only``: names of the tools that may be called, empty for all; a forced function is ``required`` with one name.
    ``parallel``: whether one answer may hold several calls.
    """

    tools: tuple[Tool, ...]
    choice: Literal["auto", "none", "required"] = "auto"
    only: tuple[str, ...] = ()
    parallel: bool = True


@dataclass(frozen=True, slots=True)
class Parsing:
    """What the output is taken apart into besides plain content: tool calls, reasoning."""

    tools: ToolUse | None = None
    reasoning: bool = False


ConstraintKind = Literal["json_schema", "json_object", "regex", "choice", "grammar"]


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the output must be. ``text``: the schema or the list of choices as JSON, the regular expression, the EBNF;
    empty for ``json_object``. ``param``: where it stands in the request. ``description``: what the caller says the
    output is; for the model to read, the grammar knows nothing of it.
    """

    kind: ConstraintKind
    text: str
    param: str
    description: str | None = None


class AdapterHold(Protocol):
    """Keeps one version of an adapter in the engine until it is released."""

    def release(self) -> None:
        """Let go. Idempotent."""


@dataclass(slots=True)
class EngineTimes:
    """When the engine had the generations of one request, as ``time.monotonic`` seconds; None: it did not come to that.

    Of several the first counts, of their last tokens the last. Noted once, when a generation ends.
    """

    queued_at: float | None = None
    scheduled_at: float | None = None
    first_token_at: float | None = None
    last_token_at: float | None = None

    def ran(
        self, queued: float | None, scheduled: float | None, first_token: float | None, last_token: float | None
    ) -> None:
        """One generation has ended."""
        self.queued_at = _earlier(self.queued_at, queued)
        self.scheduled_at = _earlier(self.scheduled_at, scheduled)
        self.first_token_at = _earlier(self.first_token_at, first_token)
        if last_token is not None:
            self.last_token_at = max(last_token, self.last_token_at or last_token)


def _earlier(one: float | None, other: float | None) -> float | None:
    return one if other is None else other if one is None else min(one, other)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One generation of ``sampling.n`` choices. ``request_id`` is made by the gateway, never by a client.

    ``stream``: deltas as they come; otherwise exactly one final :class:`Delta` per choice. Of those that wait for the
    engine, the lowest ``priority`` is first; it fits an int64. Only requests of equal ``cache_salt`` share cached
    prompts. ``parsing`` None: all output is content. ``adapter``: its name among the model's; ``hold``, if there is
    one, says which version, and the engine has it already. ``transfer``: what another engine's :meth:`Engine.prefill`
    of the same prompt returned, which is fetched instead of computed. ``times``: where to note when
    it was in which phase.
    """

    request_id: str
    model: str
    prompt: Prompt
    sampling: Sampling
    stream: bool
    priority: int = 0
    cache_salt: str | None = None
    constraint: Constraint | None = None
    parsing: Parsing | None = None
    adapter: str | None = None
    hold: AdapterHold | None = None
    transfer: Mapping[str, object] | None = None
    times: EngineTimes | None = None


@dataclass(frozen=True, slots=True)
class TransferFacts:
    """What two engines must have in common for one to go on from the other's KV cache.

    ``weights`` is a digest of the model's configuration and files, ``dtype`` of model and cache, ``block_size`` tokens.
    """

    connector: str
    weights: str
    dtype: str
    block_size: int


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token with its log-probability (natural log) and its UTF-8 bytes."""

    token: str
    logprob: float
    bytes: bytes


@dataclass(frozen=True, slots=True)
class PositionLogprobs:
    """What the model thought at one position: the chosen token and the ``top`` alternatives, best first."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """What one tool call of a choice gained. ``name`` comes once, with the call's first delta, and whole."""

    index: int
    name: str | None
    arguments: str


@dataclass(slots=True)
class Delta:
    """What one choice gained. ``tokens`` counts new tokens; ``finish_reason`` is set on a choice's last delta.

    ``text`` is content only. ``reasoning_tokens`` are among ``tokens``. ``stop``: the stop string that ended it.
    """

    index: int
    text: str
    tokens: int
    finish_reason: FinishReason | None = None
    logprobs: tuple[PositionLogprobs, ...] | None = None
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    reasoning_tokens: int = 0
    stop: str | None = None


class DeltaSink(Protocol):
    """Where the engine pushes deltas, from its own output handler on the event loop: must not block or raise.

    ``text`` is the hot path: choice 0 gained plain text and did not finish. Everything else comes by ``delta``.
    """

    def text(self, text: str, tokens: int) -> None:
        """Choice 0 gained ``text`` (perhaps empty), made of ``tokens`` tokens."""

    def delta(self, delta: Delta) -> None:
        """Any other gain."""

    def cached(self, tokens: int) -> None:
        """``tokens`` of the prompt were found in the prefix cache. At most once, before the first gain."""


class Phase(enum.Enum):
    """Life of the engine. STALLED: alive but without progress. FAILED: gave up restarting."""

    STARTING = "starting"
    READY = "ready"
    STALLED = "stalled"
    RESTARTING = "restarting"
    DRAINING = "draining"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class EngineState:
    """A snapshot for readiness, metrics and admission; cheap to take. Counts are sequences, not requests.

    ``generated_tokens``: since the engine's last start, so it may fall.
    ``told_at``: when an engine last said how it is, by the machine's monotonic clock.
    """

    phase: Phase
    running: int
    waiting: int
    queued_tokens: int
    kv_usage: float
    restarts: int
    detail: str | None = None
    generated_tokens: int = 0
    told_at: float = 0.0


#: What a model is for. ``embed``: text to a vector; ``classify``: text to labels; ``score``: two texts to a number.
ModelKind = Literal["generate", "embed", "classify", "score", "transcribe"]


class ModelState(enum.Enum):
    """Where a model is. COLD: not in memory, loaded by the first request that names it. UNLOADED: taken out by an
    administrator, and out until it is loaded again. UNLOADING: its last requests end. SLEEPING: its weights were moved
    out of the device's memory and come back fast. FAILED: it could not be loaded, or its engine gave up.
    """

    COLD = "cold"
    LOADING = "loading"
    READY = "ready"
    SLEEPING = "sleeping"
    UNLOADING = "unloading"
    UNLOADED = "unloaded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that can be named in a request. ``created`` is Unix seconds, ``context_length`` tokens.

    ``images``: it takes them in messages. ``reasoning``: it thinks before it answers, and a parser takes that apart.
    ``adapter``: the one that was named together with the model, by whoever resolved a name to both.
    ``context_length``, ``labels`` (of a classifier, in order) and ``width`` (of embeddings) are empty before the model
    was loaded once. ``phase``: its engine's, None while there is none. ``size_bytes``: memory of its processes;
    ``load_seconds``: how long the last load took; ``detail``: why it failed; ``users``: requests that hold it now.
    ``running``, ``waiting``, ``kv_usage`` and ``generated_tokens`` are its engine's, as in :class:`EngineState`.
    """

    id: str
    created: int
    context_length: int
    images: bool = False
    reasoning: bool = False
    adapter: str | None = None
    kind: ModelKind = "generate"
    state: ModelState = ModelState.READY
    phase: Phase | None = None
    pinned: bool = False
    preload: bool = True
    labels: tuple[str, ...] = ()
    width: int = 0
    size_bytes: int = 0
    load_seconds: float | None = None
    detail: str | None = None
    users: int = 0
    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    generated_tokens: int = 0


@dataclass(frozen=True, slots=True)
class AdapterSpec:
    """An adapter to be served: ``path`` is a directory that holds it in PEFT's format; empty: the engine's own copy.

    ``sha256``: what its content must be (:attr:`AdapterInfo.sha256`), None for whatever is there. ``pinned``: it stays
    in the engine.
    """

    model: str
    name: str
    path: str
    sha256: str | None = None
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """An adapter that may be named. ``sha256`` is of its content, and so its version; ``size`` is bytes of weights.

    ``running`` counts the requests that hold it. ``broken``: why it cannot be loaded, for a minute after a try.
    """

    model: str
    name: str
    sha256: str
    rank: int
    size: int
    created: int
    state: Literal["cold", "loading", "resident", "broken"]
    pinned: bool = False
    running: int = 0
    broken: str | None = None


@dataclass(frozen=True, slots=True)
class PoolState:
    """Memory of the models together, in bytes, and what happened since the start."""

    budget_bytes: int
    used_bytes: int
    loads: Mapping[tuple[str, str], int] = field(default_factory=dict)
    evictions: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PoolingRequest:
    """Texts to be run through a model that does not generate, in one batch.

    ``request_id`` is made by the gateway, never by a client. ``pairs`` is for scores: index of the first and of the
    second text among ``prompts``; None: each prompt is a pair already. ``dimensions``: cut embeddings to their first
    so many numbers.
    """

    request_id: str
    model: str
    prompts: Sequence[Prompt]
    priority: int = 0
    pairs: Sequence[tuple[int, int]] | None = None
    dimensions: int | None = None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector of ``width`` numbers per prompt, in order, of length 1: float32, little-endian."""

    width: int
    vectors: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Classes:
    """One row per prompt, in order: the probability of each of ``labels``."""

    labels: tuple[str, ...]
    rows: Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of texts as the model takes them; see :class:`PoolingRequest`."""

    prompts: Sequence[Prompt]
    pairs: Sequence[tuple[int, int]] | None


class Hold(Protocol):
    """Keeps a model in memory while a request needs it."""

    def release(self) -> None:
        """The request is over. Called once; never blocks or fails."""


#: Samples per second of a :class:`Sound`.
SOUND_RATE = 16_000


@dataclass(frozen=True, slots=True)
class Sound:
    """Decoded sound: 16-bit mono ``samples`` of the machine's byte order at :data:`SOUND_RATE`."""

    samples: memoryview

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / SOUND_RATE


@dataclass(frozen=True, slots=True)
class TranscriptionRequest:
    """What was said in ``sound``, as it was said or (``translate``) in English. ``request_id`` is the gateway's.

    ``language``: an ISO 639-1 code, None to find out. ``prompt``: text that comes before, for style and spelling.
    """

    request_id: str
    model: str
    sound: Sound
    task: Literal["transcribe", "translate"] = "transcribe"
    language: str | None = None
    prompt: str = ""
    temperature: float = 0.0
    priority: int = 0


@dataclass(frozen=True, slots=True)
class TranscriptionCost:
    """The most that a transcription may use: tokens that the model reads (those of the sound included) and writes.

    ``sequences`` is how many pieces of the sound run at once.
    """

    prompt_tokens: int
    max_tokens: int
    sequences: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a transcript. ``start`` and ``end`` are seconds of the whole sound; ``text`` begins with its space.

    ``tokens`` are the model's, timestamps included; ``logprob`` is their mean log-probability (natural log) over the
    piece of sound that it was heard in, ``no_speech`` the probability that nobody spoke in that piece.
    ``compression``: bytes of the text over bytes of it compressed; repetition makes it large. ``seek``: where that
    piece begins, in hundredths of a second.
    """

    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    logprob: float
    compression: float
    no_speech: float
    seek: int


class TranscriptSink(Protocol):
    """Where a transcript goes, in the order of the sound; on the event loop, must not block or raise."""

    def spent(self, tokens: int) -> None:
        """The model wrote ``tokens`` more, heard or not."""

    def heard(self, language: str) -> None:
        """The language, an ISO 639-1 code, given or found; once, before the first segment."""

    def segment(self, segment: Segment) -> None:
        """The next segment."""


Role = Literal["system", "developer", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Image:
    """A decoded picture: ``rgb`` holds height x width x 3 bytes, rows from the top."""

    width: int
    height: int
    rgb: bytes


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model made earlier in the conversation. ``arguments`` is the JSON text as it came."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation. ``content``: text, or pieces of text and images in order.

    ``tool_calls`` and ``reasoning`` are of assistants; ``tool_call_id`` says which call a ``tool`` message answers.
    """

    role: Role
    content: str | tuple[str | Image, ...]
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str | None = None


ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a chat template is given."""

    messages: Sequence[ChatMessage]
    tools: ToolUse | None = None
    effort: ReasoningEffort | None = None


class Engine(Protocol):
    """What the gateway sees of the models."""

    def models(self) -> Sequence[ModelInfo]:
        """Every model that may be named, whatever its state."""

    def model(self, name: str) -> ModelInfo | None:
        """The model of that name, as of the last change of its state; a look-up."""

    def state(self) -> EngineState:
        """The engine now."""

    def slots(self, model: str) -> int:
        """Sequences that the engine of ``model`` batches at once; 0 before its first start."""

    def pool(self) -> PoolState:
        """Memory and history of the models together; cheap to take."""

    async def start(self) -> None:
        """Load what is to be in memory from the start; returns when that can serve.

        Raises :class:`EngineUnavailable` if the first of them cannot; a later one is then ``FAILED``.
        """

    async def drain(self) -> None:
        """Refuse new requests and return when none is left."""

    async def stop(self) -> None:
        """End every request with :class:`EngineUnavailable` and leave no process behind. Idempotent."""

    async def hold(self, model: str) -> Hold:
        """Have ``model`` in memory, and keep it there until the hold is released; everything below needs that.

        Waits with a bound while it is loaded, if that is the policy. Raises :class:`ModelUnavailable`.
        """

    async def load(self, model: str) -> None:
        """Have ``model`` in memory, also if it was unloaded or failed before; returns when it is.

        Raises :class:`RequestRejected` for an unknown model, :class:`ModelUnavailable` if it cannot be.
        """

    async def unload(self, model: str) -> None:
        """Take ``model`` out of memory when its last request has ended; new ones are refused meanwhile. Idempotent.

        Others are not stalled. Raises :class:`RequestRejected` for an unknown model.
        """

    async def render_chat(self, model: str, conversation: Conversation) -> Prompt:
        """Apply the chat template and tokenise, off the event loop. Special tokens in contents stay text."""

    async def tokenize(
        self, model: str, text: str, *, keep_text: bool = False, add_special_tokens: bool = True
    ) -> Prompt:
        """Tokenise plain text off the event loop. ``add_special_tokens``: those that begin or end every text."""

    async def tokenize_all(self, model: str, texts: Sequence[str]) -> Sequence[Prompt]:
        """Tokenise many plain texts in one go, off the event loop, with the tokens that begin and end them."""

    async def tokenize_pairs(self, model: str, pairs: Sequence[tuple[str, str]]) -> Pairs:
        """Tokenise pairs of texts as the model compares them: together, or each distinct text for itself."""

    async def detokenize(self, model: str, token_ids: Sequence[int]) -> str:
        """The text of token ids. Raises :class:`UnknownToken`."""

    async def token_strings(self, model: str, token_ids: Sequence[int]) -> Sequence[str]:
        """Each id as the tokeniser spells it. Raises :class:`UnknownToken`."""

    async def constrain(
        self, model: str, constraint: Constraint | None, parsing: Parsing | None, *, tenant: str = ""
    ) -> None:
        """Judge, under a budget and off the event loop, the grammar that these ask of the output; remembered.

        ``run`` takes only what was judged here. Tenants take turns. Raises :class:`RequestRejected` with the ``code``
        and ``param`` of the schema or tool at fault, :class:`SchemasWaiting` when too many wait to be judged.
        """

    def adapters(self) -> Sequence[AdapterInfo]:
        """Every adapter that may be named, of every model; as of the last look, if another process has the account."""

    async def look_at_adapters(self) -> None:
        """Bring :meth:`adapters` up to date. Raises :class:`EngineUnavailable`."""

    async def load_adapter(self, spec: AdapterSpec) -> AdapterInfo:
        """Check the files, keep a private copy of them, and let requests name the adapter from now on.

        Other content under a known name is a new version; requests that run end on theirs. Equal content changes only
        ``pinned``. Raises :class:`AdapterRefused`, :class:`AdapterNotFound` for a model that takes none.
        """

    async def unload_adapter(self, model: str, name: str, *, drain: bool = False) -> None:
        """Forget an adapter and free its place in the engine; ``drain``: when the requests on it have ended.

        Raises :class:`AdapterNotFound`, :class:`AdapterInUse`.
        """

    async def hold_adapter(self, model: str, name: str) -> AdapterHold:
        """Bring the adapter into the engine if it is not there, and keep it there: to be called before ``run``.

        Raises :class:`AdapterNotFound`, :class:`AdapterUnavailable`, the latter also when a bounded wait was in vain.
        """

    async def transcription_cost(self, request: TranscriptionRequest) -> TranscriptionCost:
        """What ``transcribe`` may use. Raises :class:`RequestRejected` if it could never serve this: not a model that
        hears, an unknown language.
        """

    async def transcribe(self, request: TranscriptionRequest, sink: TranscriptSink) -> None:
        """Write down what was said, pushing to ``sink``; returns after the last segment.

        Cancelling aborts in the engine. Raises :class:`EngineError` kinds.
        """

    def check(self, request: GenerationRequest) -> None:
        """Raise :class:`RequestRejected` if ``run`` could never serve this: length, vocabulary, bounds. Cheap."""

    async def run(self, request: GenerationRequest, sink: DeltaSink) -> None:
        """Generate, pushing to ``sink``; returns after every choice's finish delta was pushed.

        Cancelling aborts in the engine within one step. Raises :class:`EngineError` kinds.
        """

    def generate(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        """The same, pulled. Closing the iterator aborts in the engine."""

    def transfer_facts(self, model: str) -> TransferFacts | None:
        """What another engine must have in common with that of ``model``; None if it is away or has no connector."""

    async def prefill(self, request: GenerationRequest, sink: DeltaSink) -> Mapping[str, object] | None:
        """Compute the prompt, and one token that is thrown away, so that another engine can go on from there.

        Returns what that one's ``request.transfer`` must be; None if it will find the cache by itself. Cancelling
        aborts in the engine. Raises :class:`EngineError` kinds, :class:`RequestRejected` where there is no connector.
        """

    def check_prompts(self, request: PoolingRequest) -> None:
        """Raise :class:`RequestRejected` if a prompt could never be run: length, vocabulary. Cheap."""

    async def embed(self, request: PoolingRequest) -> Embeddings:
        """Vectors of length 1. Cancelling aborts in the engine. Raises :class:`EngineError` kinds."""

    async def classify(self, request: PoolingRequest) -> Classes:
        """Probabilities of the model's labels. Cancelling aborts in the engine. Raises :class:`EngineError` kinds."""

    async def score(self, request: PoolingRequest) -> Sequence[float]:
        """How well the second text of each pair answers the first: what a ``score`` model says, or the cosine of an
        ``embed`` model's vectors. Cancelling aborts in the engine. Raises :class:`EngineError` kinds.
        """
