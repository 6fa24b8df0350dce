"""Laws: one mutation of a valid body is one 400 that points at it; nothing a client sends is any other exception."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import MAX_MESSAGE_BYTES, ApiError
from gateway.protocol.chat import parse_chat
from gateway.protocol.completions import parse_completion
from gateway.protocol.sampling import RequestBounds
from gateway.protocol.strictjson import json_path

BOUNDS = RequestBounds()
Path = tuple[str | int, ...]
Parse = Callable[[bytes, RequestBounds], object]

text = st.text(max_size=20)
name = st.from_regex(r"[a-z_0-9]{1,20}", fullmatch=True)
decimal = st.floats(-2, 2, allow_nan=False)

sampling_fields: dict[str, st.SearchStrategy[Any]] = {
    "max_tokens": st.integers(1, 2**63 - 1),
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0.01, 1),
    "top_k": st.integers(-1, 1000),
    "min_p": st.floats(0, 1),
    "n": st.integers(1, 2),
    "seed": st.integers(-(2**63), 2**63 - 1),
    "stop": st.text(min_size=1, max_size=9) | st.lists(st.text(min_size=1, max_size=9), max_size=4),
    "presence_penalty": decimal,
    "frequency_penalty": decimal,
    "repetition_penalty": st.floats(0.01, 2),
    "logit_bias": st.dictionaries(st.integers(0, 99999).map(str), st.floats(-100, 100), max_size=4),
    "user": text,
    "ignore_eos": st.booleans(),
    "stream": st.just(True),
}
parts = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": text}), min_size=1, max_size=3)
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant"]), "content": text | parts},
    optional={"name": name},
)
chat_bodies = st.fixed_dictionaries(
    {"model": name, "messages": st.lists(message, min_size=1, max_size=4)},
    optional={**sampling_fields, "logprobs": st.booleans(), "metadata": st.dictionaries(name, text, max_size=3)},
)
token_ids = st.lists(st.integers(0, 99999), min_size=1, max_size=4)
some_text = st.text(min_size=1, max_size=9)
completion_bodies = st.fixed_dictionaries(
    {
        "model": name,
        "prompt": some_text
        | st.lists(some_text, min_size=1, max_size=4)
        | token_ids
        | st.lists(token_ids, min_size=1, max_size=4),
    },
    optional={**sampling_fields, "logprobs": st.integers(0, 5)},
)
ENDPOINTS: dict[str, tuple[Parse, st.SearchStrategy[dict[str, Any]]]] = {
    "chat": (parse_chat, chat_bodies),
    "completions": (parse_completion, completion_bodies),
}


def places(value: object, path: Path = ()) -> Iterator[Path]:
    """The path of every value below the top."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def replaced(body: dict[str, Any], path: Path, value: object) -> dict[str, Any]:
    mutant = copy.deepcopy(body)
    node: Any = mutant
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return mutant


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


def points_at(param: str | None, path: Path) -> bool:
    """Whether ``param`` is the mutated path, above it or below it."""
    target = json_path(path)
    return param is not None and (param.startswith(target) or target.startswith(param))


