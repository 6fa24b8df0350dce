"""Table J of the abuse tables, at the decoder: what it refuses, with which code, at which path."""

from __future__ import annotations

import json
import time
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ApiError
from gateway.protocol import strictjson
from gateway.protocol.strictjson import json_path, loads

MIB = 1 << 20
BODY = 10 * MIB


class Row(NamedTuple):
    id: str
    body: bytes
    code: str
    param: str | None


ROWS = [
    Row("J01 empty", b"", "invalid_json", None),
    Row("J01 blank", b" \n\t ", "invalid_json", None),
    Row("J02 array", b"[]", "invalid_json", None),
    Row("J02 string", b'"x"', "invalid_json", None),
    Row("J02 number", b"3", "invalid_json", None),
    Row("J02 null", b"null", "invalid_json", None),
    Row("J03 word", b"{} x", "invalid_json", None),
    Row("J03 second object", b"{}{}", "invalid_json", None),
    Row("J03 cut short", b'{"a": [1, 2', "invalid_json", None),
    Row("J04 comment", b'{"a": 1 /* one */}', "invalid_json", None),
    Row("J04 single quotes", b"{'a': 1}", "invalid_json", None),
    Row("J04 trailing comma, object", b'{"a": 1,}', "invalid_json", None),
    Row("J04 trailing comma, array", b'{"a": [1,]}', "invalid_json", None),
    Row("J04 raw newline in a string", b'{"a": "\n"}', "invalid_json", None),
    Row("J04 unknown escape", b'{"a": "\\x41"}', "invalid_json", None),
    Row("J04 leading zero", b'{"a": 01}', "invalid_json", None),
    Row("J04 leading plus", b'{"a": +1}', "invalid_json", None),
    Row("J04 bare point", b'{"a": .5}', "invalid_json", None),
    Row("J05 NaN", b'{"temperature": NaN}', "invalid_json", "temperature"),
    Row("J06 Infinity", b'{"temperature": Infinity}', "invalid_json", "temperature"),
    Row("J06 -Infinity", b'{"temperature": -Infinity}', "invalid_json", "temperature"),
    Row("J05 deep NaN", b'{"a": [0, {"b": [NaN]}]}', "invalid_json", "a[1].b[0]"),
    Row("J08", b'{"model": "a", "n": 1, "model": "b"}', "duplicate_key", "model"),
    Row("J08 spelt with an escape", b'{"model": "a", "mod\\u0065l": "b"}', "duplicate_key", "model"),
    Row("J09", b'{"messages": [{}, {"role": "a", "role": "b"}]}', "duplicate_key", "messages[1].role"),
    Row("J10 65 levels", b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "json_too_deep", None),
    Row("J10 65 objects", b'{"a":' * 65 + b"1" + b"}" * 65, "json_too_deep", None),
    Row("J10 1e3", b"[" * 1_000, "json_too_deep", None),
    Row("J10 1e5", b"[" * 100_000 + b"]" * 100_000, "json_too_deep", None),
    Row("J10 1e6", b"[" * 1_000_000, "json_too_deep", None),
    Row("J11 value", b'{"messages": [{"content": "\\ud800"}]}', "invalid_unicode", "messages[0].content"),
    Row("J11 low half first", b'{"a": "\\udc00\\ud800"}', "invalid_unicode", "a"),
    Row("J11 before a plain escape", b'{"a": "\\ud800\\n"}', "invalid_unicode", "a"),
    Row("J11 key", b'{"a": {"x\\ud800": 1}}', "invalid_unicode", "a.x\\ud800"),
    Row("J12 byte", b'{"a": "\xff"}', "invalid_json", None),
    Row("J12 overlong", b'{"a": "\xc0\xaf"}', "invalid_json", None),
    Row("J12 surrogate in UTF-8", b'{"a": "\xed\xa0\x80"}', "invalid_json", None),
    Row("J12 UTF-16", '{"a": 1}'.encode("utf-16-le"), "invalid_json", None),
    Row("J14", b"\xef\xbb\xbf{}", "invalid_json", None),
    Row("J15", b'{"a": [1, ' + b"7" * 5_000 + b"]}", "invalid_value", "a[1]"),
    Row("J15 negative", b'{"a": -' + b"7" * 5_000 + b"}", "invalid_value", "a"),
    Row("J21 keys", json.dumps({"a": dict.fromkeys(map(str, range(10_001)))}).encode(), "too_many_keys", None),
    Row("J21 long key", json.dumps({"a": [{"k" * 1025: 1}]}).encode(), "too_many_keys", None),
    Row("J21 long key in bytes", json.dumps({"é" * 513: 1}).encode(), "too_many_keys", None),
    Row("J21 in all", b'{"a":[' + b"{}," * 250_000 + b"{}]}", "too_many_keys", None),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_refuses(row: Row) -> None:
    with pytest.raises(ApiError) as caught:
        loads(row.body)
    assert (caught.value.status, caught.value.code, caught.value.body.param) == (400, row.code, row.param)


ACCEPTED: list[tuple[str, bytes, object]] = [
    ("64 levels", b'{"a":' + b"[" * 63 + b"]" * 63 + b"}", None),
    ("brackets in text are not nesting", json.dumps({"a": "[{" * 1_000}).encode(), {"a": "[{" * 1_000}),
    ("all white space", b" \t\r\n{ \n}\r", {}),
    ("surrogate pair", b'{"a": "\\ud83d\\ude00"}', {"a": "😀"}),
    ("escaped backslash before u", b'{"a": "\\\\ud800"}', {"a": "\\ud800"}),
    ("J24 NUL", b'{"a": "\\u0000"}', {"a": "\x00"}),
    ("J16 integers keep their digits", b'{"n": 1180591620717411303424}', {"n": 2**70}),
    ("J20 floats beyond a double", b'{"n": 1e400}', {"n": float("inf")}),
    ("10,000 keys", json.dumps(dict.fromkeys(map(str, range(10_000)))).encode(), None),
    ("a key of 1 KiB", json.dumps({"é" * 512: 1}, ensure_ascii=False).encode(), {"é" * 512: 1}),
    ("the same key in two objects", b'{"a": {"b": 1}, "c": [{"b": 1}, {"b": 2}]}', None),
]


@pytest.mark.parametrize(("body", "value"), [row[1:] for row in ACCEPTED], ids=[row[0] for row in ACCEPTED])
def test_accepts(body: bytes, value: object) -> None:
    decoded = loads(body)
    assert value is None or decoded == value


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)


