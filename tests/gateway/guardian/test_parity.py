"""Every route that runs a model x streamed or whole x one or several choices x tools x where the violation stands:
never a miss. A route that runs a model cannot exist without a row here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.types import AdapterSpec
from gateway.adapters.catalog import Adapter
from gateway.guardian.check import GuardPolicy
from tests.gateway.guardian.conftest import BAD
from tests.support.client import Client, Stream
from tests.support.gateways import KEY, Live, running
from tests.support.planted import PlantedEngine, Script
from tests.support.sounds import encoded, tone
from tests.support.stub_engine import StubConfig, StubEngine

Body = dict[str, Any]

RULES = {"kind": "rules", "patterns": {"planted": BAD}, "secrets": False, "pii": False}
FINE = "a harmless sentence about rivers. "
HALF = len(BAD) // 2
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}


@dataclass(frozen=True)
class Row:
    """One route. ``plants``: a body for each place where its input can hold something; ``plain``: a harmless body.

    ``tools`` and ``n`` say whether it has them; ``logprobs``: what asks for log-probabilities; ``speaks``: it
    generates text, so its output is judged too; ``headers``: what its callers must send; ``code``: what of a refusal
    says that it is the guard's; ``logprobs_alone``: they cannot be had together with tools.
    """

    plants: Mapping[str, Callable[[str], Body]]
    plain: Callable[[], Body]
    tools: Callable[[Body], Body] | None = None
    n: bool = False
    streams: bool = True
    logprobs: Mapping[str, Any] | None = None
    speaks: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)
    code: str = "content_policy_violation"
    logprobs_alone: bool = False


def chat(*messages: Body, **more: Any) -> Body:
    return {"model": "stub", "messages": list(messages), "max_tokens": 400, **more}


def user(text: Any = "hello") -> Body:
    return {"role": "user", "content": text}


def called(**more: Any) -> Body:
    return {"role": "assistant", "content": None, "tool_calls": [CALL], **more}


def function(**more: Any) -> Body:
    return {"type": "function", "function": {**TOOL["function"], **more}}  # type: ignore[dict-item]


CHAT = Row(
    plants={
        "system": lambda bad: chat({"role": "system", "content": bad}, user()),
        "developer": lambda bad: chat({"role": "developer", "content": bad}, user()),
        "early turn": lambda bad: chat(user(bad), {"role": "assistant", "content": "ok"}, user()),
        "assistant turn": lambda bad: chat(user(), {"role": "assistant", "content": bad}, user()),
        "last turn": lambda bad: chat(user("first"), {"role": "assistant", "content": "ok"}, user(bad)),
        "text part": lambda bad: chat(user([{"type": "text", "text": "one"}, {"type": "text", "text": bad}])),
        "name": lambda bad: chat({**user(), "name": re.sub(r"\s", "_", bad)}),
        "thought": lambda bad: chat(user(), {"role": "assistant", "content": "ok", "reasoning": bad}, user()),
        "call's arguments": lambda bad: chat(
            user(),
            called(tool_calls=[{**CALL, "function": {"name": "look", "arguments": json.dumps({"a": bad})}}]),
            {"role": "tool", "content": "ok", "tool_call_id": "c1"},
        ),
        "tool result": lambda bad: chat(user(), called(), {"role": "tool", "content": bad, "tool_call_id": "c1"}),
        "tool description": lambda bad: chat(user(), tools=[function(description=bad)]),
        "tool name": lambda bad: chat(user(), tools=[function(name=re.sub(r"\W", "_", bad))]),
        "tool schema": lambda bad: chat(
            user(), tools=[function(parameters={"type": "object", "properties": {"p": {"description": bad}}})]
        ),
        "between two turns": lambda bad: chat(user(bad[:HALF]), user(bad[HALF:])),
        "turn and result": lambda bad: chat(
            user(bad[:HALF]), {"role": "assistant", "content": bad[HALF:]}, user("go on")
        ),
    },
    plain=lambda: chat(user()),
    tools=lambda body: {**body, "tools": [TOOL]},
    n=True,
    logprobs={"logprobs": True, "top_logprobs": 1},
)

AGENT = replace(CHAT, n=False, logprobs=None)


def completion(prompt: Any, **more: Any) -> Body:
    return {"model": "stub", "prompt": prompt, "max_tokens": 400, **more}


COMPLETIONS = Row(
    plants={
        "text": completion,
        "second of a batch": lambda bad: completion(["hello", bad]),
        "token ids": lambda bad: completion(list(bad.encode())),
        "token ids in a batch": lambda bad: completion([list(b"hello"), list(bad.encode())]),
        "echoed": lambda bad: completion(bad, echo=True),
    },
    plain=lambda: completion("hello"),
    n=True,
    logprobs={"logprobs": 1},
)


def response(given: Any, **more: Any) -> Body:
    return {"model": "stub", "input": given, "max_output_tokens": 400, **more}


def item(text: Any, role: str = "user") -> Body:
    return {"role": role, "content": text}


ITEM_CALL = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}


def output(text: Any) -> Body:
    return {"type": "function_call_output", "call_id": "c1", "output": text}


def flat(**more: Any) -> Body:
    return {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}, **more}


RESPONSES = Row(
    plants={
        "text": response,
        "instructions": lambda bad: response("hello", instructions=bad),
        "system": lambda bad: response([item(bad, "system"), item("hello")]),
        "developer": lambda bad: response([item(bad, "developer"), item("hello")]),
        "early turn": lambda bad: response([item(bad), item("ok", "assistant"), item("hello")]),
        "assistant turn": lambda bad: response([item("hello"), item(bad, "assistant"), item("go on")]),
        "last turn": lambda bad: response([item("first"), item("ok", "assistant"), item(bad)]),
        "text part": lambda bad: response(
            [item([{"type": "input_text", "text": "one"}, {"type": "input_text", "text": bad}])]
        ),
        "thought": lambda bad: response(
            [item("hi"), {"type": "reasoning", "summary": [{"type": "summary_text", "text": bad}]}, item("go on")]
        ),
        "call's arguments": lambda bad: response(
            [item("hi"), {**ITEM_CALL, "arguments": json.dumps({"a": bad})}, output("ok")]
        ),
        "tool result": lambda bad: response([item("hi"), ITEM_CALL, output(bad)]),
        "tool description": lambda bad: response("hello", tools=[flat(description=bad)]),
        "tool name": lambda bad: response("hello", tools=[flat(name=re.sub(r"\W", "_", bad))]),
        "tool schema": lambda bad: response(
            "hello", tools=[flat(parameters={"type": "object", "properties": {"p": {"description": bad}}})]
        ),
        "between two turns": lambda bad: response([item(bad[:HALF]), item(bad[HALF:])]),
    },
    plain=lambda: response("hello"),
    tools=lambda body: {**body, "tools": [flat()]},
    logprobs={"include": ["message.output_text.logprobs"], "top_logprobs": 1},
    logprobs_alone=True,
)


def message(*messages: Body, **more: Any) -> Body:
    return {"model": "stub", "messages": list(messages), "max_tokens": 400, **more}


def block_tool(**more: Any) -> Body:
    return {"name": "look", "input_schema": {"type": "object", "properties": {}}, **more}


def used(**more: Any) -> Body:
    return item([{"type": "tool_use", "id": "c1", "name": "look", "input": {}, **more}], "assistant")


def result(text: Any) -> Body:
    return item([{"type": "tool_result", "tool_use_id": "c1", "content": text}])


MESSAGES = Row(
    plants={
        "system": lambda bad: message(item("hello"), system=bad),
        "system block": lambda bad: message(item("hello"), system=[{"type": "text", "text": bad}]),
        "early turn": lambda bad: message(item(bad), item("ok", "assistant"), item("hello")),
        "assistant turn": lambda bad: message(item("hello"), item(bad, "assistant"), item("go on")),
        "last turn": lambda bad: message(item("first"), item("ok", "assistant"), item(bad)),
        "text block": lambda bad: message(item([{"type": "text", "text": "one"}, {"type": "text", "text": bad}])),
        "thought": lambda bad: message(
            item("hi"),
            item([{"type": "thinking", "thinking": bad}, {"type": "text", "text": "ok"}], "assistant"),
            item("x"),
        ),
        "call's input": lambda bad: message(item("hi"), used(input={"a": bad}), result("ok")),
        "tool result": lambda bad: message(item("hi"), used(), result(bad)),
        "tool result block": lambda bad: message(item("hi"), used(), result([{"type": "text", "text": bad}])),
        "tool description": lambda bad: message(item("hello"), tools=[block_tool(description=bad)]),
        "tool name": lambda bad: message(item("hello"), tools=[block_tool(name=re.sub(r"\W", "_", bad))]),
        "tool schema": lambda bad: message(
            item("hello"),
            tools=[block_tool(input_schema={"type": "object", "properties": {"p": {"description": bad}}})],
        ),
        "between two turns": lambda bad: message(item(bad[:HALF]), item(bad[HALF:])),
    },
    plain=lambda: message(item("hello")),
    tools=lambda body: {**body, "tools": [block_tool()]},
    headers={"anthropic-version": "2023-06-01"},
    code="blocked by this server's guard",
)


def inputs(model: str, given: Any) -> Body:
    return {"model": model, "input": given}


def pooled(model: str) -> Row:
    """A route that takes texts or token ids and generates nothing."""
    return Row(
        plants={
            "text": lambda bad: inputs(model, bad),
            "second of a batch": lambda bad: inputs(model, ["hello", bad]),
            "token ids": lambda bad: inputs(model, list(bad.encode())),
            "token ids in a batch": lambda bad: inputs(model, [list(b"hello"), list(bad.encode())]),
            "between two texts": lambda bad: inputs(model, [bad[:HALF], bad[HALF:]]),
        },
        plain=lambda: inputs(model, "hello"),
        streams=False,
        speaks=False,
    )


RERANK = Row(
    plants={
        "query": lambda bad: {"model": "score", "query": bad, "documents": ["hello"]},
        "document": lambda bad: {"model": "score", "query": "hello", "documents": ["one", bad]},
        "document as an object": lambda bad: {"model": "score", "query": "hello", "documents": [{"text": bad}]},
    },
    plain=lambda: {"model": "score", "query": "hello", "documents": ["one"]},
    streams=False,
    speaks=False,
)
SCORE = Row(
    plants={
        "first": lambda bad: {"model": "score", "text_1": bad, "text_2": "hello"},
        "second": lambda bad: {"model": "score", "text_1": "hello", "text_2": ["one", bad]},
    },
    plain=lambda: {"model": "score", "text_1": "hello", "text_2": "one"},
    streams=False,
    speaks=False,
)

ROWS: dict[str, Row] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETIONS,
    "/v1/responses": RESPONSES,
    "/v1/messages": MESSAGES,
    "/v1/agent": AGENT,
    "/v1/embeddings": pooled("embed"),
    "/v1/classify": pooled("classify"),
    "/v1/rerank": RERANK,
    "/v1/score": SCORE,
}

#: Routes that take sounds: rows of another form, see :func:`test_sounds`.
EAR = StubConfig(speech_model="ear")
SOUNDS = ("/v1/audio/transcriptions", "/v1/audio/translations")

#: How the violation stands in the output, as tokens.
SCRIPTS: dict[str, Script] = {
    "start": Script([BAD, *[FINE] * 20]),
    "middle": Script([*[FINE] * 20, BAD, *[FINE] * 20]),
    "end": Script([*[FINE] * 20, BAD]),
    "split across two tokens": Script([*[FINE] * 20, BAD[:HALF], BAD[HALF:], *[FINE] * 20]),
    "letter by letter": Script([*[FINE] * 9, *BAD, *[FINE] * 20]),
    "only word": Script([BAD]),
    "in the thought": Script([*[FINE] * 9, BAD[:HALF], BAD[HALF:]], part="reasoning"),
    "in a call": Script(['{"a": "', *[FINE] * 9, BAD[:HALF], BAD[HALF:], '"}'], call="look", reason="tool_calls"),
    "as a call's name": Script(["{}"], call=BAD, reason="tool_calls"),
}


def guarded(stage: str, **policy: Any) -> Body:
    stages = {"input": stage == "input", "output": stage == "output"}
    return {"evaluators": [RULES], "policy": {**stages, **policy}}


def variants(row: Row) -> Iterator[tuple[bool, int, bool]]:
    for stream in (False, True) if row.streams else (False,):
        for n in (1, 3) if row.n else (1,):
            for tools in (False, True) if row.tools else (False,):
                yield stream, n, tools


def varied(row: Row, body: Body, stream: bool, n: int, tools: bool) -> Body:
    body = {**body, **({"stream": True} if stream else {}), **({"n": n} if n > 1 else {})}
    return row.tools(body) if tools and row.tools and "tools" not in body else body


async def sent(live: Live, path: str, body: Body) -> Stream:
    return await Client("127.0.0.1", live.port, KEY, timeout=30).stream(path, body, headers=dict(ROWS[path].headers))


def raw(answer: Stream) -> str:
    return answer.body.decode("utf-8", "replace") + "\n".join(answer.events)


def strings(value: Any) -> Iterator[str]:
    """Every string in some JSON, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from strings(each)


