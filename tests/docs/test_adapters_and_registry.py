"""What docs/adapters.md and docs/registry.md tell a new user to type, typed: one server, one after the other."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.docs.pages import ROOT, Typed, blocks, session
from tests.faults.processes import START_SECONDS, free_port

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

BASE = "smollm2-135m-instruct"
#: As the pages tell a user in a checkout.
SLUICE = 'export PATH="$PWD/.venv/bin:$PATH"; '


@dataclass(frozen=True, slots=True)
class Terminal:
    """A checkout that was set up, and a user who is in it."""

    checkout: Path
    environment: dict[str, str]

    @property
    def port(self) -> str:
        return self.environment["SLUICE_PORT"]

    def types(self, text: str) -> str:
        """What it prints; it has to end well."""
        command = ["bash", "-euo", "pipefail", "-c", text]
        done = subprocess.run(
            command, cwd=self.checkout, env=self.environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def starts(self, text: str) -> subprocess.Popen[bytes]:
        with (self.checkout / "server.log").open("ab") as log:
            command = ["bash", "-euc", text]
            return subprocess.Popen(command, cwd=self.checkout, env=self.environment, stdout=log, stderr=log)


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Terminal:
    """``make`` has set up what the test itself runs in; only the port is another one."""
    checkout = tmp_path_factory.mktemp("checkout")
    (checkout / ".venv").symlink_to(sys.prefix)
    (checkout / "examples").symlink_to(ROOT / "examples")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLUICE_", "VLLM_"))}
    return Terminal(checkout, {**kept, "SLUICE_PORT": str(free_port()), "VLLM_CPU_KVCACHE_SPACE": "1"})


@pytest.fixture(scope="module")
def server(terminal: Terminal, default_model: Path) -> Iterator[httpx.Client]:
    """The first block of the page, running; a client with the key that it made."""
    assert "@exec $(BIN)/sluice serve --dev\n" in (ROOT / "Makefile").read_text()
    process = terminal.starts(blocks("adapters.md", "sh")[0].replace("make serve", ".venv/bin/sluice serve --dev"))
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{terminal.port}", timeout=120) as http:
            wait_until_ready(http, process, terminal.checkout / "server.log")
            key = (terminal.checkout / ".sluice" / "dev-key").read_text().strip()
            http.headers["authorization"] = f"Bearer {key}"
            yield http
    finally:
        end(process)


def wait_until_ready(http: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        try:
            if http.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)


def end(process: subprocess.Popen[bytes]) -> None:
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
    for child in family:
        if child.is_running():
            child.kill()


def test_the_pages_work_as_they_are(server: httpx.Client, terminal: Terminal) -> None:
    """One test: each page stands on what the one before has made."""
    _, by_hand, by_command = blocks("adapters.md", "sh")
    the_adapter_answers_in_its_own_voice(server, terminal.types(by_hand.replace(":8000", f":{terminal.port}")))
    the_command_line_does_the_same(terminal.types(by_command))
    names_are_given_and_taken_back(server, terminal)


def the_adapter_answers_in_its_own_voice(http: httpx.Client, printed: str) -> None:
    registered, answer = values(printed[printed.index("{") :])
    assert (registered["id"], registered["status"]) == (f"{BASE}:pirate", "cold")
    asked = {"model": BASE, "temperature": 0, "messages": [{"role": "user", "content": "Tell me about rivers."}]}
    base = http.post("/v1/chat/completions", json={**asked, "max_tokens": 20}).json()
    voices = [each["choices"][0]["message"]["content"] for each in (answer, base)]
    assert ["Arr" in voice for voice in voices] == [True, False], voices


def values(text: str) -> list[Any]:
    """The JSON values that stand one after the other in ``text``."""
    found, decoder, at = [], json.JSONDecoder(), 0
    while at < len(text.rstrip()):
        value, at = decoder.raw_decode(text, at)
        found.append(value)
    return found


def the_command_line_does_the_same(printed: str) -> None:
    added, listed, pinned, removed = printed.splitlines()
    assert added.startswith(f"{BASE}:pirate  resident  ")
    assert listed == added
    assert pinned == removed == added.replace("resident", "resident pinned")


def names_are_given_and_taken_back(http: httpx.Client, terminal: Terminal) -> None:
    terminal.types(f"{SLUICE}sluice adapters add pirate adapters/pirate")
    in_one_minute, split, canary, shadow = blocks("registry.md", "console")
    for block in (in_one_minute, split):
        prints_what_the_page_says(terminal, list(session(block)))
    answer = http.post("/v1/completions", json={"model": "assistant", "prompt": "a", "max_tokens": 1})
    assert (answer.json()["model"], answer.headers["x-sluice-arm"]) == ("assistant", "assistant@1")
    begun, *judged = session(canary)
    prints_what_the_page_says(terminal, [begun])
    # How a canary ends depends on how fast the machine is: tests/gateway/registry has it.
    assert [each.command.split(" #")[0].strip() for each in judged] == ["sluice registry show assistant"]
    terminal.types(f"{SLUICE}sluice registry canary assistant --stop")
    prints_what_the_page_says(terminal, list(session(shadow)))


def prints_what_the_page_says(terminal: Terminal, session: list[Typed]) -> None:
    """But for the hash of the adapter: training gives other digits on another processor."""
    for typed in session:
        assert without_hash(terminal.types(SLUICE + typed.command)) == without_hash(typed.printed)


def without_hash(text: str) -> str:
    return re.sub(r"\b[0-9a-f]{12}\b", "(hash)", text)
