"""The error contract, and a plain HTTP client of the session's real gateway."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.gateways import Threaded

_LEAKS = re.compile(r"0x[0-9a-f]{6,}|Traceback|/site-packages/|/home/|/root/|/work/|\bvllm\b|pydantic", re.IGNORECASE)


def assert_error(
    response: httpx.Response, status: int, code: str | None, param: str | None = None, type: str | None = None
) -> None:
    """``response`` obeys the whole contract and says exactly this."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body = response.json()
    assert set(body) == {"error"}
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert 0 < len(error["message"].encode()) <= 1024
    assert not _LEAKS.search(error["message"])
    assert (error["code"], error["param"]) == (code, param), error
    if type is not None:
        assert error["type"] == type
    if status in (429, 503):
        assert int(response.headers["retry-after"]) >= 1
    elif 400 <= status < 500 and status != 408:
        assert response.headers["x-should-retry"] == "false"
    if status == 401:
        assert response.headers["www-authenticate"].startswith("Bearer")


@dataclass(frozen=True, slots=True)
class Api:
    """Short words for long calls."""

    http: httpx.Client
    gateway: Threaded
    model: str

    def chat(self, content: Any = "Say hi.", **fields: Any) -> httpx.Response:
        body = {"model": self.model, "messages": [{"role": "user", "content": content}], **fields}
        return self.http.post("/v1/chat/completions", json=body)

    def completion(self, prompt: Any, **fields: Any) -> httpx.Response:
        return self.http.post("/v1/completions", json={"model": self.model, "prompt": prompt, **fields})

    def post(self, body: Any, path: str = "/v1/chat/completions") -> httpx.Response:
        """``body`` as it is if it is bytes, else as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.http.post(path, content=content, headers={"content-type": "application/json"})

    def events(self, path: str, **body: Any) -> list[Any]:
        """The events of a stream, decoded; the last one is the string ``[DONE]``."""
        body = {"model": self.model, "stream": True, **body}
        with self.http.stream("POST", path, json=body) as response:
            response.read()
        assert response.status_code == 200, response.text
        return [json.loads(event) if event != "[DONE]" else event for event in events_of(response.text)]

    def chat_events(self, content: str = "Say hi.", **fields: Any) -> list[Any]:
        return self.events("/v1/chat/completions", messages=[{"role": "user", "content": content}], **fields)


def events_of(text: str) -> Iterator[str]:
    """The data of every server-sent event in ``text``; fails on anything that is not one."""
    assert text.endswith("\n\n")
    for event in text[:-2].split("\n\n"):
        if not event.startswith(":"):
            assert event.startswith("data: ")
            assert "\n" not in event
            yield event.removeprefix("data: ")


def joined(events: list[Any], index: int = 0) -> tuple[str, str | None]:
    """Text and finish reason of one choice of a chat or completions stream."""
    text, reason = "", None
    for event in events[:-1]:
        for choice in event["choices"]:
            if choice["index"] == index:
                text += choice["delta"].get("content", "") if "delta" in choice else choice["text"]
                reason = choice["finish_reason"] or reason
    return text, reason
