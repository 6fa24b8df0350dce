"""What is on the wire, as raw bytes, when an output is cut: in every field that could spell it, wherever it stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.guardian.conftest import BAD
from tests.support.client import Client, Stream
from tests.support.gateways import KEY, Live, running
from tests.support.planted import PlantedEngine, Script

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RULES = {"kind": "rules", "patterns": {"planted": BAD}, "secrets": False, "pii": False}
#: Small, so that every place relative to what is held back and to a look is met soon.
STREAM = {"window": 64, "hold_back": 16, "step": 8}
OUTPUT = {"evaluators": [RULES], "policy": {"input": False, "output": True, "stream": STREAM}}


def body(path: str, **more: Any) -> dict[str, Any]:
    asked = {"messages": [{"role": "user", "content": "go"}]} if path == CHAT else {"prompt": "go"}
    return {"model": "stub", **asked, "max_tokens": 400, **more}


async def asked(live: Live, path: str, **more: Any) -> Stream:
    return await Client("127.0.0.1", live.port, KEY, timeout=60).stream(path, body(path, **more))


def said(answer: Stream) -> str:
    """All text of all choices, in order, as a client puts it together."""
    out = ""
    for event in answer.events or [answer.body.decode()]:
        if event == "[DONE]":
            continue
        for choice in json.loads(event).get("choices", ()):
            held = choice.get("delta") or choice.get("message") or {}
            out += (held.get("content") or "") + (choice.get("text") or "")
    return out


@pytest.mark.parametrize("unit", ["characters", "tokens", "sentences"])
async def test_at_every_place_of_the_hold_back(tmp_path: Path, unit: str) -> None:
    """The planted word, letter by letter, at each offset over two looks and what is held back."""
    engine = PlantedEngine(Script([]))
    guard = {**OUTPUT, "policy": {**OUTPUT["policy"], "stream": {**STREAM, "unit": unit}}}  # type: ignore[dict-item]
    async with running(engine, tmp_path, guard=guard) as live:
        for before in range(40):
            engine.script = Script([*"." * before, *BAD, *"." * 40])
            answer = await asked(live, CHAT, stream=True, logprobs=True, top_logprobs=1)
            assert answer.status == 200
            text = said(answer)
            assert "z" not in text, (before, text)
            assert '"token":"z"' not in "".join(answer.events), before
            assert '"content_filter"' in "".join(answer.events), before


@pytest.mark.parametrize(
    "spelled",
    [
        BAD.upper(),
        "z.o.r.b.l.a.x",
        "zor**bl**ax",
        "zor\nblax",
        "\\u007aorblax",
        "xalbroz",
        "\u200b".join(BAD),
        "z\u043erblax",
        "em9yYmxheA==",
        BAD.encode().hex(),
    ],
)
@pytest.mark.parametrize("part", ["text", "reasoning", "call"])
async def test_however_a_model_spells_it(tmp_path: Path, spelled: str, part: str) -> None:
    tokens = [*["fine words "] * 5, *spelled, *[" fine words"] * 5]
    if part == "call":
        script = Script(['{"a": "', *tokens, '"}'], call="look", reason="tool_calls")
    else:
        script = Script(tokens, part=part)
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    more = {"tools": [tool]} if part == "call" else {}
    guard = {"evaluators": [RULES], "policy": {"input": False, "output": True}}
    async with running(PlantedEngine(script), tmp_path, guard=guard) as live:
        for stream in (False, True):
            answer = await asked(live, CHAT, stream=stream, n=2, **more)
            wire = answer.body.decode() + "".join(answer.events)
            assert wire.count('"content_filter"') >= 2, (stream, wire[-300:])
            assert spelled[1:] not in wire
            assert json.dumps(spelled)[2:-1] not in wire


async def test_what_was_taken_out_stands_in_no_log_probability(tmp_path: Path) -> None:
    """Redacted text must not be spelled by the tokens beside it."""
    tokens = [*["fine "] * 10, "zor", "blax", *[" fine"] * 10]
    policy = {**OUTPUT["policy"], "action": "redact"}  # type: ignore[dict-item]
    async with running(PlantedEngine(Script(tokens)), tmp_path, guard={**OUTPUT, "policy": policy}) as live:
        for path, probed in ((CHAT, {"logprobs": True, "top_logprobs": 2}), (COMPLETIONS, {"logprobs": 2})):
            for stream in (False, True):
                answer = await asked(live, path, stream=stream, **probed)
                wire = answer.body.decode() + "".join(answer.events)
                assert answer.status == 200
                assert "[REDACTED]" in wire, (path, stream)
                assert "zor" not in wire, (path, stream)
                assert "blax" not in wire, (path, stream)


async def test_an_echoed_prompt_is_input(tmp_path: Path) -> None:
    async with running(PlantedEngine(Script(["fine"])), tmp_path, guard={"evaluators": [RULES]}) as live:
        for prompt in (f"a {BAD}", list(f"a {BAD}".encode())):
            answer = await asked(live, COMPLETIONS, prompt=prompt, echo=True, logprobs=1, stream=True)
            assert answer.status == 400
            assert BAD not in answer.body.decode()


async def test_what_is_as_bad_as_the_threshold_is_flagged(tmp_path: Path) -> None:
    guard = {"evaluators": [RULES], "policy": {"risks": {"planted": 1.0}}}
    async with running(PlantedEngine(Script(["fine"])), tmp_path, guard=guard) as live:
        assert (await asked(live, COMPLETIONS, prompt=f"a {BAD}")).status == 400


PLACES: dict[str, Any] = {
    "id of a call": [
        {"role": "user", "content": "go"},
        {
            "role": "assistant",
            "tool_calls": [{"id": BAD, "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": BAD, "content": "ok"},
    ],
    "parts of one message": [
        {"role": "user", "content": [{"type": "text", "text": BAD[:3]}, {"type": "text", "text": BAD[3:]}]}
    ],
    "one speaker, another between": [
        {"role": "user", "content": BAD[:3]},
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": BAD[3:]},
    ],
    "escaped in arguments": [
        {"role": "user", "content": "go"},
        {
            "role": "assistant",
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": "\\u007a\\u006frblax"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c", "content": "ok"},
    ],
    "prefilled answer": [{"role": "user", "content": "go"}, {"role": "assistant", "content": f"Sure, a {BAD}"}],
    "reasoning_content": [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": "ok", "reasoning_content": BAD},
        {"role": "user", "content": "on"},
    ],
}


@pytest.mark.parametrize("place", PLACES)
async def test_places_in_a_conversation(tmp_path: Path, place: str) -> None:
    async with running(PlantedEngine(Script(["fine"])), tmp_path, guard={"evaluators": [RULES]}) as live:
        answer = await asked(live, CHAT, messages=PLACES[place])
        assert answer.status == 400, answer.body
        assert "content_policy_violation" in answer.body.decode()


@pytest.mark.parametrize(
    "more",
    [
        {"stop": [BAD]},
        {"user": BAD},
        {"metadata": {"a": BAD}},
        {"safety_identifier": BAD},
        {"logit_bias": {"5": 10}},
    ],
)
async def test_what_no_model_reads_is_no_input(tmp_path: Path, more: dict[str, Any]) -> None:
    async with running(PlantedEngine(Script(["fine"])), tmp_path, guard={"evaluators": [RULES]}) as live:
        assert (await asked(live, CHAT, **more)).status == 200
