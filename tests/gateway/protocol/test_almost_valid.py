"""Chat bodies with everything that chat knows and exactly one thing wrong: the answer points at that thing.

What is harmless by rule is let through: null where a field is optional, and anything inside of free JSON (the schemas
of tools and formats, which the engine judges later).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import MAX_MESSAGE_BYTES, ApiError
from gateway.protocol.chat import parse_chat
from gateway.protocol.strictjson import json_path
from tests.gateway.protocol.test_request_laws import Path, outcome, places, points_at, sampling_fields

text = st.text(max_size=8)
name = st.from_regex(r"[a-z_0-9]{1,8}", fullmatch=True)
schema = st.sampled_from(
    [
        {"type": "object"},
        {"type": "object", "properties": {"a": {"type": "integer", "enum": [1, 2]}}, "required": ["a"]},
    ]
)
part = st.fixed_dictionaries({"type": st.just("text"), "text": text}) | st.fixed_dictionaries(
    {
        "type": st.just("image_url"),
        "image_url": st.fixed_dictionaries(
            {"url": st.just("data:image/png;base64,AA==")},
            optional={"detail": st.sampled_from(["auto", "low", "high"])},
        ),
    }
)
user = st.fixed_dictionaries(
    {"role": st.just("user"), "content": text | st.lists(part, min_size=1, max_size=3)}, optional={"name": name}
)
system = st.fixed_dictionaries({"role": st.sampled_from(["system", "developer"]), "content": text})
function = st.fixed_dictionaries(
    {"name": name}, optional={"description": text, "parameters": schema, "strict": st.booleans()}
)


@st.composite
def told(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A call and its result, as an assistant and a tool say them."""
    called = {"name": draw(name), "arguments": draw(text)}
    call = {"id": draw(name), "type": "function", "function": called}
    assistant: dict[str, Any] = {"role": "assistant", "tool_calls": [call]}
    if draw(st.booleans()):
        assistant["content"] = draw(text)
    return [assistant, {"role": "tool", "tool_call_id": call["id"], "content": draw(text)}]


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    """Valid ones."""
    fields = draw(st.fixed_dictionaries({}, optional=sampling_fields))
    fields.pop("stream", None)
    messages = [*draw(st.lists(system, max_size=1)), draw(user), *draw(st.just([]) | told())]
    body: dict[str, Any] = {"model": draw(name), "messages": messages, **fields}
    if draw(st.booleans()):
        body |= {"stream": True, "stream_options": {"include_usage": draw(st.booleans())}}
    if draw(st.booleans()):
        body |= {"logprobs": True, "top_logprobs": draw(st.integers(0, 20))}
    if draw(st.booleans()):
        body["metadata"] = draw(st.dictionaries(name, text, max_size=2))
    match draw(st.sampled_from(["plain", "tools", "format", "structure"])):
        case "tools":
            body |= draw(_tools())
        case "format":
            made = {"name": draw(name), "schema": draw(schema), "strict": True}
            body["response_format"] = draw(
                st.sampled_from([{"type": "json_object"}, {"type": "json_schema", "json_schema": made}])
            )
        case "structure":
            body["structured_outputs"] = draw(st.sampled_from([{"choice": ["a", "b"]}, {"regex": "a+"}]))
    return body


@st.composite
def _tools(draw: st.DrawFn) -> dict[str, Any]:
    declared = draw(st.lists(function, min_size=1, max_size=3, unique_by=lambda each: each["name"]))
    named = {"type": "function", "function": {"name": declared[0]["name"]}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [named]}}
    choice = draw(st.sampled_from(["auto", "none", "required", named, allowed]))
    tools = [{"type": "function", "function": each} for each in declared]
    return {"tools": tools, "tool_choice": choice, "parallel_tool_calls": draw(st.booleans())}


