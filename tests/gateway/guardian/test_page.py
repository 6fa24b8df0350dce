"""The examples of docs/guardian.md as they stand there: each is taken, and the stream of the second one is cut.

That the embedded model itself is cut so on real vLLM, `tests/conformance/test_guard.py` shows.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from gateway.settings import load
from tests.support.client import Client
from tests.support.gateways import KEY, running
from tests.support.planted import PlantedEngine, Script

PAGE = Path(__file__).parents[3] / "docs" / "guardian.md"
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_example_is_taken(tmp_path: Path, example: str) -> None:
    (tmp_path / "sluice.yaml").write_text(example)
    assert load(tmp_path / "sluice.yaml", {}).model_fields_set & {"guard", "models"}


def test_three_lines_are_three() -> None:
    assert [len(example.strip().splitlines()) for example in EXAMPLES[:2]] == [3, 3]


async def test_the_second_example_cuts_a_stream(tmp_path: Path) -> None:
    said = Script(["The", " capital", " of", " France", " is", " Paris", ".", *[" It is old."] * 80])
    body = {
        "model": "stub",
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "stream": True,
    }
    async with running(PlantedEngine(said), tmp_path, **yaml.safe_load(EXAMPLES[1])) as live:
        answer = await Client("127.0.0.1", live.port, KEY).stream("/v1/chat/completions", body)
        assert answer.status == 200
        assert "paris" not in "".join(answer.events).lower()
        assert '"finish_reason":"content_filter"' in answer.events[-2]
        (account,) = live.engine.accounts.values()
        assert account.ending == "aborted"
