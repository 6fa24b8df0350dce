"""What the gateway sees of a model while its engine comes and goes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from engine.config import EngineConfig
from engine.resident import ModelSpec, Resident
from engine.types import ModelInfo, ModelState, Phase


def test_what_was_learnt_stays_known_while_the_engine_is_restarted() -> None:
    resident = Resident(ModelSpec(EngineConfig("nowhere", "model")), lambda: None)
    known, lost = ModelInfo("model", 1, 1024, reasoning=True), ModelInfo("model", 1, 0)
    runtime: Any = SimpleNamespace(info=lambda: known, state=lambda: SimpleNamespace(phase=Phase.READY))
    resident.runtime = runtime
    resident.enter(ModelState.READY)
    assert (resident.card.context_length, resident.card.reasoning) == (1024, True)
    runtime.info = lambda: lost
    resident.refresh()
    assert (resident.card.context_length, resident.card.reasoning) == (1024, True)
