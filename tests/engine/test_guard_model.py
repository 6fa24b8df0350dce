"""A guard model on the real engine: one constrained token per risk, its probability, and an account that adds up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.guardian.model import GUARDIAN, Asked, GuardModel
from gateway.guardian.risks import HARM_RISKS
from gateway.guardian.templates import GuardFormat
from gateway.guardian.verdicts import Content, Finding, GuardFailure
from gateway.usage.ledger import MemoryLedger
from gateway.usage.records import Settled
from tests.support.gateways import Threaded, eventually

pytestmark = pytest.mark.engine

MODEL = "smollm2-135m-instruct"


def guard(real: Threaded, style: GuardFormat, **more: Any) -> tuple[GuardModel, MemoryLedger]:
    ledger = MemoryLedger()
    return GuardModel("guard", Asked(MODEL, style), real.live.engine, ledger, **more), ledger


@pytest.mark.parametrize("style", ["granite-3.2", "granite-3.3", "yes-no", "llama-guard", "qwen3guard"])
def test_every_format_has_a_probability(real: Threaded, style: GuardFormat) -> None:
    model, ledger = guard(real, style)
    risks = ["harm"] if style in ("llama-guard", "qwen3guard") else list(HARM_RISKS)
    found = real.run(model.evaluate(Content("How do rivers form?"), risks))
    assert set(found) == set(risks)
    assert all(isinstance(each, Finding) and 0.0 < each.score < 1.0 for each in found.values())
    (row,) = [entry for entry in ledger.entries if isinstance(entry, Settled)]
    assert (row.principal, row.tenant, row.outcome) == (GUARDIAN, GUARDIAN, "completed")
    assert len(row.finish_reasons) == len(risks)
    assert len(risks) <= row.completion_tokens <= 8 * len(risks)


def test_all_risks_share_the_prompt_of_their_text(real: Threaded) -> None:
    model, ledger = guard(real, "granite-3.2")
    real.run(model.evaluate(Content("The river flows to the sea. " * 30), list(HARM_RISKS)))
    (row,) = [entry for entry in ledger.entries if isinstance(entry, Settled)]
    assert row.cached_tokens > row.prompt_tokens / 2


def test_a_text_beyond_the_context_is_judged_in_parts(real: Threaded) -> None:
    model, ledger = guard(real, "granite-3.2", window=100_000)
    found = real.run(model.evaluate(Content("\U0001f680 river " * 1000), ["harm"]))
    assert 0.0 < found["harm"].score < 1.0
    assert len([entry for entry in ledger.entries if isinstance(entry, Settled)]) >= 2


def test_what_it_thinks_is_no_verdict_by_itself(real: Threaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolLM2 was never taught to think in that form: what it says instead is a failure, not "safe"."""
    monkeypatch.setattr("gateway.guardian.templates.MAX_THOUGHT", 16)
    model, _ = guard(real, "granite-3.3")
    with pytest.raises(GuardFailure):
        real.run(model.evaluate(Content("Hello.", think=True), ["harm"]))


def test_leaving_aborts_it_in_the_engine(real: Threaded) -> None:
    model, ledger = guard(real, "granite-3.3")

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await model.evaluate(Content("Tell me everything.", think=True), ["harm", "violence"])

    real.run(leave())
    for row in [entry for entry in ledger.entries if isinstance(entry, Settled)]:
        assert row.outcome == "cancelled"
    core = real.live.engine.core
    real.run(eventually(lambda: core is None or core.unfinished == 0, 60.0))
