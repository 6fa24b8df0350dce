"""Clients unchanged: programs as applications write them, each in an environment of its own, over the real engine."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.gateways import KEY, Threaded

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(420)]

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
INSTALL_SECONDS = 240
RUN_SECONDS = 150
MODEL = "smollm2-135m-instruct"


def prepared(client: str) -> str:
    """What ``scripts/clients.sh`` made for ``client``; skips where it cannot be installed."""
    made = subprocess.run(
        [ROOT / "scripts" / "clients.sh", client], capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
    )
    if made.returncode:
        pytest.skip(f"{client} cannot be installed here: {made.stderr.strip()[-300:]}")
    return made.stdout.strip()


def run(command: list[str], real: Threaded, cwd: str | None = None) -> None:
    live = real.live
    done = subprocess.run(
        [*command, live.url, KEY, MODEL], capture_output=True, text=True, timeout=RUN_SECONDS, check=False, cwd=cwd
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"ok": True}


@pytest.mark.parametrize(
    ("client", "program"),
    [
        ("langchain", "langchain_tools.py"),
        ("pydantic-ai", "pydantic_agent.py"),
        ("litellm", "litellm_client.py"),
    ],
)
def test_python_clients(real: Threaded, client: str, program: str) -> None:
    run([prepared(client), str(PROGRAMS / program)], real)


def test_openai_for_node(real: Threaded, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node on this machine")
    folder = prepared("node")
    # Node looks for packages beside the program.
    program = shutil.copy(PROGRAMS / "openai_node.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(Path(folder) / "node_modules")
    run([node, str(program)], real, cwd=str(tmp_path))


def test_nothing_is_left_running(real: Threaded) -> None:
    """The clients' streams were read to their ends, and each was accounted for once."""

    async def rest() -> int:
        await asyncio.sleep(0.2)
        return int(real.live.metric("sluice_requests_in_flight"))

    assert real.run(rest()) == 0