def refusal(parse: Parse, data: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(data, BOUNDS)
    error = caught.value
    assert error.status == 400
    assert error.body.type == "invalid_request_error"
    assert len(error.body.message.encode()) <= MAX_MESSAGE_BYTES
    assert json.loads(error.payload())["error"]["param"] == error.body.param
    return error


@pytest.mark.parametrize("endpoint_name", ENDPOINTS)
@given(data=st.data())
def test_a_valid_body_is_accepted(endpoint_name: str, data: st.DataObject) -> None:
    parse, bodies = ENDPOINTS[endpoint_name]
    parse(encoded(data.draw(bodies)), BOUNDS)


@pytest.mark.parametrize("endpoint_name", ENDPOINTS)
@given(data=st.data())
def test_a_value_of_a_wrong_kind_is_named(endpoint_name: str, data: st.DataObject) -> None:
    parse, bodies = ENDPOINTS[endpoint_name]
    body = data.draw(bodies)
    path = data.draw(st.sampled_from(list(places(body))))
    error = refusal(parse, encoded(replaced(body, path, {"surprise": [{}]})))
    assert points_at(error.body.param, path)


@pytest.mark.parametrize("endpoint_name", ENDPOINTS)
@pytest.mark.parametrize(("value", "code"), [(float("nan"), "invalid_json"), ("\ud800", "invalid_unicode")])
@given(data=st.data())
def test_a_value_that_is_no_json_is_named_exactly(
    endpoint_name: str, value: object, code: str, data: st.DataObject
) -> None:
    parse, bodies = ENDPOINTS[endpoint_name]
    body = data.draw(bodies)
    path = data.draw(st.sampled_from(list(places(body))))
    error = refusal(parse, encoded(replaced(body, path, value)))
    assert (error.body.param, error.code) == (json_path(path), code)


@pytest.mark.parametrize("endpoint_name", ENDPOINTS)
@given(data=st.data(), key=name)
def test_an_unknown_or_doubled_field_is_named(endpoint_name: str, data: st.DataObject, key: str) -> None:
    parse, bodies = ENDPOINTS[endpoint_name]
    body = data.draw(bodies)
    unknown = refusal(parse, encoded({**body, f"zz_{key}": 1}))
    assert (unknown.body.param, unknown.code) == (f"zz_{key}", "unknown_parameter")
    field = data.draw(st.sampled_from(sorted(body)))
    doubled = refusal(parse, encoded({**body, f"{field}~": 1}).replace(b'~": 1}', b'": 1}'))
    assert (doubled.body.param, doubled.code) == (field, "duplicate_key")


@pytest.mark.parametrize("endpoint_name", ENDPOINTS)
@given(data=st.data())
def test_a_missing_required_field_is_named(endpoint_name: str, data: st.DataObject) -> None:
    parse, bodies = ENDPOINTS[endpoint_name]
    body = data.draw(bodies)
    for field in {"model", "messages", "prompt"} & body.keys():
        error = refusal(parse, encoded({key: value for key, value in body.items() if key != field}))
        assert (error.body.param, error.code) == (field, "missing_required_parameter")


def outcome(parse: Parse, data: bytes) -> ApiError | None:
    try:
        parse(data, BOUNDS)
    except ApiError as error:
        return error
    return None


def survives(parse: Parse, data: bytes) -> None:
    error = outcome(parse, data)
    if error is not None:
        assert 400 <= error.status < 500
        assert len(error.body.message.encode()) <= MAX_MESSAGE_BYTES
        assert json.loads(error.payload())["error"]["message"] == error.body.message


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
field_names = st.sampled_from(["model", "messages", "prompt", "stop", "n", "logit_bias", "metadata", "stream_options"])


@given(st.binary())
def test_arbitrary_bytes_are_never_another_exception(data: bytes) -> None:
    survives(parse_chat, data)
    survives(parse_completion, data)


@given(st.dictionaries(field_names | st.text(max_size=5), any_json, max_size=8))
def test_arbitrary_json_is_never_another_exception(value: object) -> None:
    survives(parse_chat, encoded(value))
    survives(parse_completion, encoded(value))


@given(chat_bodies, field_names, any_json)
def test_an_arbitrary_value_in_a_valid_body_is_never_another_exception(
    body: dict[str, object], field: str, value: object
) -> None:
    survives(parse_chat, encoded({**body, field: value}))


@given(chat_bodies, st.integers(min_value=0), st.binary(max_size=3))
def test_damaged_bytes_are_never_another_exception(body: dict[str, object], at: int, damage: bytes) -> None:
    data = encoded(body)
    at %= len(data)
    survives(parse_chat, data[:at] + damage + data[at + 1 :])