def shown(answer: Stream) -> list[str]:
    """Everything that a reader of the answer can put together: each field of each choice, over all events."""
    pieces: dict[tuple[Any, ...], str] = {}

    def gather(value: Any, at: tuple[Any, ...]) -> None:
        if isinstance(value, str):
            pieces[at] = pieces.get(at, "") + value
        elif isinstance(value, list):
            for place, each in enumerate(value):
                index = each.get("index", place) if isinstance(each, dict) else place
                gather(each, (*at, index))
        elif isinstance(value, dict):
            for name, each in value.items():
                gather(each, (*at, name))

    for event in answer.events or [answer.body.decode("utf-8", "replace")]:
        if event != "[DONE]":
            try:
                gather(json.loads(event), ())
            except json.JSONDecodeError:
                pieces[("raw",)] = pieces.get(("raw",), "") + event
    return list(pieces.values())


def test_a_planted_word_is_not_in_this_file_by_accident() -> None:
    assert BAD not in FINE


@pytest.mark.parametrize("path", ROWS)
async def test_input(tmp_path: Path, path: str) -> None:
    row = ROWS[path]
    engine = PlantedEngine(Script([FINE]))
    async with running(engine, tmp_path, guard=guarded("input")) as live:
        for place, plant in row.plants.items():
            for stream, n, tools in variants(row):
                answer = await sent(live, path, varied(row, plant(BAD), stream, n, tools))
                assert answer.status == 400, (place, stream, n, tools, answer.body)
                assert row.code in raw(answer), (place, stream, n, tools)
                fine = await sent(live, path, varied(row, plant("harmless"), stream, n, tools))
                assert fine.status == 200, (place, stream, n, tools, fine.body)


