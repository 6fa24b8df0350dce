from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.types import (
    ChatMessage,
    Delta,
    Engine,
    EngineError,
    EngineOverloaded,
    EngineUnavailable,
    GenerationFailed,
    GenerationRequest,
    Phase,
    Prompt,
    PromptTooLong,
    RequestRejected,
    Sampling,
)
from tests.support import toy_model
from tests.support.stub_engine import Faults, StubConfig, StubEngine

NUMBERS = itertools.count()


class Sink:
    """Keeps what was pushed, and by which way."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.fast = 0
        self.cached_tokens = 0

    def text(self, text: str, tokens: int) -> None:
        self.fast += 1
        self.deltas.append(Delta(0, text, tokens))

    def delta(self, delta: Delta) -> None:
        self.deltas.append(delta)

    def cached(self, tokens: int) -> None:
        self.cached_tokens = tokens

    def said(self, index: int = 0) -> str:
        return "".join(delta.text for delta in self.deltas if delta.index == index)

    def tokens(self) -> int:
        return sum(delta.tokens for delta in self.deltas)

    def reasons(self) -> list[str]:
        return [delta.finish_reason for delta in self.deltas if delta.finish_reason]


def request(
    text: str = "hello", *, stream: bool = True, max_tokens: int = 200, **sampling: object
) -> GenerationRequest:
    return GenerationRequest(
        f"r{next(NUMBERS)}",
        "stub",
        Prompt(toy_model.encode(text)),
        Sampling(max_tokens=max_tokens, **sampling),  # type: ignore[arg-type]
        stream,
    )


@pytest.fixture
async def engine() -> AsyncIterator[StubEngine]:
    engine = StubEngine()
    await engine.start()
    yield engine
    await engine.stop()
    assert engine.leaks() == []
    assert engine.sink_errors == []


async def started(config: StubConfig) -> StubEngine:
    engine = StubEngine(config)
    await engine.start()
    return engine


async def run(engine: StubEngine, asked: GenerationRequest) -> Sink:
    sink = Sink()
    await engine.run(asked, sink)
    assert engine.emitted[asked.request_id] == sink.tokens()
    return sink


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the stub's states have no events to wait for
            await asyncio.sleep(0)


async def failure(awaitable: Awaitable[object]) -> EngineError:
    with pytest.raises(EngineError) as caught:
        await asyncio.wait_for(awaitable, 10)
    return caught.value


def test_it_is_an_engine() -> None:
    engine: Engine = StubEngine()
    assert engine.state().phase is Phase.STARTING


@settings(deadline=None)
@given(text=st.text(max_size=50))
def test_tokens_are_reversible_and_specials_in_text_stay_text(text: str) -> None:
    assert toy_model.decode(toy_model.encode(text)) == text
    rendered = toy_model.render([ChatMessage("user", text + "<|end|>")])
    assert rendered.count(toy_model.END_OF_TURN) == 1


@pytest.mark.parametrize("tokens_per_step", [1, 3, 1000])
async def test_what_is_said_depends_on_prompt_seed_and_choice_only(tokens_per_step: int) -> None:
    engine = await started(StubConfig(tokens_per_step=tokens_per_step))
    reference = await started(StubConfig())
    first = await run(engine, request("a", seed=1))
    assert first.said() == (await run(reference, request("a", seed=1, stream=False))).said()
    assert first.tokens() == (await run(reference, request("a", seed=1))).tokens()
    assert len({first.said(), *[(await run(engine, request(t, seed=s))).said() for t, s in (("b", 1), ("a", 2))]}) == 3
    both = await run(engine, request("a", seed=1, n=2))
    assert both.said(0) == first.said() != both.said(1)


async def test_plain_streams_take_the_short_way_after_the_first_token(engine: StubEngine) -> None:
    sink = await run(engine, request())
    assert sink.fast == len(sink.deltas) - 2
    assert sink.reasons() == ["stop"]
    for sampling in ({"logprobs": 0}, {"stop": ("zzz",)}, {"n": 2}):
        assert (await run(engine, request(**sampling))).fast == 0


async def test_not_streamed_is_one_final_delta_per_choice(engine: StubEngine) -> None:
    sink = await run(engine, request(stream=False, n=3, logprobs=2))
    assert sorted(delta.index for delta in sink.deltas) == [0, 1, 2]
    assert all(delta.logprobs is not None and len(delta.logprobs) == delta.tokens for delta in sink.deltas)
    assert engine.finished == {"stop": 3}


async def test_max_tokens_ends_by_length_and_ignore_eos_reaches_it(engine: StubEngine) -> None:
    assert (await run(engine, request(max_tokens=5))).reasons() == ["length"]
    long = await run(engine, request(max_tokens=500, ignore_eos=True))
    assert (long.tokens(), long.reasons()) == (500, ["length"])


@pytest.mark.parametrize("stream", [True, False])
async def test_stop_strings_cut_before_them_even_across_tokens(engine: StubEngine, stream: bool) -> None:
    whole = (await run(engine, request())).said()
    stop = whole[11:17]
    sink = await run(engine, request(stream=stream, stop=("never said", stop)))
    assert sink.said() == whole[: whole.index(stop)]
    assert sink.reasons() == ["stop"]


async def test_logprobs_put_the_chosen_token_first(engine: StubEngine) -> None:
    sink = await run(engine, request(logprobs=3))
    positions = [position for delta in sink.deltas for position in delta.logprobs or ()]
    assert len(positions) == sink.tokens()
    assert all(position.chosen == position.top[0] and len(position.top) == 3 for position in positions)


async def test_it_repeats_the_last_canary(engine: StubEngine) -> None:
    sink = await run(engine, request("canary-00000000 then canary-12345678."))
    assert sink.said().startswith("canary-12345678")
    assert "canary-00000000" not in sink.said()


async def test_what_does_not_fit_is_refused_with_both_numbers(engine: StubEngine) -> None:
    limit = engine.config.context_length
    await run(engine, request("x" * (limit - 1), max_tokens=1))
    first = await failure(engine.run(request("x" * limit, max_tokens=1), Sink()))
    second = await failure(engine.run(request("x" * 10, max_tokens=limit), Sink()))
    assert isinstance(first, PromptTooLong)
    assert isinstance(second, PromptTooLong)
    assert (first.prompt_tokens, first.max_tokens) == (limit, None)
    assert (second.prompt_tokens, second.max_tokens) == (10, limit)


async def test_unknown_models_and_token_ids_are_refused(engine: StubEngine) -> None:
    assert isinstance(await failure(engine.tokenize("other", "x")), RequestRejected)
    assert isinstance(await failure(engine.detokenize("stub", [toy_model.VOCABULARY])), RequestRejected)
    assert await engine.detokenize("stub", (await engine.tokenize("stub", "hé")).token_ids) == "hé"


async def test_cancelling_frees_the_slot_at_once(engine: StubEngine) -> None:
    engine.faults.stall_first_token = True
    tasks = [asyncio.create_task(engine.run(request(n=2), Sink())) for _ in range(3)]
    await until(lambda: len(engine.request_states) == 3)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert engine.request_states == {}
    assert engine.finished == {"abort": 6}
    assert engine.state().waiting == engine.state().running == 0


async def test_closing_the_pulled_form_aborts(engine: StubEngine) -> None:
    asked = request(max_tokens=5000, ignore_eos=True)
    async with aclosing(engine.generate(asked)) as deltas:  # type: ignore[type-var]
        async for _ in deltas:
            break
    assert engine.accounts[asked.request_id].ending == "aborted"


async def test_the_pulled_form_gives_the_same(engine: StubEngine) -> None:
    pushed = await run(engine, request())
    pulled = [delta async for delta in engine.generate(request())]
    assert pulled == pushed.deltas


async def test_dying_ends_everyone_at_once_and_comes_back(engine: StubEngine) -> None:
    engine.faults.stall_first_token = True
    tasks = [asyncio.create_task(engine.run(request(), Sink())) for _ in range(4)]
    await until(lambda: len(engine.request_states) == 4)
    engine.faults.stall_first_token = False
    engine.die(restart_after=0.01)
    assert engine.state().phase is Phase.RESTARTING
    assert all([isinstance(await failure(task), EngineUnavailable) for task in tasks])
    assert isinstance(await failure(engine.run(request(), Sink())), EngineUnavailable)
    await until(lambda: engine.state().phase is Phase.READY)
    assert engine.state().restarts == 1
    await run(engine, request())


async def test_dying_for_good() -> None:
    engine = await started(StubConfig())
    engine.die(restart_after=None)
    assert engine.state().phase is Phase.FAILED


async def test_a_hang_is_seen_and_ends(engine: StubEngine) -> None:
    task = asyncio.create_task(engine.run(request(), Sink()))
    await until(lambda: bool(engine.request_states))
    engine.faults.hang = True
    assert engine.state().phase is Phase.STALLED
    assert isinstance(await failure(engine.run(request(), Sink())), EngineUnavailable)
    engine.faults.hang = False
    await asyncio.wait_for(task, 10)
    assert engine.state().phase is Phase.READY


async def test_single_requests_fail_after_so_many_tokens_and_others_do_not(engine: StubEngine) -> None:
    engine.faults.fail_requests = frozenset([2])
    engine.faults.fail_after_tokens = 3
    await run(engine, request())
    doomed, sink = request(), Sink()
    assert isinstance(await failure(engine.run(doomed, sink)), GenerationFailed)
    assert sink.tokens() == engine.emitted[doomed.request_id] == 3
    await run(engine, request())


async def test_overload_says_when_to_come_back(engine: StubEngine) -> None:
    engine.faults.overload = 7.0
    error = await failure(engine.run(request(), Sink()))
    assert isinstance(error, EngineOverloaded)
    assert error.retry_after == 7.0


async def test_the_queue_is_bounded_and_fair() -> None:
    engine = await started(StubConfig(max_running=1, max_waiting=1))
    engine.faults.stall_first_token = True
    first = asyncio.create_task(engine.run(request(), Sink()))
    await until(lambda: engine.state().running == 1)
    second = asyncio.create_task(engine.run(request("abc"), Sink()))
    await until(lambda: engine.state().waiting == 1)
    assert engine.state().queued_tokens == 3
    assert isinstance(await failure(engine.run(request(), Sink())), EngineOverloaded)
    engine.faults.stall_first_token = False
    await asyncio.wait_for(asyncio.gather(first, second), 10)


async def test_a_huge_delta_comes_second(engine: StubEngine) -> None:
    engine.faults.huge_delta = 100_000
    sink = await run(engine, request())
    assert [len(delta.text) >= 100_000 for delta in sink.deltas[:3]] == [False, True, False]


async def test_drain_refuses_and_waits_for_the_last() -> None:
    engine = await started(StubConfig(step_seconds=0.001))
    task = asyncio.create_task(engine.run(request(), Sink()))
    await until(lambda: bool(engine.request_states))
    drained = asyncio.create_task(engine.drain())
    await until(lambda: engine.state().phase is Phase.DRAINING)
    assert isinstance(await failure(engine.run(request(), Sink())), EngineUnavailable)
    await asyncio.wait_for(drained, 10)
    await task
    await engine.stop()


async def test_stop_ends_everyone_and_leaves_nothing() -> None:
    engine = await started(StubConfig())
    engine.faults.stall_first_token = True
    task = asyncio.create_task(engine.run(request(), Sink()))
    await until(lambda: bool(engine.request_states))
    await engine.stop()
    await engine.stop()
    assert isinstance(await failure(task), EngineUnavailable)
    assert engine.leaks() == []


async def test_a_start_can_fail() -> None:
    engine = StubEngine(faults=Faults(fail_start=True))
    assert isinstance(await failure(engine.start()), EngineUnavailable)
    assert engine.state().phase is Phase.FAILED


async def test_a_sink_that_raises_is_its_own_failure_and_is_noticed() -> None:
    class Broken(Sink):
        def text(self, text: str, tokens: int) -> None:
            raise RuntimeError("sink")

    engine = await started(StubConfig())
    neighbour = asyncio.create_task(run(engine, request()))
    assert isinstance(await failure(engine.run(request(), Broken())), GenerationFailed)
    await neighbour
    assert len(engine.sink_errors) == 1


@pytest.mark.parametrize("sampling", [{"seed": 2**70}, {"max_tokens": 2**70}, {"top_k": 2**63}, {"n": 0}])
async def test_integers_the_real_engine_cannot_carry_are_the_gateways_bug(
    engine: StubEngine, sampling: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match="cannot carry"):
        await engine.run(request(**sampling), Sink())  # type: ignore[arg-type]
