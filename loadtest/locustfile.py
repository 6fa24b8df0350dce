"""Users of the chat endpoint for locust, against any OpenAI-compatible server.

    SLUICE_API_KEY=... locust -f loadtest/locustfile.py --host http://127.0.0.1:8000 --headless -u 16 -r 4 -t 60s

Environment: ``SLUICE_API_KEY`` (required by a server with keys), ``LOADTEST_MODEL`` (default: the first model that the
server lists), ``LOADTEST_MAX_TOKENS`` (default 64). A stream appears in the statistics twice: ``ttft`` is the time to
its first text, the other entry its whole duration. An answer that is not what the protocol promises counts as a
failure: a wrong status, an error event, or a stream that ends without ``[DONE]``.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from typing import Any

from locust import HttpUser, between, task
from locust.exception import StopUser
from requests import RequestException

CHAT = "/v1/chat/completions"
MAX_TOKENS = int(os.environ.get("LOADTEST_MAX_TOKENS", "64"))
QUESTIONS = (
    "What is the capital of France?",
    "Explain in two sentences how a canal lock works.",
    "Name three rivers that flow through more than one country.",
    "Write a short poem about rain on a tin roof.",
    "Why is the sky dark at night?",
)


class BrokenStreamError(Exception):
    """A stream that carried an error or ended early."""


class ChatUser(HttpUser):
    """Talks to one model with a key, and thinks between requests."""

    abstract = True
    wait_time = between(0.5, 2.0)

    def on_start(self) -> None:
        key = os.environ.get("SLUICE_API_KEY")
        if key:
            self.client.headers["Authorization"] = f"Bearer {key}"
        self.model = os.environ.get("LOADTEST_MODEL") or self._first_model()

    def _first_model(self) -> str:
        answer = self.client.get("/v1/models")
        if answer.status_code != 200:
            raise StopUser
        return answer.json()["data"][0]["id"]

    def ask(self, **more: Any) -> dict[str, Any]:
        """A chat request with a random question."""
        question = {"role": "user", "content": random.choice(QUESTIONS)}
        return {"model": self.model, "messages": [question], "max_tokens": MAX_TOKENS, **more}


class StreamingUser(ChatUser):
    """Reads its answers as they are written, as people do."""

    weight = 3

    @task
    def stream(self) -> None:
        sent = time.perf_counter()
        with self.client.post(
            CHAT, json=self.ask(stream=True), stream=True, name=f"{CHAT} (stream)", catch_response=True
        ) as answer:
            if answer.status_code != 200:
                return
            try:
                self._read(answer.iter_lines(), sent)
            except (BrokenStreamError, RequestException) as error:
                answer.failure(str(error))
            # The body was not read when the entry was made: count the time until now.
            answer.request_meta["response_time"] = (time.perf_counter() - sent) * 1000

    def _read(self, lines: Iterator[bytes], sent: float) -> None:
        """Read to ``[DONE]`` and report the first text. Raises :class:`BrokenStreamError`."""
        first = True
        for data in _events(lines):
            if data == b"[DONE]":
                return
            if first and _text(json.loads(data)):
                first = False
                self._report_ttft((time.perf_counter() - sent) * 1000)
        raise BrokenStreamError("the stream ended without [DONE]")

    def _report_ttft(self, milliseconds: float) -> None:
        self.environment.events.request.fire(
            request_type="SSE",
            name="ttft",
            response_time=milliseconds,
            response_length=0,
            exception=None,
            context=self.context(),
        )


class WaitingUser(ChatUser):
    """Waits for whole answers, as programs do."""

    weight = 1

    @task
    def complete(self) -> None:
        with self.client.post(CHAT, json=self.ask(), catch_response=True) as answer:
            if answer.status_code == 200 and not answer.json()["usage"]["completion_tokens"]:
                answer.failure("an answer without a token")


def _events(lines: Iterator[bytes]) -> Iterator[bytes]:
    """The data of every server-sent event; comments and empty lines are left out."""
    for line in lines:
        if line.startswith(b"data: "):
            yield line[6:]


def _text(event: dict[str, Any]) -> str:
    """The text that a chunk brings. Raises :class:`BrokenStreamError` for an error event."""
    if "error" in event:
        raise BrokenStreamError(str(event["error"].get("message")))
    return "".join(choice["delta"].get("content") or "" for choice in event["choices"])
