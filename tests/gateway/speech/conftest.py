from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.gateways import Live, running
from tests.support.stub_engine import StubConfig, StubEngine


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    """A gateway whose stub has an ear; sounds may last 20 s."""
    engine = StubEngine(StubConfig(speech_model="ear"))
    async with running(engine, tmp_path, speech={"max_seconds": 20.0, "max_file_bytes": 4 << 20}) as gateway:
        yield gateway