@given(st.dictionaries(st.text(), json_values, max_size=6), st.booleans())
def test_returns_what_was_written(value: dict[str, object], ascii_only: bool) -> None:
    assert loads(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


def refusal(body: bytes) -> ApiError | None:
    try:
        loads(body)
    except ApiError as error:
        return error
    return None


def refused_without_a_reason(body: bytes) -> bool:
    error = refusal(body)
    return error is not None and "it is not valid JSON" in error.body.message


@given(st.binary() | st.text(alphabet='{}[]",:\\ud8c0019.eE+-tfnN \n').map(str.encode))
def test_the_scanner_finds_the_fault_of_every_body_the_decoder_refuses(body: bytes) -> None:
    assert not refused_without_a_reason(body)
    assert not refused_without_a_reason(b'{"a":' + body + b"}")


HOSTILE = {
    "open arrays": b"[" * BODY,
    "open objects": b'{"a":' * (BODY // 5),
    "lone surrogates": b'{"a":"' + b"\\ud800" * (BODY // 6) + b'"}',
    "surrogate pairs, then a lone one": b'{"a":"' + b"\\ud83d\\ude00" * (BODY // 12) + b'\\ud800"}',
    "escapes without end": b'{"a":"' + b"\\\\" * (BODY // 2),
    "digits": b'{"a":' + b"1" * BODY + b"}",
    "exponents": b'{"a":1e' + b"1" * BODY + b"}",
    "keys": b"{" + b",".join(b'"%d":1' % i for i in range(900_000)) + b"}",
    "one long key": b'{"' + b"k" * BODY + b'":1}',
    "integers, then garbage": b'{"a":[' + b"1," * (BODY // 2) + b"x]}",
    "integers": b'{"a":[' + b"1," * (BODY // 2) + b"1]}",
    "long integers": b'{"a":[' + (b"1" * 4_000 + b",") * (BODY // 4_001) + b"1]}",
    "empty arrays": b'{"a":[' + b"[]," * (BODY // 3) + b"[]]}",
    "strings, then a duplicate": b'{"a":[' + b'"a",' * (BODY // 4) + b'"a"],"a":1}',
    "quotes": b'"' * BODY,
    "white space": b" " * BODY,
    "newlines, then garbage": b"\n" * BODY + b"x",
    "not UTF-8 at the end": b'{"a":"' + b"x" * BODY + b'\xff"}',
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_ten_hostile_mebibytes_do_not_hang(body: bytes) -> None:
    began = time.perf_counter()
    error = refusal(body)
    assert time.perf_counter() - began < 10
    assert error is None or (error.status == 400 and len(error.payload()) < 4096)


def test_a_fault_beyond_the_scanners_reach_keeps_its_code() -> None:
    many = b'{"a":[' + b"1," * (strictjson._SCANNED_VALUES + 1) + b'1],"b":1,"b":2}'
    with pytest.raises(ApiError) as caught:
        loads(many)
    assert (caught.value.code, caught.value.body.param) == ("duplicate_key", None)


def test_the_message_says_where() -> None:
    with pytest.raises(ApiError, match=r"line 2, column 7"):
        loads(b'{"a": 1,\n "b": x}')


@pytest.mark.parametrize(
    ("path", "text"),
    [((), ""), (("model",), "model"), (("messages", 2, "content", 0, "type"), "messages[2].content[0].type")],
)
def test_paths_are_written_as_openai_writes_them(path: tuple[str | int, ...], text: str) -> None:
    assert json_path(path) == text


def test_paths_clip_long_keys() -> None:
    assert json_path(["k" * 1000]) == "k" * 64
    assert len(json_path(["k" * 1000] * 64)) == 512
