from __future__ import annotations

from typing import Any

import pytest

from tests.support.client import Client, Response
from tests.support.gateways import KEY, Live

MESSAGES = [{"role": "user", "content": "hi"}]


async def post(live: Live, path: str, body: dict[str, Any]) -> Response:
    answer = await Client("127.0.0.1", live.port, KEY, timeout=30).post(path, {"model": "stub", **body})
    assert answer is not None
    return answer


async def test_a_text_there_and_back(stub: Live) -> None:
    tokens = await post(stub, "/v1/tokenize", {"prompt": "añb", "return_token_strs": True})
    assert tokens.json() == {
        "count": 4,
        "max_model_len": 8192,
        "tokens": list("añb".encode()),
        "token_strs": ["a", "�", "�", "b"],
    }
    text = await post(stub, "/v1/detokenize", {"tokens": tokens.json()["tokens"]})
    assert text.json() == {"prompt": "añb"}


async def test_a_conversation_counts_as_the_chat_would(stub: Live) -> None:
    tokens = (await post(stub, "/v1/tokenize", {"messages": MESSAGES, "add_generation_prompt": True})).json()
    chat = await post(stub, "/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 1})
    assert tokens["count"] == len(tokens["tokens"]) == chat.json()["usage"]["prompt_tokens"]
    assert tokens["token_strs"] is None


async def test_empty_is_empty(stub: Live) -> None:
    assert (await post(stub, "/v1/tokenize", {"prompt": ""})).json()["tokens"] == []
    assert (await post(stub, "/v1/detokenize", {"tokens": []})).json() == {"prompt": ""}


async def test_no_model_runs_and_nothing_is_booked(stub: Live) -> None:
    await post(stub, "/v1/tokenize", {"prompt": "hello"})
    assert (stub.ledger.entries, stub.engine.accounts) == ([], {})


@pytest.mark.parametrize(
    ("path", "body", "param", "code"),
    [
        ("tokenize", {}, "prompt", "missing_required_parameter"),
        ("tokenize", {"prompt": None, "messages": None}, "prompt", "missing_required_parameter"),
        ("tokenize", {"prompt": "a", "messages": MESSAGES}, "messages", "invalid_value"),
        ("tokenize", {"messages": MESSAGES, "add_special_tokens": False}, "add_special_tokens", "invalid_value"),
        ("tokenize", {"messages": []}, "messages", "empty_array"),
        ("tokenize", {"messages": [{"role": "user"}]}, "messages[0].content", "invalid_type"),
        ("tokenize", {"prompt": 3}, "prompt", "invalid_type"),
        ("tokenize", {"prompt": "a", "add_generation_prompt": False}, "add_generation_prompt", "unsupported_parameter"),
        ("tokenize", {"prompt": "a", "chat_template": "x"}, "chat_template", "unsupported_parameter"),
        ("tokenize", {"prompt": "a", "wrong": 1}, "wrong", "unknown_parameter"),
        ("detokenize", {}, "tokens", "missing_required_parameter"),
        ("detokenize", {"tokens": "a"}, "tokens", "invalid_type"),
        ("detokenize", {"tokens": [1, True]}, "tokens[1]", "invalid_type"),
        ("detokenize", {"tokens": [-1]}, "tokens[0]", "integer_below_min_value"),
        ("detokenize", {"tokens": [2**31]}, "tokens[0]", "integer_above_max_value"),
        ("detokenize", {"tokens": [2**31 - 1]}, "tokens", "invalid_value"),
        ("detokenize", {"tokens": [1] * 1_000_001}, "tokens", "array_above_max_length"),
    ],
)
async def test_refusals(stub: Live, path: str, body: dict[str, Any], param: str, code: str) -> None:
    answer = await post(stub, f"/v1/{path}", body)
    error = answer.json()["error"]
    assert (answer.status, error["param"], error["code"]) == (400, param, code), error["message"]
    assert error["type"] == "invalid_request_error"


async def test_an_unknown_model_and_a_key_are_asked_for_as_everywhere(stub: Live) -> None:
    for path, body in (("/v1/tokenize", {"prompt": "a"}), ("/v1/detokenize", {"tokens": []})):
        unknown = await post(stub, path, {**body, "model": "other"})
        assert (unknown.status, unknown.json()["error"]["code"]) == (404, "model_not_found")
        stranger = await Client("127.0.0.1", stub.port, "sk-wrong", timeout=30).post(path, {"model": "stub", **body})
        assert stranger is not None
        assert stranger.status == 401
