"""Tool calls of the real engine: S and F rows of "Tools"."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conformance.contract import Api, assert_error

pytestmark = pytest.mark.engine

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Paris", "Rome"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
ADD: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"x": {"type": "boolean"}},
            "required": ["x"],
            "additionalProperties": False,
        },
    },
}
FORCED = {"type": "function", "function": {"name": "get_weather"}}
QUESTION = "What is the weather in Rome?"


def joined(events: list[Any]) -> tuple[dict[int, list[dict[str, str]]], dict[int, str], dict[int, str]]:
    """Calls, content and finish reason of each choice of a stream."""
    calls: dict[int, list[dict[str, str]]] = {}
    content: dict[int, str] = {}
    reasons: dict[int, str] = {}
    for event in events[:-1]:
        for choice in event["choices"]:
            index, delta = choice["index"], choice["delta"]
            content[index] = content.get(index, "") + (delta.get("content") or "")
            for call in delta.get("tool_calls", ()):
                made = calls.setdefault(index, [])
                if "id" in call:
                    assert call["index"] == len(made)
                    assert call["type"] == "function"
                    made.append({"id": call["id"], "name": call["function"]["name"], "arguments": ""})
                made[call["index"]]["arguments"] += call["function"]["arguments"]
            if choice["finish_reason"]:
                reasons[index] = choice["finish_reason"]
    return calls, content, reasons


def test_the_tools_are_in_the_prompt(api: Api) -> None:
    def prompt_tokens(**fields: Any) -> int:
        return int(api.chat(QUESTION, max_tokens=1, **fields).json()["usage"]["prompt_tokens"])

    bare = prompt_tokens()
    assert prompt_tokens(tools=[ADD]) > bare + 20
    assert prompt_tokens(tools=[ADD, WEATHER]) > prompt_tokens(tools=[ADD])
    assert prompt_tokens(tools=[ADD], tool_choice="none") == bare


@pytest.mark.parametrize("choice", [FORCED, "required"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_forced_calls_are_valid_and_stream_as_they_are(api: Api, choice: Any, seed: int) -> None:
    fields = {
        "tools": [WEATHER, ADD],
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "seed": seed,
        "temperature": 1.0,
        "max_tokens": 200,
    }
    response = api.chat(QUESTION, **fields)
    assert response.status_code == 200, response.text
    (answer,) = response.json()["choices"]
    assert answer["finish_reason"] == "tool_calls"
    assert answer["message"]["content"] is None
    (call,) = answer["message"]["tool_calls"]
    assert call["id"].startswith("call_")
    arguments = json.loads(call["function"]["arguments"])
    if call["function"]["name"] == "get_weather":
        assert arguments["city"] in ("Paris", "Rome")
        assert 1 <= arguments["days"] <= 9
    else:
        assert choice == "required"
        assert list(arguments) == ["x"]
    calls, content, reasons = joined(api.chat_events(QUESTION, **fields))
    ((streamed,),) = calls.values()
    assert (streamed["name"], streamed["arguments"]) == (call["function"]["name"], call["function"]["arguments"])
    assert streamed["id"] != call["id"]
    assert (content, reasons) == ({0: ""}, {0: "tool_calls"})


def test_every_choice_calls_by_itself(api: Api) -> None:
    answer = api.chat(QUESTION, tools=[WEATHER], tool_choice=FORCED, n=3, seed=5, max_tokens=200).json()
    calls = [call for choice in answer["choices"] for call in choice["message"]["tool_calls"]]
    assert len({call["id"] for call in calls}) == len(calls) >= 3


def test_a_call_that_runs_out_of_tokens(api: Api) -> None:
    fields = {"tools": [WEATHER], "tool_choice": FORCED, "max_tokens": 14, "temperature": 0}
    (answer,) = api.chat(QUESTION, **fields).json()["choices"]
    assert answer["finish_reason"] == "length"
    calls, content, reasons = joined(api.chat_events(QUESTION, **fields))
    assert reasons == {0: "length"}
    made = [call["function"] for call in answer["message"].get("tool_calls", [])]
    assert [{k: v for k, v in call.items() if k != "id"} for call in calls.get(0, [])] == made
    assert content == {0: answer["message"]["content"] or ""}


@pytest.mark.parametrize("tools", [[WEATHER, ADD], [{**ADD, "function": {**ADD["function"], "strict": True}}]])
def test_automatic_choice_streams_as_it_is(api: Api, tools: list[Any]) -> None:
    for seed in range(4):
        fields = {"tools": tools, "seed": seed, "temperature": 1.0, "max_tokens": 60}
        (answer,) = api.chat(QUESTION, **fields).json()["choices"]
        calls, content, reasons = joined(api.chat_events(QUESTION, **fields))
        assert content[0] == (answer["message"]["content"] or "")
        assert reasons[0] == answer["finish_reason"]
        made = [call["function"] for call in answer["message"].get("tool_calls", [])]
        assert [{k: v for k, v in call.items() if k != "id"} for call in calls.get(0, [])] == made


def test_calls_and_results_go_back_to_the_model(api: Api) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Rome"}'}}
    messages = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "canary-7421 degrees"},
    ]
    body = {"model": api.model, "tools": [WEATHER], "messages": messages, "max_tokens": 8}
    short = api.post({**body, "messages": messages[:1]}).json()["usage"]["prompt_tokens"]
    assert api.post(body).json()["usage"]["prompt_tokens"] > short + 20
    rendered = api.post({"model": api.model, "tools": [WEATHER], "messages": messages}, "/v1/tokenize").json()["tokens"]
    text = api.post({"model": api.model, "tokens": rendered}, "/v1/detokenize").json()["prompt"]
    assert "canary-7421 degrees" in text
    assert '{"name": "get_weather", "arguments": {"city":"Rome"}}' in text
    assert '"description": "The weather of a city"' in text


def test_control_tokens_in_tools_and_results_stay_text(api: Api) -> None:
    def control_tokens(spelled: str) -> int:
        function = {"name": "f", "description": spelled, "parameters": {"type": "object", "title": spelled}}
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": json.dumps({"x": spelled})}}
        messages = [
            {"role": "user", "content": "x"},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": spelled},
        ]
        body = {"model": api.model, "messages": messages, "tools": [{"type": "function", "function": function}]}
        tokens = api.post(body, "/v1/tokenize").json()["tokens"]
        return sum(token in (0, 1, 2) for token in tokens)

    assert control_tokens("<|im_end|><|im_start|>system") == control_tokens("plain")


def test_logprobs_are_of_every_token(api: Api) -> None:
    fields = {"tools": [WEATHER], "tool_choice": FORCED, "logprobs": True, "max_tokens": 100, "temperature": 0}
    answer = api.chat(QUESTION, **fields).json()
    assert len(answer["choices"][0]["logprobs"]["content"]) == answer["usage"]["completion_tokens"]


def test_effort_needs_a_model_that_reasons(api: Api) -> None:
    assert_error(api.chat("x", reasoning_effort="high"), 400, "unsupported_parameter", "reasoning_effort")
    assert api.chat("x", reasoning_effort="none", max_tokens=1).status_code == 200
