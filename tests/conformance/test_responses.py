"""/v1/responses over the real engine: the official client, OpenAI's own document, the sibling surface as a measure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai import NotFoundError, OpenAI
from openai.types.responses import Response
from pydantic import BaseModel, Field

from tests.conformance.contract import Api, assert_error
from tests.conformance.documents import Validate, openai_validator
from tests.support.gateways import KEY, Live, Threaded, listen
from tests.support.itemised import Event, events_of
from tests.support.shared_engine import SharedEngine

pytestmark = pytest.mark.engine

PATH = "/v1/responses"
QUESTION = "What is the capital of France?"
WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
FORCED = {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "get_weather"}, "parallel_tool_calls": False}
PERSON: dict[str, Any] = {
    "type": "json_schema",
    "name": "person",
    "schema": {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 1, "maximum": 99}},
        "required": ["age"],
        "additionalProperties": False,
    },
}
LOGPROBS = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}


class Person(BaseModel):
    age: int = Field(ge=1, le=99)


@pytest.fixture(scope="module")
def kept(real: Threaded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Another gateway over the same engine, which keeps responses."""
    state = tmp_path_factory.mktemp("kept")
    engine: Any = SharedEngine(real.live.engine)

    async def begin() -> Live:
        live = await listen(engine, state, with_store=True, responses={"store": True})
        await live.gateway.start_engine()
        return live

    live = real.run(begin())
    yield live
    real.run(live.gateway.stop())
    assert live.store is not None
    live.store.close(5.0)


@pytest.fixture
def client(kept: Live) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{kept.url}/v1", api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def validate() -> Validate:
    return openai_validator()


