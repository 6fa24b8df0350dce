from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.usage.ledger import MemoryLedger
from gateway.usage.life import Life
from gateway.usage.records import Admitted, Settled

CALLS = ("admitted", "dispatched", "first_token", "completed", "cancelled", "failed")
ENDINGS = {"completed": "completed", "cancelled": "cancelled", "failed": "error"}


def life_on(ledger: MemoryLedger) -> Life:
    ticks = itertools.count()
    return Life(ledger, "r", clock=lambda: float(next(ticks)), wall=lambda: 1000.0)


def admit(life: Life) -> None:
    life.admitted(principal="p", route="/v1/completions", model="m", prompt_tokens=7, max_tokens=9, n=2)


def end(life: Life, name: str) -> bool:
    match name:
        case "completed":
            return life.completed(completion_tokens=3, finish_reasons=("stop", "length"))
        case "cancelled":
            return life.cancelled(completion_tokens=2)
        case _:
            return life.failed("engine_unavailable", completion_tokens=1)


def call(life: Life, name: str) -> bool:
    """Whether the call ended the life."""
    if name in ENDINGS:
        return end(life, name)
    {"admitted": lambda: admit(life), "dispatched": life.dispatched, "first_token": life.first_token}[name]()
    return False


def test_a_whole_life_is_two_rows_from_which_every_phase_can_be_read() -> None:
    ledger = MemoryLedger()
    life = life_on(ledger)
    for name in ("admitted", "dispatched", "first_token"):
        call(life, name)
    life.cached_tokens, life.reasoning_tokens = 5, 1
    call(life, "completed")
    assert ledger.entries == [
        Admitted("r", 1001.0, "p", "/v1/completions", "m", 7, 9, 2),
        Settled(
            "r",
            1004.0,
            "completed",
            None,
            7,
            3,
            1000.0,
            1.0,
            2.0,
            3.0,
            4.0,
            ("stop", "length"),
            principal="p",
            route="/v1/completions",
            model="m",
            cached_tokens=5,
            reasoning_tokens=1,
        ),
    ]
    assert (life.ttft(), life.duration(), life.outcome) == (3.0, 4.0, "completed")


def test_time_before_the_object_was_made_counts() -> None:
    ledger = MemoryLedger()
    life = Life(ledger, "r", received_at=5.0, clock=lambda: 8.0, wall=lambda: 1000.0)
    admit(life)
    assert life.cancelled()
    row = ledger.entries[1]
    assert isinstance(row, Settled)
    assert (row.received, row.admitted, row.ended, row.ts) == (997.0, 3.0, 3.0, 1000.0)


@pytest.mark.parametrize("ending", ["cancelled", "failed"])
def test_what_was_never_admitted_leaves_no_row(ending: str) -> None:
    ledger = MemoryLedger()
    life = life_on(ledger)
    assert call(life, ending) is True
    assert ledger.entries == []
    assert life.ended


def test_an_error_keeps_its_code_and_what_was_emitted() -> None:
    ledger = MemoryLedger()
    life = life_on(ledger)
    admit(life)
    life.failed("generation_failed", completion_tokens=4)
    row = ledger.entries[1]
    assert isinstance(row, Settled)
    assert (row.outcome, row.code, row.completion_tokens, row.dispatched) == ("error", "generation_failed", 4, None)


@pytest.mark.parametrize(
    "calls",
    [
        ("admitted", "completed", "cancelled"),
        ("failed", "failed"),
        ("admitted", "admitted"),
        ("cancelled", "admitted"),
        ("completed",),
    ],
)
def test_breaking_the_rules_raises_where_the_ledger_is_strict(calls: tuple[str, ...]) -> None:
    life = life_on(MemoryLedger())
    for name in calls[:-1]:
        call(life, name)
    with pytest.raises(AssertionError, match="r: "):
        call(life, calls[-1])


@settings(deadline=None)
@given(calls=st.lists(st.sampled_from(CALLS), max_size=12))
def test_any_sequence_of_calls_gives_at_most_one_admission_and_one_ending(calls: list[str]) -> None:
    ledger = MemoryLedger(strict=False)
    life = life_on(ledger)
    ended = [call(life, name) for name in calls]
    endings = [name for name in calls if name in ENDINGS]
    assert sum(ended) == min(1, len(endings))
    assert life.outcome == (ENDINGS[endings[0]] if endings else None)

    admitted_first = "admitted" in calls[: calls.index(endings[0])] if endings else "admitted" in calls
    rows = [type(entry) for entry in ledger.entries]
    assert rows == ([Admitted] + ([Settled] if endings else []) if admitted_first else [])
    for row in ledger.entries:
        if isinstance(row, Settled):
            marks = [0.0, row.admitted, row.ended]
            assert marks == sorted(marks)
            assert all(mark is None or mark <= row.ended for mark in (row.dispatched, row.first_token))

    extra_endings = max(0, len(endings) - 1)
    misplaced = calls.count("admitted") - admitted_first
    unaccounted = bool(endings) and endings[0] == "completed" and not admitted_first
    assert len(ledger.violations) == extra_endings + misplaced + unaccounted