@pytest.mark.parametrize("path", [path for path, row in ROWS.items() if row.speaks])
@pytest.mark.parametrize("where", SCRIPTS)
async def test_output(tmp_path: Path, path: str, where: str) -> None:
    row, script = ROWS[path], SCRIPTS[where]
    if script.call is not None and row.tools is None:
        pytest.skip("it has no tools")
    engine = PlantedEngine(script)
    async with running(engine, tmp_path, guard=guarded("output")) as live:
        for stream, n, tools in variants(row):
            for probed in (False, True) if row.logprobs and not (tools and row.logprobs_alone) else (False,):
                body = {**varied(row, row.plain(), stream, n, tools), **(row.logprobs or {} if probed else {})}
                answer = await sent(live, path, body)
                assert answer.status == 200, answer.body
                assert BAD not in raw(answer), (stream, n, tools, probed)
                for text in shown(answer):
                    assert BAD not in text
                    assert not text.endswith(BAD[:HALF]), "the beginning of it was sent"
        assert live.metric("sluice_guard_actions_total", stage="output", action="block") > 0


@pytest.mark.parametrize("path", [path for path, row in ROWS.items() if row.speaks])
async def test_harmless_output_is_the_same_with_and_without_a_guard(tmp_path: Path, path: str) -> None:
    row = ROWS[path]

    async def answers(guard: Body) -> list[list[str]]:
        found = []
        engine = PlantedEngine(Script([FINE] * 30))
        async with running(engine, tmp_path / str(bool(guard)), guard=guard) as live:
            for stream, n, tools in variants(row):
                answer = await sent(live, path, varied(row, row.plain(), stream, n, tools))
                found.append(sorted(text for text in shown(answer) if FINE.strip() in text))
        return found

    assert await answers(guarded("output")) == await answers({})