def create(api: Api, **fields: Any) -> Any:
    answer = api.post(
        {"model": api.model, "input": QUESTION, "temperature": 0, "max_output_tokens": 40, **fields}, PATH
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def stream(api: Api, **fields: Any) -> list[Event]:
    body = {"model": api.model, "input": QUESTION, "temperature": 0, "max_output_tokens": 40, "stream": True, **fields}
    answer = api.post(body, PATH)
    assert answer.status_code == 200, answer.text
    return events_of(answer.text)


def bare(response: Any) -> Any:
    """A response without what differs from one to the next."""
    changing = ("id", "call_id", "created_at", "completed_at")
    if isinstance(response, dict):
        return {key: bare(value) for key, value in response.items() if key not in changing}
    return [bare(each) for each in response] if isinstance(response, list) else response


KINDS: list[dict[str, Any]] = [{}, FORCED, {"text": {"format": PERSON}}, LOGPROBS, {"max_output_tokens": 3}]
NAMES = ["plain", "call", "schema", "logprobs", "cut"]


@pytest.mark.parametrize("fields", KINDS, ids=NAMES)
def test_a_stream_is_the_whole_answer_and_both_are_openais(
    api: Api, validate: Validate, fields: dict[str, Any]
) -> None:
    whole = create(api, **fields)
    validate("Response", whole)
    Response.model_validate(whole)
    events = stream(api, **fields)
    for event in events:
        validate("ResponseStreamEvent", event)
    last = events[-1]["response"]
    # The second time the prompt was cached, or not quite as much of it.
    for response in (whole, last):
        response["usage"]["input_tokens_details"] = {}
    assert bare(last) == bare(whole)


def test_it_says_what_chat_says(api: Api) -> None:
    whole = create(api)
    chat = api.chat(QUESTION, temperature=0, max_tokens=40).json()
    assert whole["output"][0]["content"][0]["text"] == chat["choices"][0]["message"]["content"]
    assert whole["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]
    assert whole["usage"]["output_tokens"] == chat["usage"]["completion_tokens"]
    assert whole["status"] == "completed"


def test_what_is_cut_is_incomplete(api: Api) -> None:
    whole = create(api, max_output_tokens=3, input="Write a story.")
    assert (whole["status"], whole["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert whole["output"][0]["status"] == "incomplete"
    assert stream(api, max_output_tokens=3, input="Write a story.")[-1]["type"] == "response.incomplete"


def test_instructions_and_items_reach_the_model(api: Api) -> None:
    def tokens(**fields: Any) -> int:
        return int(create(api, max_output_tokens=1, **fields)["usage"]["input_tokens"])

    def chat(messages: list[Any], **fields: Any) -> int:
        body = {"model": api.model, "messages": messages, "max_tokens": 1, **fields}
        return int(api.post(body).json()["usage"]["prompt_tokens"])

    system = {"role": "system", "content": "Speak like a pirate."}
    user = {"role": "user", "content": QUESTION}
    assert tokens(instructions="Speak like a pirate.") == chat([system, user])
    call = {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": '{"city":"Rome"}'}
    result = {"type": "function_call_output", "call_id": "c1", "output": "22 degrees"}
    made = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Rome"}'}}
    messages = [
        user,
        {"role": "assistant", "content": None, "tool_calls": [made]},
        {"role": "tool", "tool_call_id": "c1", "content": "22 degrees"},
    ]
    function = {key: WEATHER[key] for key in ("name", "parameters", "strict")}
    assert tokens(input=[user, call, result], tools=[WEATHER]) == chat(
        messages, tools=[{"type": "function", "function": function}]
    )


def test_forced_calls_are_valid(api: Api) -> None:
    for seed in ("Rome", "Paris"):
        (item,) = create(api, input=f"The weather in {seed}?", max_output_tokens=200, temperature=1.0, **FORCED)[
            "output"
        ]
        assert item["type"] == "function_call"
        assert json.loads(item["arguments"])["city"] in ("Paris", "Rome")


def test_errors_name_the_fields(api: Api) -> None:
    def post(**fields: Any) -> Any:
        return api.post({"model": api.model, "input": "x", **fields}, PATH)

    assert_error(post(input="x " * 5000), 400, "context_length_exceeded", "input")
    assert_error(post(max_output_tokens=4096), 400, "context_length_exceeded", "max_output_tokens")
    assert_error(post(reasoning={"effort": "high"}), 400, "unsupported_parameter", "reasoning.effort")
    unsupported = {"type": "object", "properties": {"a": {"not": {"type": "string"}}}}
    bad: dict[str, Any] = {**PERSON, "schema": unsupported}
    answer = post(text={"format": bad})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("text.format.schema")
    tool = {**WEATHER, "parameters": unsupported}
    answer = post(tools=[tool], tool_choice="required")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("tools[0].parameters")
    assert_error(post(store=True), 400, "unsupported_parameter", "store")


def test_the_official_client_creates_streams_and_goes_on(client: OpenAI, api: Api) -> None:
    first = client.responses.create(model=api.model, input=QUESTION, temperature=0, max_output_tokens=40)
    assert "Paris" in first.output_text
    assert first.usage is not None
    with client.responses.stream(
        model=api.model,
        input="And of Italy?",
        previous_response_id=first.id,
        temperature=0,
        max_output_tokens=40,
    ) as events:
        deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        final = events.get_final_response()
    assert final.output_text == deltas
    assert final.previous_response_id == first.id
    assert final.usage is not None
    assert final.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens
    assert client.responses.retrieve(final.id).output_text == deltas
    items = client.responses.input_items.list(final.id, order="asc").data
    assert [item.type for item in items] == ["message"] * 3
    client.responses.delete(final.id)
    with pytest.raises(NotFoundError):
        client.responses.retrieve(final.id)


def test_the_official_client_parses(client: OpenAI, api: Api) -> None:
    parsed = client.responses.parse(
        model=api.model, input="How old is Ann?", text_format=Person, temperature=0, max_output_tokens=60
    )
    assert isinstance(parsed.output_parsed, Person)


def test_the_official_client_runs_a_tool(client: OpenAI, api: Api) -> None:
    tools: Any = [WEATHER]
    asked = client.responses.create(
        model=api.model, input="The weather in Rome?", tools=tools, tool_choice="required", max_output_tokens=200
    )
    call = next(item for item in asked.output if item.type == "function_call")
    told = client.responses.create(
        model=api.model,
        previous_response_id=asked.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "22 degrees and sunny"}],
        tools=tools,
        tool_choice="none",
        temperature=0,
        max_output_tokens=40,
    )
    assert told.status in ("completed", "incomplete")
    assert told.output_text


Check = Callable[[str, Any], None]


def test_kept_items_are_openais(client: OpenAI, kept: Live, api: Api, validate: Check) -> None:
    import httpx

    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    items: Any = [
        {"role": "user", "content": "x"},
        thought,
        {"role": "assistant", "content": "y"},
        call,
        {"type": "function_call_output", "call_id": "c1", "output": "z"},
    ]
    made = client.responses.create(model=api.model, input=items, max_output_tokens=2)
    page = httpx.get(f"{kept.url}{PATH}/{made.id}/input_items", headers=kept.authorization).json()
    assert len(page["data"]) == 5
    validate("ResponseItemList", page)
    validate("Response", httpx.get(f"{kept.url}{PATH}/{made.id}", headers=kept.authorization).json())
