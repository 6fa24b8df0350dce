"""Tools that are HTTP requests, against a real server that misbehaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.agent.http_tool import HttpTool
from gateway.agent.tool import CUT, ToolFailed, bounded
from gateway.settings import SettingsError, load
from gateway.settings.agent import HttpToolSettings, secret_headers
from tests.support.tool_server import ToolServer, tool_server

ONE = {"type": "object", "properties": {"a": {}}, "required": ["a"]}
ANY: dict[str, Any] = {"type": "object"}


@pytest.fixture(scope="module")
def server() -> Iterator[ToolServer]:
    with tool_server() as tools:
        yield tools


async def called(server: ToolServer, path: str, arguments: dict[str, Any], **fields: Any) -> str:
    settings = HttpToolSettings(description="d", url=f"{server.url}/{path}", **{"parameters": ANY, **fields})
    tool = HttpTool("t", settings, secret_headers(settings, "agent.http.t"))
    try:
        return (await tool.call(arguments)).text
    finally:
        await tool.close()


async def refused(server: ToolServer, path: str, arguments: dict[str, Any], **fields: Any) -> tuple[str, str]:
    with pytest.raises(ToolFailed) as caught:
        await called(server, path, arguments, **fields)
    return caught.value.outcome, str(caught.value)


async def test_where_arguments_go(server: ToolServer) -> None:
    await called(server, "weather/{a}/x?k={a}", {"a": "a/b?c#d e", "n": 7, "s": "ü"}, method="GET", parameters=ONE)
    method, path, headers, body = server.asked[-1]
    assert (method, path, body) == ("GET", "/weather/a%2Fb%3Fc%23d%20e/x?k=a%2Fb%3Fc%23d+e&n=7&s=%C3%BC", b"")
    assert headers["accept-encoding"] == "identity"
    await called(server, "weather/{a}", {"a": 1, "n": {"x": [1]}}, method="PUT", parameters=ONE)
    method, path, headers, body = server.asked[-1]
    assert (method, path, json.loads(body)) == ("PUT", "/weather/1", {"n": {"x": [1]}})
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize("value", ["", ".", ".."])
async def test_no_argument_climbs_out_of_its_segment(server: ToolServer, value: str) -> None:
    before = len(server.asked)
    outcome, _ = await refused(server, "weather/{a}", {"a": value}, method="GET", parameters=ONE)
    assert outcome == "invalid_arguments"
    assert len(server.asked) == before


async def test_arguments_of_any_length(server: ToolServer) -> None:
    outcome, _ = await refused(server, "weather/{a}", {"a": "x" * 100_000}, method="GET", parameters=ONE)
    assert outcome == "error"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("failing", "the tool answered with status 500"),
        ("nothing", "the tool answered with status 404"),
        ("binary", "the tool answered with image/png, which is not text"),
        ("zipped", "the tool answered with a compressed body"),
        ("away", "the tool sent us elsewhere"),
        ("round", "the tool sent us elsewhere"),
    ],
)
async def test_what_does_not_work(server: ToolServer, path: str, said: str) -> None:
    assert await refused(server, path, {}, method="GET") == ("error", said)


async def test_nothing_is_remembered_of_one_caller_for_the_next(server: ToolServer) -> None:
    settings = HttpToolSettings(description="d", url=f"{server.url}/cookie", method="GET", parameters=ANY)
    tool = HttpTool("t", settings, {})
    for _ in range(2):
        await tool.call({})
    await tool.close()
    assert [name for name in server.asked[-1][2] if name.lower() == "cookie"] == []


async def test_redirects_on_the_same_host_are_followed(server: ToolServer) -> None:
    assert "clear" in await called(server, "moved", {"x": 1})
    assert [(method, path) for method, path, _, _ in server.asked[-2:]] == [
        ("POST", "/moved"),
        ("POST", "/weather/moved"),
    ]


async def test_long_answers_are_cut(server: ToolServer) -> None:
    text = await called(server, "big", {}, max_response_bytes=1000)
    assert text == "x" * 1000 + CUT


async def test_slow_and_absent_servers(server: ToolServer) -> None:
    assert (await refused(server, "slow", {}, timeout=0.2))[0] == "timeout"
    nobody = ToolServer(url="http://127.0.0.1:1")
    assert (await refused(nobody, "weather", {}))[0] == "unavailable"


async def test_schemas_that_point_elsewhere_are_not_followed(server: ToolServer) -> None:
    parameters = {"type": "object", "properties": {"a": {"$ref": f"{server.url}/weather"}}}
    before = len(server.asked)
    assert (await refused(server, "weather", {"a": 1}, parameters=parameters))[0] == "error"
    assert len(server.asked) == before


@given(st.text(), st.integers(1, 40))
def test_what_is_told_is_bounded_and_can_be_sent(text: str, limit: int) -> None:
    output = bounded(text, limit)
    output.text.encode()
    assert output.cut is (len(text.encode("utf-8", "replace")) > limit)
    assert len(output.text.removesuffix(CUT).encode()) <= limit


def test_half_a_character_of_two() -> None:
    assert bounded("\ud800x", 10).text == "?x"


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "ftp://x/"},
        {"url": "http://{a}/", "parameters": ONE},
        {"url": "http://user:word@x/"},
        {"url": "http://x/{b}"},
        {"url": "http://x/{a}", "parameters": {"type": "object", "properties": {"a": {}}}},
        {"url": "http://x/", "method": "HEAD"},
        {"url": "http://x/", "colour": "red"},
    ],
)
def test_settings_that_cannot_be_used(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        HttpToolSettings(description="d", **fields)


def test_secrets_come_from_environment_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("from-file\n")
    monkeypatch.setenv("A_TOKEN", "from-environment")
    settings = HttpToolSettings(
        description="d",
        url="http://x/",
        headers={"a": "plain"},
        headers_env={"b": "A_TOKEN"},
        headers_file={"c": tmp_path / "token"},
    )
    assert secret_headers(settings, "w") == {"a": "plain", "b": "from-environment", "c": "from-file"}
    tree = load(flags={"agent": {"http": {"t": settings.model_dump()}}})
    assert "from-" not in tree.printable()
    monkeypatch.delenv("A_TOKEN")
    with pytest.raises(SettingsError, match=r"w\.headers_env\.b: A_TOKEN is not set"):
        secret_headers(settings, "w")


@pytest.mark.parametrize("section", [{"http": {"a b": {"description": "d", "url": "http://x/"}}}, {"mcp": {"a_b": {}}}])
def test_names_are_checked(section: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"agent\."):
        load(flags={"agent": section})