async def test_the_rest_of_a_cut_generation_is_not_computed(tmp_path: Path) -> None:
    script = Script([*[FINE] * 10, BAD, *[FINE] * 300])
    for stream in (True, False):
        engine = PlantedEngine(script)
        async with running(engine, tmp_path / str(stream), guard=guarded("output")) as live:
            body = varied(CHAT, chat(user(), max_tokens=311), stream, 1, tools=False)
            answer = await sent(live, "/v1/chat/completions", body)
            assert '"finish_reason":"content_filter"' in raw(answer)
            (account,) = engine.accounts.values()
            assert account.ending == "aborted"
            assert account.emitted < 100
            saved = live.metric("sluice_guard_tokens_saved_total")
            assert saved == 311 - account.emitted
            usage = [row for row in live.ledger.entries if hasattr(row, "completion_tokens")]
            assert [row.completion_tokens for row in usage] == [account.emitted]


async def test_by_policy_a_cut_stream_ends_in_an_error(tmp_path: Path) -> None:
    engine = PlantedEngine(SCRIPTS["middle"])
    guard = guarded("output", stream={"on_flag": "error"})
    async with running(engine, tmp_path, guard=guard) as live:
        streamed = await sent(live, "/v1/chat/completions", varied(CHAT, CHAT.plain(), True, 1, tools=False))
        assert streamed.ending == "error_event"
        assert "content_policy_violation" in raw(streamed)
        assert BAD not in raw(streamed)
        whole = await sent(live, "/v1/chat/completions", CHAT.plain())
        assert whole.status == 400
        assert "content_policy_violation" in raw(whole)


