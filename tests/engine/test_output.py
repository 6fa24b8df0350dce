"""What vLLM says of an ending, as the facade says it."""

from __future__ import annotations

import asyncio

import pytest
from vllm.outputs import CompletionOutput, RequestOutput

from engine.output import Generation
from engine.types import Delta, EngineError, EngineUnavailable, GenerationFailed


class Sink:
    def __init__(self) -> None:
        self.deltas: list[Delta] = []

    def text(self, text: str, tokens: int) -> None:
        self.deltas.append(Delta(0, text, tokens))

    def delta(self, delta: Delta) -> None:
        self.deltas.append(delta)

    def cached(self, tokens: int) -> None: ...


def output(reason: str | None) -> RequestOutput:
    choice = CompletionOutput(0, "x", [1], None, None, finish_reason=reason)
    return RequestOutput("r", "p", [1], None, [choice], finished=reason is not None)


@pytest.mark.parametrize(("reason", "kind"), [("error", GenerationFailed), ("abort", EngineUnavailable)])
async def test_s31_an_ending_that_is_an_error(reason: str, kind: type[EngineError]) -> None:
    sink = Sink()
    generation = Generation(sink, None, None, asyncio.get_running_loop())
    generation.put(output(None))
    generation.put(output(reason))
    with pytest.raises(kind):
        await generation.done
    assert [delta.finish_reason for delta in sink.deltas] == [None]


async def test_an_ending_that_is_one() -> None:
    sink = Sink()
    generation = Generation(sink, None, None, asyncio.get_running_loop())
    generation.put(output("stop"))
    await generation.done
    assert [delta.finish_reason for delta in sink.deltas] == ["stop"]