#: Of every JSON type, and none that any field would take for its own, but for what free JSON is.
ODD: Final[tuple[Any, ...]] = (
    None,
    {"surprise": [{}]},
    [[[]]],
    True,
    -(2**70),
    2**70,
    1e400,
    3.25,
    "",
    "no such\n<thing>",
)
FREE: Final = frozenset({"parameters", "schema"})
ANY_TEXT: Final = frozenset({"content", "text", "user", "arguments", "description", "url"})
SOME_TEXT: Final = frozenset({"stop", "id", "regex", "choice"})
SWITCHES: Final = frozenset({"stream", "logprobs", "include_usage", "parallel_tool_calls", "strict", "ignore_eos"})
#: Fields that mean nothing without another: what breaks when that one goes.
NEEDS: Final = {
    "logprobs": ("top_logprobs",),
    "stream": ("stream_options",),
    "tools": ("tool_choice", "parallel_tool_calls", "messages"),
    "messages": ("messages",),
    "tool_choice": ("tool_choice",),
}


def answer(body: bytes) -> ApiError | None:
    error = outcome(parse_chat, body)
    if error is not None:
        assert error.status == 400
        assert len(error.body.message.encode()) <= MAX_MESSAGE_BYTES
        assert json.loads(error.payload())["error"]["param"] == error.body.param
    return error


def changed(body: dict[str, Any], path: Path, value: object) -> bytes:
    mutant = copy.deepcopy(body)
    node: Any = mutant
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return json.dumps(mutant).replace("Infinity", "1e400").encode()


def free(path: Path) -> bool:
    """Whether ``path`` is inside of JSON that is the caller's own."""
    return any(part in FREE for part in path[:-1])


def may_break(path: Path, param: str) -> bool:
    """Whether a fault at ``param`` can come of a value at ``path`` that is good by itself."""
    return any(param.startswith(needed) for needed in NEEDS.get(str(path[0]), ()))


@settings(max_examples=200)
@given(data=st.data())
def test_one_odd_value_is_pointed_at_or_harmless(data: st.DataObject) -> None:
    body = data.draw(bodies())
    assert answer(json.dumps(body).encode()) is None
    path = data.draw(st.sampled_from(list(places(body))))
    value = data.draw(st.sampled_from(ODD))
    error = answer(changed(body, path, value))
    if error is None:
        assert free(path) or path[-1] in FREE or harmless(path, value), (path, value)
    elif not points_at(error.body.param, path):
        assert error.body.param is not None
        assert may_break(path, error.body.param), (path, value, error.body)


def harmless(path: Path, value: object) -> bool:
    """Whether ``value`` may stand at ``path`` by rule."""
    field = next(part for part in reversed(path) if isinstance(part, str))
    metadata = path[0] == "metadata" and len(path) > 1
    if value is None:
        return isinstance(path[-1], str)
    if isinstance(value, str):
        return field in ANY_TEXT or metadata or (bool(value) and field in SOME_TEXT)
    if isinstance(value, bool):
        return field in SWITCHES
    # The only number here that is in the range of a field; and no text is read as one.
    return value == 3.25 and path[0] == "logit_bias"


def objects(body: dict[str, Any]) -> Iterator[Path]:
    """The path of every object of a known shape."""
    yield ()
    for path in places(body):
        node: Any = body
        for key in path:
            node = node[key]
        if isinstance(node, dict) and not free((*path, "")) and path[0] not in ("logit_bias", "metadata"):
            yield path


@given(data=st.data(), key=name)
def test_a_field_too_many_is_named_at_any_depth(data: st.DataObject, key: str) -> None:
    body = data.draw(bodies())
    path = (*data.draw(st.sampled_from(list(objects(body)))), f"zz{key}")
    error = answer(changed(body, path, 1))
    assert error is not None
    assert error.body.param == json_path(path)
    assert error.code in ("unknown_parameter", "unsupported_parameter")


@given(data=st.data())
def test_a_field_twice_is_named_at_any_depth(data: st.DataObject) -> None:
    body = data.draw(bodies())
    path = data.draw(st.sampled_from([path for path in places(body) if isinstance(path[-1], str)]))
    twice = changed(body, (*path[:-1], "@@@"), 1).replace(b'"@@@"', json.dumps(path[-1]).encode())
    error = answer(twice)
    assert error is not None
    assert (error.code, error.body.param) == ("duplicate_key", json_path(path))
