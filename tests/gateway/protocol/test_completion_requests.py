"""Tables M and P at /v1/completions."""

from __future__ import annotations

import json
import time

import pytest

from gateway.errors import ApiError
from gateway.protocol.completions import CompletionRequest, parse_completion
from gateway.protocol.sampling import RequestBounds

BOUNDS = RequestBounds()


def parse(**fields: object) -> CompletionRequest:
    return parse_completion(json.dumps({"model": "m", "prompt": "Hi", **fields}).encode(), BOUNDS)


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("Hi", ["Hi"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
        (["x"] * 64, ["x"] * 64),
        ([0, 2**31 - 1], [[0, 2**31 - 1]]),
        (list(range(5000)), [list(range(5000))]),
    ],
)
def test_every_shape_of_prompt(prompt: object, prompts: list[object]) -> None:
    assert list(parse(prompt=prompt).prompts) == prompts


@pytest.mark.parametrize(
    ("row", "prompt", "param", "code"),
    [
        ("P32 strings", ["x"] * 65, "prompt", "array_above_max_length"),
        ("P32 token lists", [[1]] * 65, "prompt", "array_above_max_length"),
        ("P34 empty", "", "prompt", "empty_string"),
        ("P34 empty item", ["a", ""], "prompt", "empty_string"),
        ("P34 []", [], "prompt", "empty_array"),
        ("P34 [[]]", [[]], "prompt", "empty_array"),
        ("null", None, "prompt", "missing_required_parameter"),
        ("number", 3, "prompt", "invalid_type"),
        ("object", {}, "prompt", "invalid_type"),
        ("first item", [None], "prompt[0]", "invalid_type"),
        ("mixed strings", ["a", 1], "prompt[1]", "invalid_type"),
        ("mixed ids", [1, "a"], "prompt[1]", "invalid_type"),
        ("bool id", [1, True], "prompt[1]", "invalid_type"),
        ("decimal id", [1, 2.0], "prompt[1]", "invalid_type"),
        ("mixed lists", [[1], "a"], "prompt[1]", "invalid_type"),
        ("deep string", [[1, 2], [1, "a"]], "prompt[1][1]", "invalid_type"),
        ("deeper", [[[1]]], "prompt[0][0]", "invalid_type"),
        ("negative", [1, -1], "prompt[1]", "integer_below_min_value"),
        ("huge", [[1], [2**31]], "prompt[1][0]", "integer_above_max_value"),
        ("monster", [2**70], "prompt[0]", "integer_above_max_value"),
    ],
)
def test_refuses_prompts(row: str, prompt: object, param: str, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(prompt=prompt)
    assert (caught.value.status, caught.value.body.param, caught.value.code) == (400, param, code)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"model": None}, "model", "missing_required_parameter"),
        ({"model": " "}, "model", "invalid_value"),
        ({"model": "m" * 10_240}, "model", "string_above_max_length"),
        ({"logprobs": 6}, "logprobs", "integer_above_max_value"),
        ({"logprobs": -1}, "logprobs", "integer_below_min_value"),
        ({"logprobs": True}, "logprobs", "invalid_type"),
        ({"echo": "yes"}, "echo", "invalid_type"),
        ({"echo": True, "logprobs": 0}, "echo", "unsupported_parameter"),
        ({"best_of": 2}, "best_of", "unsupported_parameter"),
        ({"best_of": 2, "n": 3}, "best_of", "unsupported_parameter"),
        ({"best_of": True}, "best_of", "unsupported_parameter"),
        ({"suffix": "x"}, "suffix", "unsupported_parameter"),
        ({"messages": []}, "messages", "unknown_parameter"),
        ({"top_logprobs": 1}, "top_logprobs", "unknown_parameter"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"n": 129}, "n", "integer_above_max_value"),
        ({"n": 3, "prompt": ["x"] * 64}, "n", "invalid_value"),
        ({"stream_options": {}}, "stream_options", "invalid_value"),
    ],
)
def test_refuses_fields(fields: dict[str, object], param: str, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(**fields)
    assert (caught.value.status, caught.value.body.param, caught.value.code) == (400, param, code)


def test_accepts_what_asks_for_nothing_more() -> None:
    request = parse(best_of=2, n=2, suffix=None, echo=True, logprobs=None)
    assert (request.n, request.echo, request.sampled_logprobs()) == (2, True, None)
    assert parse(best_of=1).n == 1


def test_logprobs_are_a_count() -> None:
    assert parse(logprobs=0).to_sampling(BOUNDS).logprobs == 0
    assert parse(logprobs=5).to_sampling(BOUNDS).logprobs == 5


def test_as_many_prompts_as_the_server_is_set_to() -> None:
    body = json.dumps({"model": "m", "prompt": ["a"] * 3}).encode()
    with pytest.raises(ApiError):
        parse_completion(body, RequestBounds(max_prompts=2))


def test_five_million_token_ids_do_not_hang() -> None:
    began = time.perf_counter()
    body = b'{"model":"m","prompt":[' + b"1," * 5_000_000 + b"-1]}"
    with pytest.raises(ApiError) as caught:
        parse_completion(body, BOUNDS)
    assert caught.value.body.param == "prompt[5000000]"
    assert time.perf_counter() - began < 10
