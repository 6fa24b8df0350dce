"""The official client: change base_url, nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from gateway.usage.records import Settled
from tests.conformance.contract import Api
from tests.support.gateways import KEY, eventually

pytestmark = pytest.mark.engine

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def client(api: Api) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{api.gateway.live.url}/v1", api_key=KEY, max_retries=0, timeout=60) as client:
        yield client


def test_models(client: OpenAI, api: Api) -> None:
    assert [model.id for model in client.models.list()] == [api.model]
    assert client.models.retrieve(api.model).object == "model"


def test_chat_and_stream(client: OpenAI, api: Api) -> None:
    whole = client.chat.completions.create(model=api.model, messages=QUESTION, temperature=0)
    assert "Paris" in (whole.choices[0].message.content or "")
    stream: Any = client.chat.completions.create(
        model=api.model, messages=QUESTION, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


def test_legacy_completions(client: OpenAI, api: Api) -> None:
    answer = client.completions.create(model=api.model, prompt="The capital of France is", max_tokens=3, temperature=0)
    assert "Paris" in answer.choices[0].text


def test_leaving_in_the_middle_of_a_stream(client: OpenAI, api: Api) -> None:
    live = api.gateway.live
    stream: Any = client.chat.completions.create(
        model=api.model, messages=QUESTION, max_tokens=2000, stream=True, extra_body={"ignore_eos": True}
    )
    seen = [next(iter(stream)) for _ in range(3)]
    stream.close()
    api.gateway.run(eventually(lambda: live.engine.core.unfinished == 0))

    def settled() -> list[Settled]:
        return [e for e in live.ledger.entries if isinstance(e, Settled) and e.request_id == seen[0].id]

    api.gateway.run(eventually(lambda: bool(settled())))
    (row,) = settled()
    assert row.outcome == "cancelled"
    assert 0 < row.completion_tokens < 2000


@pytest.mark.parametrize(
    ("fields", "kind", "code", "param"),
    [
        ({"model": "nope"}, openai.NotFoundError, "model_not_found", "model"),
        ({"n": 0}, openai.BadRequestError, "integer_below_min_value", "n"),
        ({"messages": []}, openai.BadRequestError, "empty_array", "messages"),
        ({"extra_body": {"nonsense": 1}}, openai.BadRequestError, "unknown_parameter", "nonsense"),
        ({"extra_body": {"guided_json": {}}}, openai.BadRequestError, "unsupported_parameter", "guided_json"),
    ],
)
def test_errors_are_the_right_exceptions(
    client: OpenAI, api: Api, fields: dict[str, object], kind: type[openai.APIStatusError], code: str, param: str
) -> None:
    body: Any = {"model": api.model, "messages": QUESTION, **fields}
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**body)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.request_id


def test_a_wrong_key(api: Api) -> None:
    with OpenAI(base_url=f"{api.gateway.live.url}/v1", api_key="sk-wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError) as caught:
            stranger.models.list()
        assert caught.value.code == "invalid_api_key"


async def test_many_streams_at_once_each_get_their_own(api: Api) -> None:
    """Batched with others, each stream answers its own question. Texts are not compared token by token: batched
    matrix products round differently on a CPU, which may tip a close choice."""
    capitals = {"France": "Paris", "Japan": "Tokyo", "Germany": "Berlin"}
    async with AsyncOpenAI(base_url=f"{api.gateway.live.url}/v1", api_key=KEY, max_retries=0, timeout=60) as client:

        async def ask(country: str) -> str:
            stream = await client.chat.completions.create(
                model=api.model,
                messages=[{"role": "user", "content": f"What is the capital of {country}?"}],
                temperature=0,
                max_tokens=16,
                stream=True,
            )
            return "".join([c.choices[0].delta.content or "" async for c in stream])

        countries = [*capitals] * 5
        for country, text in zip(countries, await asyncio.gather(*map(ask, countries)), strict=True):
            assert capitals[country] in text
