"""/v1/messages over the real engine: Anthropic's client, Anthropic's own document, the sibling surface as a measure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest

from tests.conformance.contract import Api
from tests.conformance.documents import Validate, anthropic_validator
from tests.support.gateways import KEY
from tests.support.itemised import Event, events_of

pytestmark = pytest.mark.engine

PATH = "/v1/messages"
QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
FORCED = {
    "tools": [WEATHER],
    "tool_choice": {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True},
    "max_tokens": 200,
}
SCHEMA: dict[str, Any] = {
    "type": "json_schema",
    "schema": {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 1, "maximum": 99}},
        "required": ["age"],
        "additionalProperties": False,
    },
}


@pytest.fixture
def client(api: Api) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=api.gateway.live.url, api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def validate() -> Validate:
    return anthropic_validator()


def post(api: Api, **fields: Any) -> httpx.Response:
    return api.post({"model": api.model, "messages": QUESTION, "max_tokens": 40, "temperature": 0, **fields}, PATH)


def create(api: Api, **fields: Any) -> Any:
    answer = post(api, **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def stream(api: Api, **fields: Any) -> list[Event]:
    answer = post(api, stream=True, **fields)
    assert answer.status_code == 200, answer.text
    return events_of(answer.text)


KINDS: list[dict[str, Any]] = [
    {},
    FORCED,
    {"output_config": {"format": SCHEMA}},
    {"max_tokens": 3},
    {"stop_sequences": ["Paris"]},
]


@pytest.mark.parametrize("fields", KINDS, ids=["plain", "call", "schema", "cut", "stop"])
def test_answers_and_events_are_anthropics(api: Api, validate: Validate, fields: dict[str, Any]) -> None:
    whole = create(api, **fields)
    validate("Message", whole)
    anthropic.types.Message.model_validate(whole)
    events = stream(api, **fields)
    for event in events:
        if event["type"] != "ping":
            validate("MessageStreamEvent", event)
    assert [event["type"] for event in events][-2:] == ["message_delta", "message_stop"]
    delta = events[-2]
    assert (delta["delta"]["stop_reason"], delta["delta"]["stop_sequence"]) == (
        whole["stop_reason"],
        whole["stop_sequence"],
    )
    assert delta["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    texts = "".join(event["delta"]["text"] for event in events if event.get("delta", {}).get("type") == "text_delta")
    assert texts == "".join(block["text"] for block in whole["content"] if block["type"] == "text")


def test_errors_are_anthropics(api: Api, validate: Validate) -> None:
    for answer, status in (
        (post(api, max_tokens=0), 400),
        (post(api, model="nope"), 404),
        (post(api, messages=[{"role": "user", "content": "x " * 5000}]), 400),
        (httpx.post(api.gateway.live.url + PATH, json={}), 401),
    ):
        assert answer.status_code == status
        validate("ErrorResponse", answer.json())
        assert answer.headers["x-should-retry"] == "false"


def test_it_says_what_chat_says(api: Api) -> None:
    whole = create(api)
    chat = api.chat(QUESTION[0]["content"], temperature=0, max_tokens=40).json()
    assert whole["content"][0]["text"] == chat["choices"][0]["message"]["content"]
    usage = whole["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == chat["usage"]["prompt_tokens"]
    assert usage["output_tokens"] == chat["usage"]["completion_tokens"]


def test_why_it_stopped(api: Api) -> None:
    assert create(api)["stop_reason"] == "end_turn"
    assert create(api, max_tokens=2)["stop_reason"] == "max_tokens"
    stopped = create(api, stop_sequences=["nonsense", "Paris"])
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "Paris")
    assert "Paris" not in stopped["content"][0]["text"]
    called = create(api, **FORCED)
    assert called["stop_reason"] == "tool_use"
    assert called["content"][-1]["input"]["city"] in ("Paris", "Rome")


def test_anthropics_client_talks_and_streams(client: anthropic.Anthropic, api: Api) -> None:
    message = client.messages.create(model=api.model, max_tokens=40, messages=QUESTION, extra_body={"temperature": 0})
    assert "Paris" in message.content[0].text  # type: ignore[union-attr]
    with client.messages.stream(
        model=api.model, max_tokens=40, messages=QUESTION, extra_body={"temperature": 0}
    ) as events:
        text = "".join(events.text_stream)
        final = events.get_final_message()
    assert text == message.content[0].text == final.content[0].text  # type: ignore[union-attr]
    assert final.stop_reason == message.stop_reason
    assert final.usage.output_tokens == message.usage.output_tokens
    counted = client.messages.count_tokens(model=api.model, messages=QUESTION).input_tokens
    assert counted == message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)


def test_anthropics_client_runs_a_tool(client: anthropic.Anthropic, api: Api) -> None:
    tools: Any = [WEATHER]
    messages: Any = [{"role": "user", "content": "What is the weather in Rome?"}]
    with client.messages.stream(
        model=api.model, max_tokens=200, messages=messages, tools=tools, tool_choice={"type": "any"}
    ) as events:
        asked = events.get_final_message()
    use = next(block for block in asked.content if block.type == "tool_use")
    assert use.input["city"] in ("Paris", "Rome")
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": "22 degrees"}
        for block in asked.content
        if block.type == "tool_use"
    ]
    messages += [{"role": "assistant", "content": asked.content}, {"role": "user", "content": results}]
    told = client.messages.create(
        model=api.model, max_tokens=40, messages=messages, tools=tools, tool_choice={"type": "none"}
    )
    assert told.stop_reason in ("end_turn", "max_tokens")
    assert told.content[0].type == "text"


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"model": "nope"}, anthropic.NotFoundError),
        ({"max_tokens": 0}, anthropic.BadRequestError),
        ({"extra_body": {"nonsense": 1}}, anthropic.BadRequestError),
    ],
)
def test_errors_are_the_right_exceptions(
    client: anthropic.Anthropic, api: Api, fields: dict[str, Any], kind: type[anthropic.APIStatusError]
) -> None:
    body: Any = {"model": api.model, "max_tokens": 5, "messages": QUESTION, **fields}
    with pytest.raises(kind) as caught:
        client.messages.create(**body)
    assert caught.value.request_id


def test_a_wrong_key(api: Api) -> None:
    with (
        anthropic.Anthropic(base_url=api.gateway.live.url, api_key="sk-wrong", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError),
    ):
        stranger.messages.create(model=api.model, max_tokens=1, messages=QUESTION)
