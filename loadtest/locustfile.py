"""Users of an OpenAI-compatible server for locust, and what makes a run fail.

    SLUICE_API_KEY=... locust -f loadtest/locustfile.py --host http://127.0.0.1:8000 --headless -u 16 -r 4 -t 60s

`python -m loadtest.profiles` runs it in the ways that matter (short, long, ramp, spike, soak, ...). Environment:
``SLUICE_API_KEY`` (required by a server with keys), ``LOADTEST_MODEL`` (default: the first that the server lists),
``LOADTEST_MAX_TOKENS`` (default 64), ``LOADTEST_ADAPTERS`` (names between commas), ``LOADTEST_ABUSER_KEY`` (a key with
tight limits), ``LOADTEST_EMBEDDING_MODEL``, ``LOADTEST_STAGES`` and ``LOADTEST_THRESHOLDS`` (JSON, see profiles.py).
Users other than the first two take part only when their class is named on the command line.

A stream appears in the statistics three times: ``ttft`` is the time to its first text, ``inter-token`` the mean time
between its later pieces of text, the other entry its whole duration. An answer that is not what the protocol promises
counts as a failure: a wrong status, an error event, or a stream that ends without ``[DONE]``.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

from locust import HttpUser, LoadTestShape, between, constant, events, task
from locust.exception import StopUser
from requests import RequestException

CHAT = "/v1/chat/completions"
THINK_SECONDS = float(os.environ.get("LOADTEST_THINK_SECONDS", "1"))
MAX_TOKENS = int(os.environ.get("LOADTEST_MAX_TOKENS", "64"))
QUESTIONS = (
    "What is the capital of France?",
    "Explain in two sentences how a canal lock works.",
    "Name three rivers that flow through more than one country.",
    "Write a short poem about rain on a tin roof.",
    "Why is the sky dark at night?",
)


WORDS = ("river", "canal", "lock", "bridge", "harbour", "weir", "sluice", "mill", "delta", "spring")
#: The exit code of a run that missed a threshold.
MISSED = 4


class BrokenStreamError(Exception):
    """A stream that carried an error or ended early."""


class ChatUser(HttpUser):
    """Talks to one model with a key, and thinks between requests."""

    abstract = True
    wait_time = between(THINK_SECONDS / 2, THINK_SECONDS * 2)

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
        """Read to ``[DONE]`` and report the pace. Raises :class:`BrokenStreamError`."""
        first = last = 0.0
        pieces = 0
        for data in _events(lines):
            if data == b"[DONE]":
                if pieces > 1:
                    self._report("inter-token", (last - first) / (pieces - 1))
                return
            if _text(json.loads(data)):
                last = time.perf_counter()
                pieces += 1
                if pieces == 1:
                    first = last
                    self._report("ttft", first - sent)
        raise BrokenStreamError("the stream ended without [DONE]")

    def _report(self, name: str, seconds: float) -> None:
        self.environment.events.request.fire(
            request_type="SSE",
            name=name,
            response_time=seconds * 1000,
            response_length=0,
            exception=None,
            context=self.context(),
        )


class LongChatUser(StreamingUser):
    """Comes with a long document: prefill is what it costs."""

    abstract = "LongChatUser" not in sys.argv
    weight = 1

    def ask(self, **more: Any) -> dict[str, Any]:
        words = int(os.environ.get("LOADTEST_LONG_WORDS", "400"))
        document = " ".join(f"{random.choice(WORDS)}{number}" for number in range(words // 2))
        question = {"role": "user", "content": f"Summarise:\n{document}"}
        return {"model": self.model, "messages": [question], "max_tokens": MAX_TOKENS, **more}


class AdapterUser(StreamingUser):
    """Asks another adapter each time, the first ones more often, as popularity goes."""

    abstract = "AdapterUser" not in sys.argv
    weight = 1

    def ask(self, **more: Any) -> dict[str, Any]:
        names = os.environ["LOADTEST_ADAPTERS"].split(",")
        shares = [1 / rank for rank in range(1, len(names) + 1)]
        return super().ask(**more) | {"model": random.choices(names, shares)[0]}


class WaitingUser(ChatUser):
    """Waits for whole answers, as programs do."""

    weight = 1

    @task
    def complete(self) -> None:
        with self.client.post(CHAT, json=self.ask(), catch_response=True) as answer:
            if answer.status_code == 200 and not answer.json()["usage"]["completion_tokens"]:
                answer.failure("an answer without a token")


class EmbeddingUser(ChatUser):
    """Embeds a few texts at a time, as an indexer does."""

    abstract = "EmbeddingUser" not in sys.argv
    weight = 1

    @task
    def embed(self) -> None:
        body = {
            "model": os.environ.get("LOADTEST_EMBEDDING_MODEL", self.model),
            "input": random.sample(QUESTIONS, 3),
        }
        with self.client.post("/v1/embeddings", json=body, catch_response=True) as answer:
            if answer.status_code == 200 and len(answer.json()["data"]) != 3:
                answer.failure("not one vector a text")


class AbusiveUser(ChatUser):
    """Never waits, and its key has tight limits: to be refused is right, to break anything is not."""

    abstract = "AbusiveUser" not in sys.argv
    weight = 1
    wait_time = constant(0)

    def on_start(self) -> None:
        super().on_start()
        self.client.headers["Authorization"] = f"Bearer {os.environ['LOADTEST_ABUSER_KEY']}"

    @task
    def flood(self) -> None:
        with self.client.post(CHAT, json=self.ask(), name=f"{CHAT} (abusive)", catch_response=True) as answer:
            if answer.status_code == 429 and answer.headers.get("Retry-After"):
                answer.success()


if os.environ.get("LOADTEST_STAGES"):

    class Stages(LoadTestShape):
        """``[[seconds, users], ...]``, one after the other; each number of users is reached at once."""

        use_common_options = False
        stages = json.loads(os.environ["LOADTEST_STAGES"])

        def tick(self) -> tuple[int, float] | None:
            past = self.get_run_time()
            for seconds, users in self.stages:
                if past < seconds:
                    return users, 1000.0
                past -= seconds
            return None


@events.quitting.add_listener
def judge(environment: Any, **_more: Any) -> None:
    """Fail the run, by its exit code, if it missed a threshold, and say which."""
    missed = list(_missed(environment.stats, json.loads(os.environ.get("LOADTEST_THRESHOLDS", "{}"))))
    for line in missed:
        print(f"threshold missed: {line}", file=sys.stderr)
    if missed:
        environment.process_exit_code = MISSED


def _missed(stats: Any, thresholds: dict[str, float]) -> Iterator[str]:
    for name, bound in thresholds.items():
        if name == "failures":
            value = stats.total.fail_ratio if stats.total.num_requests else 1.0
        else:
            entry, _, percentile = name.rpartition(" p")
            value = _percentile(stats, entry, float(percentile) / 100)
        if value > bound:
            yield f"{name} is {value:.4g}, allowed is {bound:.4g}"


def _percentile(stats: Any, name: str, share: float) -> float:
    """In milliseconds; infinite where nothing was measured."""
    for (entry, _method), measured in stats.entries.items():
        if entry == name and measured.num_requests:
            return float(measured.get_response_time_percentile(share))
    return math.inf


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
