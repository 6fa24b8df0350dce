from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from engine.types import TransferFacts
from tests.support import gateways
from tests.support.gateways import Live, running
from tests.support.stub_engine import Faults, StubConfig, StubEngine

FACTS = TransferFacts("KvFiles", "abc", "bfloat16/auto", 16)
SECRET = "given to all servers of the deployment"
Start = Callable[..., AbstractAsyncContextManager[Live]]


def engine(facts: TransferFacts | None = FACTS, faults: Faults | None = None, **config: Any) -> StubEngine:
    made = StubEngine(StubConfig(**config), faults)
    made.transfer = facts
    return made


async def eventually(check: Callable[[], bool]) -> None:
    """Wait for what needs no fault to come to pass, however busy the machine is."""
    await gateways.eventually(check, 60.0)


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a gateway in a role: ``start("prefill", engine)``, ``start("decode", engine, peers=[...])``."""
    count = iter(range(100))

    def begin(role: str, stub: StubEngine, peers: list[str] | None = None, **flags: Any) -> Any:
        own = {"role": role, "min_prompt_tokens": 20, "poll_interval": 0.02, "max_poll_interval": 0.1, "timeout": 20.0}
        own |= ({"peers": peers} if peers else {}) | flags.pop("disaggregation", {})
        given: dict[str, Any] = {
            "secret": SECRET,
            "engine": {"kv_transfer_config": {"kv_connector": "Stub", "kv_role": "kv_both"}},
            "disaggregation": own,
        }
        return running(stub, tmp_path / f"state-{next(count)}", **(given | flags))

    return begin
