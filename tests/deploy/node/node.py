"""The one-node cluster of scripts/kube-node.sh, as the tests see it from its network."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from tests.support.client import Client

Object = dict[str, Any]
#: A start takes 30 s on a quiet machine, minutes on one where everybody starts engines.
PATIENCE: Final = 900.0
MODEL: Final = "smollm2-135m-instruct"
#: Two cores are all there is: pods share them, and must not be scheduled as if each had its own.
SHARED_CPU: Final = {"requests": {"cpu": "100m", "memory": "3Gi"}, "limits": {"memory": "6Gi"}}


def wait_for(seen: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """The first true answer. Fails after ``patience`` seconds."""
    end = time.monotonic() + patience
    while not (found := seen()):
        assert time.monotonic() < end, f"waited {patience:g} s for {what}"
        time.sleep(0.5)
    return found


def say(what: str, **figures: Any) -> None:
    """A figure for people; pytest shows it with ``-s``."""
    print(f"\n{time.strftime('%H:%M:%S')} {what}: {json.dumps(figures)}", flush=True)


@dataclass(frozen=True)
class Node:
    """Its address, and kubectl with its own kubeconfig."""

    ip: str
    tools: Path

    def run(self, tool: str, *arguments: str | Path, stdin: str = "", check: bool = True) -> str:
        """Standard output; raises AssertionError with what the tool said when it fails."""
        done = subprocess.run(
            [self.tools / tool, *arguments], input=stdin, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert not check or done.returncode == 0, f"{tool} {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}"
        return done.stdout

    def kubectl(self, *arguments: str | Path, stdin: str = "", check: bool = True) -> str:
        return self.run("kubectl", *arguments, stdin=stdin, check=check)

    def get(self, namespace: str, *what: str) -> Object:
        found: Object = json.loads(self.kubectl("get", "--namespace", namespace, *what, "--output", "json"))
        return found

    def pods(self, namespace: str, selector: str) -> list[Object]:
        items: list[Object] = self.get(namespace, "pods", "--selector", selector)["items"]
        return items

    def address(self, namespace: str, service: str) -> str:
        address: str = self.get(namespace, "service", service)["spec"]["clusterIP"]
        return address

    def secret(self, namespace: str, name: str, key: str) -> str:
        return base64.b64decode(self.get(namespace, "secret", name)["data"][key]).decode()


def running(pods: Sequence[Object]) -> list[str]:
    """Names of the ready pods that are not going."""
    return sorted(
        pod["metadata"]["name"]
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
        and any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
    )


@dataclass
class Load:
    """Clients that stream one answer after the other: endings by kind. ``kept`` counts those on kept connections."""

    url: str
    key: str
    model: str
    max_tokens: int = 32
    fresh: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    ending: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def body(self) -> Object:
        question = {"role": "user", "content": "Tell me of rivers and canals."}
        return {"model": self.model, "messages": [question], "stream": True, "max_tokens": self.max_tokens}

    async def on_fresh_connections(self) -> None:
        """As a proxy without kept connections, or many callers, would ask."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        client = Client(host, int(port), self.key, timeout=300)
        while not self.ending.is_set():
            try:
                stream = await client.stream("/v1/chat/completions", self.body)
                ending = stream.ending if stream.ending != "error_response" else f"status {stream.status}"
            except OSError as error:
                ending = type(error).__name__
            self.fresh[ending] += 1

    async def on_a_kept_connection(self) -> None:
        """As an SDK asks: one connection for request after request, opened again when the server closed it."""
        headers = {"Authorization": f"Bearer {self.key}"}
        async with httpx.AsyncClient(base_url=self.url, headers=headers, timeout=300, trust_env=False) as client:
            while not self.ending.is_set():
                begun = False
                try:
                    async with client.stream("POST", "/v1/chat/completions", json=self.body) as response:
                        begun = True
                        text = (await response.aread()).decode()
                    whole = text.rstrip().endswith("data: [DONE]")
                    ending = f"status {response.status_code}" if response.is_error else "done" if whole else "cut"
                except httpx.HTTPError as error:
                    ending = "cut" if begun else type(error).__name__
                self.kept[ending] += 1


@asynccontextmanager
async def loaded(load: Load, clients: int = 8) -> AsyncIterator[None]:
    """``clients`` stream all through the block, half of them on kept connections; each ends its last answer."""
    tasks = [
        asyncio.create_task(load.on_a_kept_connection() if number % 2 else load.on_fresh_connections())
        for number in range(clients)
    ]
    try:
        yield
    finally:
        load.ending.set()
        await asyncio.gather(*tasks)


def chat(url: str, key: str, model: str) -> Object:
    """One whole answer."""
    response = httpx.post(
        f"{url}/v1/chat/completions",
        headers={"Authorization": f"Bearer {key}"},
        json={"model": model, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16},
        timeout=300,
        trust_env=False,
    )
    assert response.status_code == 200, response.text
    answer: Object = response.json()
    return answer


def from_environment(tools: Path) -> Node | None:
    """The node that this runs on; None elsewhere."""
    ip = os.environ.get("SLUICE_KUBE_NODE")
    return Node(ip, tools) if ip else None
