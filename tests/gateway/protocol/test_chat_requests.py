"""Tables J, M and P at /v1/chat/completions: each row is a valid body with one thing wrong."""

from __future__ import annotations

import json
from typing import NamedTuple

import pytest

from engine.types import ChatMessage
from gateway.errors import ApiError
from gateway.protocol.chat import ChatCompletionRequest, parse_chat
from gateway.protocol.sampling import RequestBounds

BOUNDS = RequestBounds()
USER = {"role": "user", "content": "Hi"}
BODY: dict[str, object] = {"model": "m", "messages": [USER]}
ABSENT = object()


def parse(**fields: object) -> ChatCompletionRequest:
    body = {name: value for name, value in {**BODY, **fields}.items() if value is not ABSENT}
    return parse_chat(json.dumps(body).encode(), BOUNDS)


def message(**fields: object) -> list[object]:
    body = {name: value for name, value in {**USER, **fields}.items() if value is not ABSENT}
    return [body]


def part(**fields: object) -> list[object]:
    return message(content=[fields])


class Row(NamedTuple):
    id: str
    fields: dict[str, object]
    param: str
    code: str


ROWS = [
    Row("J16", {"n": 2**70}, "n", "integer_above_max_value"),
    Row("J16 negative", {"n": -(2**70)}, "n", "integer_below_min_value"),
    Row("J18", {"n": True}, "n", "invalid_type"),
    Row("J19", {"n": "3"}, "n", "invalid_type"),
    Row("J20 3.5", {"n": 3.5}, "n", "invalid_type"),
    Row("J20 3.0", {"n": 3.0}, "n", "invalid_type"),
    Row("J22", {"foo": 1}, "foo", "unknown_parameter"),
    Row("J22 null", {"foo": None}, "foo", "unknown_parameter"),
    Row("J22 message", {"messages": message(foo=1)}, "messages[0].foo", "unknown_parameter"),
    Row(
        "J22 part", {"messages": part(type="text", text="x", foo=1)}, "messages[0].content[0].foo", "unknown_parameter"
    ),
    Row("J22 options", {"stream": True, "stream_options": {"foo": 1}}, "stream_options.foo", "unknown_parameter"),
    Row("J24 model", {"model": "m\x00"}, "model", "invalid_value"),
    Row("M01", {"model": ABSENT}, "model", "missing_required_parameter"),
    Row("M01 null", {"model": None}, "model", "missing_required_parameter"),
    Row("M02 empty", {"model": ""}, "model", "invalid_value"),
    Row("M02 spaces", {"model": "  "}, "model", "invalid_value"),
    Row("M02 newline", {"model": "a\nb"}, "model", "invalid_value"),
    Row("M02 number", {"model": 3}, "model", "invalid_type"),
    Row("M02 array", {"model": ["m"]}, "model", "invalid_type"),
    Row("M08", {"model": "m" * 10_240}, "model", "string_above_max_length"),
    Row("P01", {"messages": ABSENT}, "messages", "missing_required_parameter"),
    Row("P01 null", {"messages": None}, "messages", "missing_required_parameter"),
    Row("P01 string", {"messages": "Hi"}, "messages", "invalid_type"),
    Row("P02", {"messages": []}, "messages", "empty_array"),
    Row("P03 unknown", {"messages": message(role="wizard")}, "messages[0].role", "invalid_value"),
    Row("P03 missing", {"messages": message(role=ABSENT)}, "messages[0].role", "invalid_value"),
    Row("P03 number", {"messages": message(role=1)}, "messages[0].role", "invalid_value"),
    Row("P03 second", {"messages": [USER, {"role": "x", "content": ""}]}, "messages[1].role", "invalid_value"),
    Row("P04 integer", {"messages": message(content=1)}, "messages[0].content", "invalid_type"),
    Row("P04 object", {"messages": message(content={})}, "messages[0].content", "invalid_type"),
    Row("P04 null", {"messages": message(content=None)}, "messages[0].content", "invalid_type"),
    Row("P04 missing", {"messages": message(content=ABSENT)}, "messages[0].content", "invalid_type"),
    Row("P04 message", {"messages": ["Hi"]}, "messages[0]", "invalid_type"),
    Row("P04 no parts", {"messages": message(content=[])}, "messages[0].content", "empty_array"),
    Row(
        "P04 parts",
        {"messages": message(content=[{"type": "text", "text": "x"}] * 1025)},
        "messages[0].content",
        "array_above_max_length",
    ),
    Row("P04 part", {"messages": message(content=["x"])}, "messages[0].content[0]", "invalid_type"),
    Row("P04 text", {"messages": part(type="text", text=1)}, "messages[0].content[0].text", "invalid_type"),
    Row("P04 no text", {"messages": part(type="text")}, "messages[0].content[0].text", "missing_required_parameter"),
    Row("P05", {"messages": part(type="smell", text="x")}, "messages[0].content[0].type", "invalid_value"),
    Row("P05 number", {"messages": part(type=1, text="x")}, "messages[0].content[0].type", "invalid_value"),
    Row("P05 missing", {"messages": part(text="x")}, "messages[0].content[0].type", "missing_required_parameter"),
    Row(
        "image without a URL",
        {"messages": part(type="image_url", image_url={})},
        "messages[0].content[0].image_url.url",
        "missing_required_parameter",
    ),
    Row("I18 audio", {"messages": part(type="input_audio")}, "messages[0].content", "unsupported_modality"),
    Row(
        "I19",
        {"messages": part(type="text", text="x", uuid="u")},
        "messages[0].content[0].uuid",
        "unsupported_parameter",
    ),
    Row("name long", {"messages": message(name="n" * 65)}, "messages[0].name", "string_above_max_length"),
    Row("name empty", {"messages": message(name="")}, "messages[0].name", "invalid_value"),
    Row("J24 name", {"messages": message(name="a\x00b")}, "messages[0].name", "invalid_value"),
    Row("name control", {"messages": message(name="a\x7f")}, "messages[0].name", "invalid_value"),
    Row("name marks", {"messages": message(name="<|im_end|>")}, "messages[0].name", "invalid_value"),
    Row("P06", {"messages": [USER] * 2049}, "messages", "array_above_max_length"),
    Row("P09 0", {"n": 0}, "n", "integer_below_min_value"),
    Row("P09 -1", {"n": -1}, "n", "integer_below_min_value"),
    Row("P10 129", {"n": 129}, "n", "integer_above_max_value"),
    Row("P10 1e6", {"n": 10**6}, "n", "integer_above_max_value"),
    Row("P12 0", {"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
    Row("P12 -1", {"max_tokens": -1}, "max_tokens", "integer_below_min_value"),
    Row("P12 new name", {"max_completion_tokens": 0}, "max_completion_tokens", "integer_below_min_value"),
    Row("P13", {"max_tokens": 2**70}, "max_tokens", "integer_above_max_value"),
    Row("P13 new name", {"max_completion_tokens": 2**63}, "max_completion_tokens", "integer_above_max_value"),
    Row("P14", {"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "invalid_value"),
    Row("P15 low", {"temperature": -0.1}, "temperature", "decimal_below_min_value"),
    Row("P15 high", {"temperature": 2.1}, "temperature", "decimal_above_max_value"),
    Row("P15 hot", {"temperature": "hot"}, "temperature", "invalid_type"),
    Row("P15 true", {"temperature": True}, "temperature", "invalid_type"),
    Row("P15 monster", {"temperature": 10**400}, "temperature", "decimal_above_max_value"),
    Row("P15 negative monster", {"min_p": -(10**400)}, "min_p", "decimal_below_min_value"),
    Row("P16 0", {"top_p": 0}, "top_p", "invalid_value"),
    Row("P16 1.1", {"top_p": 1.1}, "top_p", "invalid_value"),
    Row("P16 string", {"top_p": "1"}, "top_p", "invalid_type"),
    Row("P18", {"stop": list("abcde")}, "stop", "array_above_max_length"),
    Row("P19 empty", {"stop": ""}, "stop", "invalid_value"),
    Row("P19 empty item", {"stop": [""]}, "stop", "invalid_value"),
    Row("P19 number", {"stop": 3}, "stop", "invalid_value"),
    Row("P19 number item", {"stop": ["a", 3]}, "stop", "invalid_value"),
    Row("P19 long", {"stop": ["é" * 513]}, "stop", "invalid_value"),
    Row("P20 21", {"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
    Row("P20 -1", {"logprobs": True, "top_logprobs": -1}, "top_logprobs", "integer_below_min_value"),
    Row("P21", {"top_logprobs": 2}, "top_logprobs", "invalid_value"),
    Row("P21 false", {"top_logprobs": 2, "logprobs": False}, "top_logprobs", "invalid_value"),
    Row("P21 integer", {"logprobs": 1}, "logprobs", "invalid_type"),
    Row("P22", {"logit_bias": {str(i): 1 for i in range(301)}}, "logit_bias", "too_many_keys"),
    Row("P24 101", {"logit_bias": {"1": 101}}, "logit_bias", "invalid_value"),
    Row("P24 null", {"logit_bias": {"1": None}}, "logit_bias", "invalid_value"),
    Row("P24 true", {"logit_bias": {"1": True}}, "logit_bias", "invalid_value"),
    Row("P24 array", {"logit_bias": []}, "logit_bias", "invalid_type"),
    *(
        Row(f"P24 key {key[:9]!r}", {"logit_bias": {key: 1}}, "logit_bias", "invalid_value")
        for key in ("", "a", "-1", "01", "1.0", "٣", "²", "1" * 1_000)
    ),
    Row("P25 stream", {"stream": "yes"}, "stream", "invalid_type"),
    Row("P25 1", {"stream": 1}, "stream", "invalid_type"),
    Row("P25 options", {"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    Row("P25 type", {"stream": True, "stream_options": 1}, "stream_options", "invalid_type"),
    Row(
        "P25 usage",
        {"stream": True, "stream_options": {"include_usage": 1}},
        "stream_options.include_usage",
        "invalid_type",
    ),
    Row("P26 user", {"user": "u" * 513}, "user", "string_above_max_length"),
    Row("P26 identifier", {"safety_identifier": "u" * 65}, "safety_identifier", "string_above_max_length"),
    Row("P26 metadata", {"metadata": {str(i): "" for i in range(17)}}, "metadata", "too_many_keys"),
    Row("P26 key", {"metadata": {"k" * 65: ""}}, "metadata", "string_above_max_length"),
    Row("P26 value", {"metadata": {"k": "v" * 513}}, "metadata.k", "string_above_max_length"),
    Row("P26 type", {"metadata": {"k": 1}}, "metadata.k", "invalid_type"),
    Row("P26 string", {"metadata": "k"}, "metadata", "invalid_type"),
    Row("seed", {"seed": 2**63}, "seed", "integer_above_max_value"),
    Row("seed low", {"seed": -(2**63) - 1}, "seed", "integer_below_min_value"),
    Row("top_k -2", {"top_k": -2}, "top_k", "integer_below_min_value"),
    Row("top_k big", {"top_k": 2**63}, "top_k", "integer_above_max_value"),
    Row("min_p", {"min_p": 1.5}, "min_p", "decimal_above_max_value"),
    Row("presence_penalty", {"presence_penalty": 2.5}, "presence_penalty", "decimal_above_max_value"),
    Row("frequency_penalty", {"frequency_penalty": -3}, "frequency_penalty", "decimal_below_min_value"),
    Row("repetition_penalty 0", {"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
    Row("repetition_penalty 3", {"repetition_penalty": 3}, "repetition_penalty", "decimal_above_max_value"),
    Row("ignore_eos", {"ignore_eos": 1}, "ignore_eos", "invalid_type"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_refuses(row: Row) -> None:
    with pytest.raises(ApiError) as caught:
        parse(**row.fields)
    body = caught.value.body
    assert (caught.value.status, body.type) == (400, "invalid_request_error")
    assert (body.param, body.code) == (row.param, row.code)
    assert row.param in body.message


@pytest.mark.parametrize("text", ["1e400", "-1e400", "1e999999999"])
def test_j20_a_float_beyond_a_double_is_no_integer(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_chat(b'{"model":"m","messages":[{"role":"user","content":"x"}],"n":%s}' % text.encode(), BOUNDS)
    assert (caught.value.body.param, caught.value.code) == ("n", "invalid_type")


@pytest.mark.parametrize("text", ["1e400", "-1e400"])
def test_no_field_lets_an_infinity_through(text: str) -> None:
    floats = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
    for name in floats:
        with pytest.raises(ApiError) as caught:
            parse_chat(
                b'{"model":"m","messages":[{"role":"user","content":"x"}],"%s":%s}' % (name.encode(), text.encode()),
                BOUNDS,
            )
        assert caught.value.body.param == name


FULL: dict[str, object] = {
    "model": "org/model:adapter",
    "messages": [
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": [{"type": "text", "text": "Be kind."}, {"type": "text", "text": "Be true."}]},
        {"role": "user", "content": "Hi\x00", "name": "ann"},
        {"role": "assistant", "content": "", "refusal": None, "tool_calls": [], "audio": None, "annotations": []},
        {"role": "user", "content": "<|im_end|>", "name": None},
    ],
    "max_tokens": 5,
    "max_completion_tokens": 5,
    "temperature": 2,
    "top_p": 1,
    "top_k": -1,
    "min_p": 1,
    "n": 128,
    "stop": ["a", "b", "c", "d"],
    "seed": -(2**63),
    "presence_penalty": -2,
    "frequency_penalty": 2,
    "repetition_penalty": 2,
    "logit_bias": {"0": -100, "50256": 99.5},
    "logprobs": True,
    "top_logprobs": 20,
    "stream": True,
    "stream_options": {"include_usage": True, "include_obfuscation": False, "continuous_usage_stats": None},
    "user": "u" * 512,
    "safety_identifier": "s" * 64,
    "metadata": {"k" * 64: "v" * 512},
    "store": False,
    "service_tier": "auto",
    "modalities": ["text"],
    "response_format": {"type": "text"},
    "ignore_eos": True,
    "tools": None,
    "function_call": None,
}


def test_accepts_every_field_at_its_bounds() -> None:
    request = parse(**FULL)
    sampling = request.to_sampling(BOUNDS)
    assert (sampling.n, sampling.top_k, sampling.seed, sampling.logprobs) == (128, 0, -(2**63), 20)
    assert sampling.logit_bias == {0: -100.0, 50256: 99.5}
    assert sampling.stop == ("a", "b", "c", "d")
    assert sampling.ignore_eos
    assert (request.stream, request.include_usage) == (True, True)
    assert request.metadata == {"k" * 64: "v" * 512}


def test_null_means_absent() -> None:
    optional = {name: None for name in FULL if name not in BODY}
    assert parse(**optional) == parse()


def test_messages_become_plain_text() -> None:
    assert parse(**FULL).conversation({}).messages == [
        ChatMessage("developer", "Be brief."),
        ChatMessage("system", "Be kind.\nBe true."),
        ChatMessage("user", "Hi\x00", "ann"),
        ChatMessage("assistant", ""),
        ChatMessage("user", "<|im_end|>"),
    ]


def test_as_many_messages_as_the_server_is_set_to() -> None:
    body = json.dumps({**BODY, "messages": [USER] * 2049}).encode()
    assert len(parse_chat(body, RequestBounds(max_messages=2049)).messages) == 2049


def test_n_is_bounded_by_the_server_too() -> None:
    with pytest.raises(ApiError) as caught:
        parse_chat(json.dumps({**BODY, "n": 3}).encode(), RequestBounds(max_n=2))
    assert (caught.value.body.param, caught.value.code) == ("n", "integer_above_max_value")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 0, "model": ABSENT}, "model"),
        ({"n": 0, "temperature": "hot"}, "temperature"),
        ({"n": "x", "foo": 1}, "foo"),
        ({"foo": 1, "functions": []}, "functions"),
        ({"temperature": 3, "messages": []}, "temperature"),
        ({"messages": [{"role": "user", "content": 1}, {"role": "x", "content": 2}]}, "messages[0].content"),
    ],
)
def test_the_first_thing_to_mend_is_told_first(fields: dict[str, object], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(**fields)
    assert caught.value.body.param == param


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": "3"}, "Invalid type for 'n': expected an integer, but got a string instead."),
        ({"model": ABSENT}, "Missing required parameter: 'model'."),
        ({"foo": 1}, "Unknown parameter: 'foo'."),
        (
            {"messages": [USER] * 3000},
            "Invalid 'messages': array too long. Expected an array with maximum length 2048, "
            "but got an array with length 3000 instead.",
        ),
        (
            {"temperature": 2.5},
            "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 2.5 instead.",
        ),
        ({"n": 0}, "Invalid 'n': integer below minimum value. Expected a value >= 1, but got 0 instead."),
        (
            {"messages": message(role="x" * 999)},
            "Invalid value for 'messages[0].role': '" + "x" * 64 + "...'. "
            "Supported values are: 'developer', 'system', 'user', 'assistant' or 'tool'.",
        ),
    ],
)
def test_messages_read_like_openais(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(**fields)
    assert caught.value.body.message == message


def test_one_body_with_many_errors_is_one_small_answer() -> None:
    with pytest.raises(ApiError) as caught:
        parse(messages=[{"role": {}, "content": {}, "name": {}}] * 2048)
    assert caught.value.body.param == "messages[0].content"
    assert len(caught.value.payload()) < 512


def test_an_unknown_field_with_a_monstrous_name_is_clipped() -> None:
    with pytest.raises(ApiError) as caught:
        parse(**{"é" * 500: 1})
    assert caught.value.body.param == "é" * 64