async def with_adapter(live: Live) -> None:
    """An adapter ``ad`` of the stub, known to engine and gateway."""
    await live.engine.load_adapter(AdapterSpec("stub", "ad", "/nowhere"))
    live.gateway._pipeline._adapters.put(Adapter("ad", "stub"))  # type: ignore[union-attr]


@pytest.mark.parametrize("path", [path for path, row in ROWS.items() if row.speaks])
@pytest.mark.parametrize("name", ["stub:ad", "ad"])
async def test_adapters(tmp_path: Path, path: str, name: str) -> None:
    row = ROWS[path]
    async with running(PlantedEngine(SCRIPTS["split across two tokens"]), tmp_path, guard=guarded("output")) as live:
        await with_adapter(live)
        for stream in (False, True):
            answer = await sent(live, path, {**varied(row, row.plain(), stream, 1, tools=False), "model": name})
            assert answer.status == 200, answer.body
            assert all(BAD not in text for text in shown(answer))
    off = {**guarded("input"), "policy": {"input": False}, "models": {"stub:ad": {"input": True}}}
    async with running(PlantedEngine(Script([FINE])), tmp_path / "input", guard=off) as live:
        await with_adapter(live)
        plant = next(iter(row.plants.values()))
        blocked = await sent(live, path, {**plant(BAD), "model": name})
        assert blocked.status == 400, blocked.body
        assert row.code in raw(blocked)
        assert (await sent(live, path, plant(BAD))).status == 200, "the policy is the adapter's only"


async def hear(live: Live, path: str, **fields: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=live.url, headers=live.authorization, timeout=60) as client:
        return await client.post(path, data={"model": "ear", **fields}, files={"file": ("a.wav", encoded(tone(5.0)))})


@pytest.mark.parametrize("path", SOUNDS)
async def test_sounds(tmp_path: Path, path: str) -> None:
    """What is said in a sound is output, its prompt is input. The stub hears "Second 0. Second 2. Second 4."."""
    heard = "second 2"
    rules = {**RULES, "patterns": {"planted": f"{BAD}|{heard}"}}
    async with running(StubEngine(EAR), tmp_path, guard={**guarded("output"), "evaluators": [rules]}) as live:
        forms = [{"response_format": each} for each in ("json", "text", "srt", "vtt", "verbose_json")]
        streamed = [{"stream": "true"}] if path.endswith("transcriptions") else []
        for fields in (*forms, *streamed):
            answer = await hear(live, path, **fields)
            # A transcript with a piece missing would be taken for the whole: it is an error, streamed or not.
            assert answer.status_code == (200 if "stream" in fields else 400), answer.text
            assert "content_policy_violation" in answer.text
            assert heard not in answer.text.lower(), fields
    async with running(StubEngine(EAR), tmp_path / "input", guard=guarded("input")) as live:
        answer = await hear(live, path, prompt=f"a {BAD}")
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "content_policy_violation"


async def test_every_route_that_runs_a_model_has_a_row(tmp_path: Path) -> None:
    async with running(PlantedEngine(Script([FINE])), tmp_path, guard=guarded("input"), with_store=True) as live:
        table = live.gateway._front._routes  # type: ignore[union-attr]
        running_models = {route.path for route in table.routes if route.runs_model}
        guards = {route.path for route in table.routes if route.guard is GuardPolicy.EVALUATION}
        assert running_models - guards == {*ROWS, *SOUNDS}
